//! What `KubeVirt` makes of VMIs: their launcher pods. One table for the real one and for the stand-in.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::quantity;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::vmis;
use serde_json::{Value, json};

use crate::variants::{put, vmi};

const SOON: Duration = Duration::from_secs(60);

/// A VMI that differs from [`vmi`] at some places of its spec, and what its launcher's compute container requests.
struct Case {
    name: &'static str,
    changes: Vec<(&'static str, Value)>,
    requests: Value,
}

fn cases() -> Vec<Case> {
    let requests = |cpu: &str, memory: u64| json!({"cpu": cpu, "memory": memory, "ephemeral-storage": "50M"});
    let case = |name, changes, requests| Case {
        name,
        changes,
        requests,
    };
    let size = |cores: u32, memory: &'static str| {
        vec![
            ("/domain/cpu/cores", json!(cores)),
            ("/domain/memory", json!({"guest": memory, "maxGuest": memory})),
            (
                "/domain/resources/requests",
                json!({"cpu": cores.to_string(), "memory": memory}),
            ),
        ]
    };
    let nowhere = json!({"example.com/pool": "none"});
    let tolerations = json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]);
    vec![
        case("small", Vec::new(), requests("100m", 516_423_681)),
        case("medium", size(2, "1Gi"), requests("2", 1_331_691_520)),
        case("large", size(8, "16Gi"), requests("8", 17_519_607_809)),
        case("odd", size(3, "1500Mi"), requests("3", 1_840_177_152)),
        case(
            "disk",
            vec![("/domain/firmware/kernelBoot", Value::Null)],
            requests("100m", 516_423_681),
        ),
        case(
            "quiet",
            vec![("/domain/devices/logSerialConsole", json!(false))],
            requests("100m", 516_423_681),
        ),
        case(
            "bridge",
            vec![(
                "/domain/devices/interfaces/0",
                json!({"name": "default", "bridge": {}}),
            )],
            requests("100m", 516_423_681),
        ),
        case(
            "pool",
            vec![("/nodeSelector", nowhere), ("/tolerations", tolerations)],
            requests("100m", 516_423_681),
        ),
        case(
            "grace",
            vec![("/terminationGracePeriodSeconds", json!(5))],
            requests("100m", 516_423_681),
        ),
    ]
}

/// What of a launcher our programs, their guards or their docs rely on, in one object.
fn facts(vmi: &DynamicObject, launcher: &Pod) -> Value {
    let spec = launcher.spec.as_ref().unwrap();
    let compute = spec
        .containers
        .iter()
        .find(|container| container.name == "compute")
        .unwrap();
    let requests = compute
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
        .unwrap();
    // The same amount may be written in several ways.
    let memory = quantity::units(&requests["memory"]).unwrap();
    let requests =
        json!({"cpu": requests["cpu"], "memory": memory, "ephemeral-storage": requests["ephemeral-storage"]});
    let owner = &launcher.owner_references()[0];
    let selector = spec.node_selector.clone().unwrap_or_default();
    json!({
        "requests": requests,
        "labels": {
            "kubevirt.io": launcher.labels().get("kubevirt.io"),
            "of its VMI": launcher.labels().get("kubevirt.io/created-by") == vmi.uid().as_ref(),
            "the VMI's own": launcher.labels().get("example.com/own"),
        },
        "annotations": {"kubevirt.io/domain": launcher.annotations().get("kubevirt.io/domain")},
        "owner": [owner.kind, owner.name, owner.controller, owner.block_owner_deletion],
        "named after it": launcher.name_any().starts_with(&format!("virt-launcher-{}-", vmi.name_any())),
        "hostname": spec.hostname,
        "restarts": spec.restart_policy,
        "has a token": spec.automount_service_account_token,
        "links to Services": spec.enable_service_links,
        "grace": spec.termination_grace_period_seconds,
        "schedulable hosts": selector.get("kubevirt.io/schedulable"),
        "pool": selector.get("example.com/pool"),
        "tolerates": spec.tolerations.iter().flatten().any(|toleration| toleration.key.as_deref() == Some("k")),
    })
}

/// Creates the VMIs, which go nowhere, and deletes them again; the facts of each one's launcher, and those that should be.
pub async fn launchers(admin: &Client, namespace: &str) -> Vec<(Value, Value)> {
    let mut found = Vec::new();
    for case in cases() {
        let mut object = vmi(case.name, "localhost/none:1");
        object["metadata"]["labels"] = json!({"example.com/own": "yes"});
        object["spec"]["nodeSelector"] = json!({"example.com/pool": "nowhere"});
        for (at, value) in case.changes {
            put(&mut object["spec"], at, value);
        }
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let all = vmis(admin);
        let vmi = all.create(&PostParams::default(), &object).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
        let own = ListParams::default().labels(&format!("kubevirt.io/created-by={}", vmi.uid().unwrap()));
        let launcher = eventually("a launcher", SOON, || async {
            Ok(pods.list(&own).await?.items.pop())
        });
        let facts = facts(&vmi, &launcher.await.unwrap());
        let wanted = wanted(case.name, &case.requests);
        all.delete(case.name, &DeleteParams::default()).await.unwrap();
        found.push((facts, wanted));
    }
    found
}

fn wanted(name: &str, requests: &Value) -> Value {
    json!({
        "requests": requests,
        "labels": {"kubevirt.io": "virt-launcher", "of its VMI": true, "the VMI's own": "yes"},
        "annotations": {"kubevirt.io/domain": name},
        "owner": ["VirtualMachineInstance", name, true, true],
        "named after it": true,
        "hostname": name,
        "restarts": "Never",
        "has a token": false,
        "links to Services": false,
        "grace": if name == "grace" { 35 } else { 60 },
        "schedulable hosts": "true",
        "pool": if name == "pool" { "none" } else { "nowhere" },
        "tolerates": name == "pool",
    })
}
