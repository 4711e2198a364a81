//! Each shape of a pod's wishes: it runs in its place, or waits without a VM.

use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::{self, node};
use maroonedpods_e2e::harness::fixtures::{marooned_with, ordinary};
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::tenant::{HOSTS, Tenant, ZONE};
use serde_json::json;

use super::{HOSTNAME, near, required, spread, term};

pub async fn each_shape_runs_in_its_place(tenant: &Tenant<'_>) {
    // An ordinary pod in zone-b, for others to be near to or away from.
    let mut target = ordinary("target");
    target.labels_mut().insert("app".to_owned(), "target".to_owned());
    target.spec.as_mut().unwrap().node_selector = Some([(ZONE.to_owned(), "zone-b".to_owned())].into());
    tenant.creates(&target).await.unwrap();
    tenant.sees_running("target").await.unwrap();
    let not_b = [
        term(ZONE, "NotIn", &["zone-b"]),
        term(HOSTNAME, "NotIn", &["host-1"]),
    ];
    let mut neither = not_b[0].clone();
    neither["matchExpressions"]
        .as_array_mut()
        .unwrap()
        .extend(not_b[1]["matchExpressions"].as_array().unwrap().clone());
    let any = ["host-1", "host-2", "host-3"];
    let shapes = [
        ("zone", json!({"nodeSelector": {ZONE: "zone-b"}}), &any[1..2]),
        (
            "zones",
            required(&json!([term(ZONE, "In", &["zone-a", "zone-c"])])),
            &["host-1", "host-3"],
        ),
        ("neither", required(&json!([neither])), &any[2..]),
        ("by-label", json!({"nodeSelector": {"disk": "fast"}}), &any[2..]),
        (
            "second-term",
            required(&json!([
                term("gpu", "Exists", &[]),
                term(ZONE, "In", &["zone-a"])
            ])),
            &any[..1],
        ),
        (
            "promised",
            json!({"nodeSelector": {"pool": "vms", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}}),
            &any,
        ),
        ("near", near("podAffinity", "target", ZONE), &any[1..2]),
        ("near-host", near("podAffinity", "target", HOSTNAME), &any[1..2]),
        (
            "away",
            near("podAntiAffinity", "target", ZONE),
            &["host-1", "host-3"],
        ),
        ("first", near("podAffinity", "first", HOSTNAME), &any),
        ("over-hosts", spread(HOSTNAME, "over-hosts"), &any),
        ("over-disks", spread("disk", "over-disks"), &any),
        (
            "sysctl",
            json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "4096"}]}}),
            &any,
        ),
    ];
    for (name, spec, _) in &shapes {
        tenant.creates(&marooned_with(name, spec)).await.unwrap();
    }
    for (name, _, hosts) in &shapes {
        let pod = tenant.sees_running(name).await.unwrap();
        assert_eq!(node(&pod), names::node_name(&pod.uid().unwrap().into()), "{name}");
        let host = tenant.host_of(&pod).await.unwrap();
        assert!(hosts.contains(&host.as_str()), "{name} is on {host}");
        let labels = tenant.node_of(&pod).await.unwrap().metadata.labels.unwrap();
        let zone = HOSTS.iter().find(|(name, _)| *name == host).unwrap().1;
        assert_eq!(labels[ZONE], zone, "{name}");
        assert_eq!(labels["pool"], "vms", "{name}");
        assert_eq!(
            labels.contains_key("disk"),
            ["by-label", "over-disks"].contains(name),
            "{name}: only what the pod asks for"
        );
        assert!(!labels.contains_key(HOSTNAME), "{name}");
    }
    for (name, ..) in &shapes {
        tenant.deletes(name).await.unwrap();
    }
    tenant.deletes("target").await.unwrap();
}

pub async fn each_shape_that_cannot_run_waits_without_a_vm(tenant: &Tenant<'_>) {
    let limits = |resource: &str| json!({"containers": [{"name": "app", "image": "i", "resources": {"limits": {resource: "1"}}}]});
    let shapes = [
        ("selector", json!({"nodeSelector": {"gpu": "a100"}}), "gpu=a100"),
        (
            "arch",
            json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}),
            "kubernetes.io/arch",
        ),
        ("affinity", required(&json!([term("rack", "In", &["1"])])), "rack"),
        ("spread", spread("rack", "spread"), "placement.hostLabels"),
        (
            "apart",
            near("podAntiAffinity", "apart", "rack"),
            "placement.hostLabels",
        ),
        (
            "device",
            limits("example.test/accel"),
            "resource/example.test/accel",
        ),
        (
            "csi",
            json!({"volumes": [{"name": "d", "csi": {"driver": "secrets.example.test", "readOnly": true}}]}),
            "csi/secrets.example.test",
        ),
        (
            "iscsi",
            json!({"volumes": [{"name": "d", "iscsi": {"targetPortal": "192.0.2.1", "iqn": "iqn.2026-11.test:d", "lun": 0}}]}),
            "volume/iscsi",
        ),
        (
            "sysctls",
            json!({"securityContext": {"sysctls": [{"name": "vm.swappiness", "value": "0"}]}}),
            "sysctl/vm.swappiness",
        ),
        (
            "armor",
            json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
            "apparmor",
        ),
        ("users", json!({"hostUsers": false}), "user-namespaces"),
        ("windows", json!({"os": {"name": "windows"}}), "os/windows"),
        (
            "claims",
            json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "none"}],
            "containers": [{"name": "app", "image": "i"}]}),
            "resource-claims",
        ),
    ];
    for (name, spec, _) in &shapes {
        tenant.creates(&marooned_with(name, spec)).await.unwrap();
    }
    for (name, _, says) in &shapes {
        let waits = tenant.sees_reason(name, "Unplaceable").await.unwrap();
        let message = read::report(&waits).1;
        assert!(message.contains(says), "{name}: {message}");
        // `kubectl describe` shows this, and no condition's message.
        let about = ListParams::default().fields(&format!("involvedObject.name={name},reason=Unplaceable"));
        let events: Api<Event> = tenant.api();
        let told = eventually("the event", SOON, || async {
            Ok(events.list(&about).await?.items.pop())
        });
        assert_eq!(told.await.unwrap().message, Some(message), "{name}");
    }
    for record in tenant.records().await.unwrap() {
        let owner = &record.spec.pod_ref.name;
        assert!(
            shapes.iter().all(|(name, ..)| name != owner),
            "a record was made for {owner}"
        );
    }
    for (name, ..) in &shapes {
        tenant.deletes(name).await.unwrap();
    }
}
