//! The fake KubeVirt and its guests on a real control plane: do they behave as was measured on the real ones?
//! The test does the reconciler's part by hand.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures)]

mod by_hand;
#[path = "../kubevirt/cases.rs"]
mod cases;
#[path = "../kubevirt/launchers.rs"]
mod launchers;
#[path = "../kubevirt/lives.rs"]
mod lives;
#[path = "../kubevirt/story.rs"]
mod story;
#[path = "../kubevirt/variants.rs"]
mod variants;

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually, gone, refused, rejects};
use maroonedpods_e2e::api::read::vmis;
use maroonedpods_e2e::fake_kubevirt::{GuestEvent, QUICK_TEARDOWN};
use serde_json::{Value, json};
use uuid::Uuid;

use by_hand::{MaroonedPod, SOON, TestEnv, from};
use launchers::launchers;
use lives::lived;
use variants::answers;

/// Several VMs at a time would take each other's certificate requests: one test, one scenario after the other.
#[tokio::test(flavor = "multi_thread")]
async fn vms_live_and_die_as_kubevirts_do() {
    let env = TestEnv::new().await;
    virt_api_judges_as_the_real_one(&env).await;
    launchers_are_as_the_real_ones(&env).await;
    a_vm_runs_its_pod(&env).await;
    vms_live_as_the_real_ones(&env).await;
    a_script_is_followed(&env).await;
    ordinary_pods_run(&env).await;
    kubevirts_parts_spoke_as_themselves(&env);
    no_part_may_do_more_than_kubevirts(&env).await;
    env.control_plane.stop().await.unwrap();
}

/// What KubeVirt 1.9 gives none of its parts, or another one (its `pkg/virt-operator/resource/generate/rbac`).
async fn no_part_may_do_more_than_kubevirts(env: &TestEnv) {
    let part = async |name: &str| {
        let identity = env.control_plane.service_account("kubevirt", name).await;
        identity.unwrap().client
    };
    let (api, controller, handler) = (
        part("kubevirt-apiserver").await,
        part("kubevirt-controller").await,
        part("kubevirt-handler").await,
    );
    let secrets = |client: &Client| Api::<Secret>::namespaced(client.clone(), names::VM_NAMESPACE);
    for client in [&controller, &handler] {
        let said = refused(secrets(client).get("seed").await).unwrap();
        assert!(said.contains("cannot get resource \"secrets\""), "{said}");
    }
    let (params, change) = (PatchParams::default(), Patch::Merge(json!({"spec": {}})));
    let said = refused(vmis(&handler).patch("vm", &params, &change).await).unwrap();
    assert!(said.contains("cannot patch resource"), "{said}");
    let pods: Api<Pod> = Api::namespaced(api, names::VM_NAMESPACE);
    let launcher =
        from(json!({"metadata": {"name": "l"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}));
    let said = rejects(&pods, &launcher).await.unwrap();
    assert!(said.contains("cannot create resource \"pods\""), "{said}");
}

/// The stand-in accepts and refuses what the real one does, in words of its own.
async fn virt_api_judges_as_the_real_one(env: &TestEnv) {
    for answer in answers(&env.admin, names::VM_NAMESPACE).await {
        let said = answer.said;
        assert_eq!(
            said.is_some(),
            answer.wanted.is_some(),
            "{}: {said:?}",
            answer.what
        );
    }
}

async fn launchers_are_as_the_real_ones(env: &TestEnv) {
    for (found, wanted) in launchers(&env.admin, names::VM_NAMESPACE).await {
        assert_eq!(found, wanted);
    }
}

async fn vms_live_as_the_real_ones(env: &TestEnv) {
    for (found, wanted) in lived(env).await {
        assert_eq!(found, wanted);
    }
}

async fn a_vm_runs_its_pod(env: &TestEnv) {
    let marooned = env.launch_ready(&json!({"reuseToken": true})).await;
    let node: Node = Api::all(env.admin.clone()).get(&marooned.name).await.unwrap();
    let status = node.status.unwrap();
    assert_eq!(
        status.node_info.unwrap().system_uuid,
        Uuid::new_v5(&Uuid::NAMESPACE_OID, marooned.name.as_bytes()).to_string()
    );
    let addresses = status.addresses.unwrap();
    env.logs(&marooned, GuestEvent::ServingCertificate).await;

    let api = vmis(&env.admin);
    let (params, lie) = (
        PatchParams::default(),
        Patch::Merge(json!({"status": {"phase": "Failed"}})),
    );
    let taken = api.patch(&marooned.name, &params, &lie).await.unwrap();
    assert_eq!(
        taken.data["status"]["phase"], "Running",
        "a stranger's status is dropped in silence"
    );
    let no_such = api.patch_status(&marooned.name, &params, &lie).await.unwrap_err();
    assert!(
        matches!(&no_such, kube::Error::Api(status) if status.code == 404),
        "{no_such}"
    );
    assert_eq!(
        launcher_requests(env, &marooned).await,
        json!(
            // What virt-controller 1.9 asks for: 1 GiB, and 220 + 8 + 8 + 32 MiB and page tables (2097152 bytes); 50 MB.
            {"cpu": "1", "memory": "1356857344", "ephemeral-storage": "50M"}
        )
    );
    let frozen = Patch::Merge(json!({"spec": {"domain": {"cpu": {"cores": 4}}}}));
    let said = refused(api.patch(&marooned.name, &PatchParams::default(), &frozen).await).unwrap();
    assert!(said.contains("update of VMI object is restricted"), "{said}");
    let listed = |vmi: &DynamicObject| {
        vmi.data["status"]["interfaces"]
            .as_array()
            .is_some_and(|i| i.len() == 2)
    };
    let vmi = becomes(&api, &marooned.name, "the guest's interfaces", SOON, listed)
        .await
        .unwrap();
    assert_ne!(vmi.data["status"]["interfaces"][0]["name"], "default");

    let pods: Api<Pod> = Api::namespaced(env.admin.clone(), &env.namespace.name);
    let pod: Pod = from(json!({
        "metadata": {"name": "bound"},
        "spec": {"nodeName": marooned.name, "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "web"}]},
    }));
    accepts(&pods, &pod).await.unwrap();
    let too_large: Pod = from(json!({
        "metadata": {"name": "too-large"},
        "spec": {"nodeName": marooned.name, "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "web", "resources": {"requests": {"cpu": "4"}}}]},
    }));
    accepts(&pods, &too_large).await.unwrap();
    let phase =
        |phase: &'static str| move |pod: &Pod| pod.status.as_ref().unwrap().phase.as_deref() == Some(phase);
    let running = becomes(&pods, "bound", "Running", SOON, phase("Running"))
        .await
        .unwrap();
    assert_eq!(
        running.status.unwrap().pod_ip.as_ref(),
        Some(&addresses[0].address)
    );
    let refused = becomes(&pods, "too-large", "Failed", SOON, phase("Failed"))
        .await
        .unwrap();
    assert_eq!(refused.status.unwrap().reason.as_deref(), Some("OutOfcpu"));
    pods.delete("bound", &DeleteParams::default()).await.unwrap();
    gone(&pods, "bound", SOON).await.unwrap();

    // The token still works after the join, and the guest still uses it.
    env.logs(&marooned, GuestEvent::TokenStillGood).await;
    let token = names::token_secret_name(&marooned.name["marooned-".len()..][..6]);
    let secrets: Api<Secret> = Api::namespaced(env.admin.clone(), names::TOKEN_NAMESPACE);
    secrets.delete(&token, &DeleteParams::default()).await.unwrap();
    env.logs(&marooned, GuestEvent::TokenRefused).await;

    is_gone_with_all_of_it(env, &marooned).await;
}

/// A VM runs on for the time that a real one takes to power off, and takes its launcher along.
async fn is_gone_with_all_of_it(env: &TestEnv, marooned: &MaroonedPod) {
    let api = vmis(&env.admin);
    api.delete(&marooned.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&api, &marooned.name, SOON).await.unwrap();
    let took = eventually("its end in the audit log", SOON, || async {
        let mut log = env.control_plane.audit()?;
        log.retain(|event| event.resource == "virtualmachineinstances" && event.name == marooned.name);
        let deleted = log.iter().find(|event| event.verb == "delete");
        let deleted = deleted.map(|event| event.received);
        // virt-handler says of a domain that it runs, what its interfaces are, and that it has ended.
        let ended = log
            .iter()
            .filter(|event| event.verb == "update")
            .map(|event| event.received);
        let ended = ended.filter(|at| Some(*at) > deleted).min();
        Ok(deleted
            .zip(ended)
            .map(|(deleted, ended)| ended.duration_since(deleted)))
    })
    .await
    .unwrap();
    assert!(took.unsigned_abs() >= QUICK_TEARDOWN, "{took:#}");
    let launchers: Api<Pod> = Api::namespaced(env.admin.clone(), names::VM_NAMESPACE);
    assert!(
        launchers
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let csrs: Api<CertificateSigningRequest> = Api::all(env.admin.clone());
    csrs.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
}

async fn launcher_requests(env: &TestEnv, marooned: &MaroonedPod) -> Value {
    let launcher = serde_json::to_value(env.launcher(marooned).await).unwrap();
    launcher["spec"]["containers"][0]["resources"]["requests"].clone()
}

/// No part may do more than KubeVirt's, and none had to: launchers are virt-controller's, domains are virt-handler's.
fn kubevirts_parts_spoke_as_themselves(env: &TestEnv) {
    let log = env.control_plane.audit().unwrap();
    let account = |name: &str| format!("system:serviceaccount:kubevirt:{name}");
    let users = |verb: &str, resource: &str| -> BTreeSet<String> {
        let made = log.iter().filter(|event| {
            event.verb == verb
                && event.resource == resource
                && event.subresource.is_empty()
                && event.namespace == names::VM_NAMESPACE
        });
        made.filter(|event| event.code < 300)
            .map(|event| event.user.clone())
            .collect()
    };
    assert_eq!(users("create", "pods"), [account("kubevirt-controller")].into());
    assert_eq!(
        users("update", "virtualmachineinstances"),
        [account("kubevirt-handler")].into()
    );
    let denied: Vec<_> = log
        .iter()
        .filter(|event| event.user.starts_with("system:serviceaccount:kubevirt:") && event.denied)
        .collect();
    assert!(denied.is_empty(), "{denied:?}");
}

async fn a_script_is_followed(env: &TestEnv) {
    let denied = env
        .launch(&json!({"wrongNodeName": "host-1", "extraSans": ["192.0.2.1", "kubernetes"]}))
        .await;
    env.judge("client-kubelet", "Denied").await;
    env.logs(&denied, GuestEvent::ClientRequestDenied("Test".to_owned()))
        .await;
    vmis(&env.admin)
        .delete(&denied.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&vmis(&env.admin), &denied.name, SOON).await.unwrap();
    let csrs: Api<CertificateSigningRequest> = Api::all(env.admin.clone());
    csrs.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();

    let reboots = env.launch_ready(&json!({"rebootAt": 4, "notReadyAt": 7})).await;
    let boot_id = |node: &Node| node.status.clone().unwrap().node_info.unwrap().boot_id;
    let nodes: Api<Node> = Api::all(env.admin.clone());
    let first = boot_id(&nodes.get(&reboots.name).await.unwrap());
    let rebooted = |node: &Node| boot_id(node) != first;
    becomes(&nodes, &reboots.name, "another boot id", SOON, rebooted)
        .await
        .unwrap();
    assert_eq!(
        env.vmi_becomes(&reboots, "Running").await.name_any(),
        reboots.name
    );
    env.node_becomes(&reboots, "False").await;

    let mad = env.launch(&json!({"neverBoot": true})).await;
    let vmi = env.vmi_becomes(&mad, "Failed").await;
    assert!(
        vmi.data["status"]["reason"]
            .as_str()
            .unwrap()
            .contains("neverBoot")
    );
}

async fn ordinary_pods_run(env: &TestEnv) {
    let pods: Api<Pod> = Api::namespaced(env.admin.clone(), &env.namespace.name);
    let pod: Pod = from(json!({
        "metadata": {"name": "job"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "web"}]},
    }));
    accepts(&pods, &pod).await.unwrap();
    let over = |pod: &Pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Succeeded");
    becomes(&pods, "job", "Succeeded", SOON, over).await.unwrap();
    pods.delete("job", &DeleteParams::default()).await.unwrap();
    gone(&pods, "job", SOON).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(env.admin.clone());
    assert!(namespaces.get_opt(&env.namespace.name).await.unwrap().is_some());
}
