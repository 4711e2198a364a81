//! The played KubeVirt and its guests on a real control plane: do they keep to what was measured on the real ones?
//! The test plays the reconciler, by hand.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::large_futures)]

mod by_hand;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, gone, refused, rejects};
use maroonedpods_e2e::api::read::vmis;
use maroonedpods_e2e::fake_kubevirt::GuestEvent;
use serde_json::{Value, json};
use uuid::Uuid;

use by_hand::{SOON, World, from, vmi};

/// Several VMs at a time would take each other's certificate requests: one test, one story after the other.
#[tokio::test(flavor = "multi_thread")]
async fn vms_live_and_die_as_kubevirts_do() {
    let world = World::new().await;
    virt_api_refuses(&world).await;
    a_vm_runs_its_pod(&world).await;
    a_lost_launcher_fails_the_vm(&world).await;
    a_vm_is_marked_for_evacuation(&world).await;
    a_script_is_followed(&world).await;
    ordinary_pods_run(&world).await;
    world.plane.stop().await.unwrap();
}

async fn virt_api_refuses(world: &World) {
    let api = vmis(&world.admin);
    let changed = |pointer: &str, value: Value| {
        let mut vmi = vmi("bad", "x/y");
        *vmi.data.pointer_mut(pointer).unwrap() = value;
        vmi
    };
    for (bad, message) in [
        (
            changed("/spec/domain", json!({"devices": {}})),
            "no memory requested",
        ),
        (
            changed("/spec/domain/devices/disks/0/name", json!("other")),
            "no volume",
        ),
        (
            changed("/spec/networks/0/name", json!("other")),
            "exactly one interface",
        ),
        (
            changed("/spec/volumes/2/cloudInitNoCloud", json!({})),
            "exactly one source",
        ),
        (changed("/spec/domain/machine/type", json!("microvm")), "machine"),
        (
            changed(
                "/spec/domain/firmware",
                json!({"kernelBoot": {"container": {"image": "i"}}}),
            ),
            "kernelPath",
        ),
    ] {
        let said = rejects(&api, &bad).await.unwrap();
        assert!(said.contains(message), "{said}");
    }
}

async fn a_vm_runs_its_pod(world: &World) {
    let marooned = world.launch_ready(&json!({"reuseToken": true})).await;
    let node: Node = Api::all(world.admin.clone()).get(&marooned.name).await.unwrap();
    let status = node.status.unwrap();
    assert_eq!(
        status.node_info.unwrap().system_uuid,
        Uuid::new_v5(&Uuid::NAMESPACE_OID, marooned.name.as_bytes()).to_string()
    );
    let addresses = status.addresses.unwrap();
    world.logs(&marooned, GuestEvent::ServingCertificate).await;

    let api = vmis(&world.admin);
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

    let pods: Api<Pod> = Api::namespaced(world.admin.clone(), &world.namespace.name);
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

    // The token outlived the join, and so did the guest's appetite.
    world.logs(&marooned, GuestEvent::TokenStillGood).await;
    let token = names::token_secret_name(&marooned.name["marooned-".len()..][..6]);
    let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), names::TOKEN_NAMESPACE);
    secrets.delete(&token, &DeleteParams::default()).await.unwrap();
    world.logs(&marooned, GuestEvent::TokenRefused).await;

    api.delete(&marooned.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&api, &marooned.name, SOON).await.unwrap();
    let launchers: Api<Pod> = Api::namespaced(world.admin.clone(), names::VM_NAMESPACE);
    assert!(
        launchers
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let csrs: Api<CertificateSigningRequest> = Api::all(world.admin.clone());
    csrs.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
}

async fn a_lost_launcher_fails_the_vm(world: &World) {
    let marooned = world.launch_ready(&json!({})).await;
    let launchers: Api<Pod> = Api::namespaced(world.admin.clone(), names::VM_NAMESPACE);
    let launcher = launchers
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .remove(0);
    assert!(launcher.labels().contains_key("kubevirt.io/created-by"));
    launchers
        .delete(&launcher.name_any(), &DeleteParams::default())
        .await
        .unwrap();
    let vmi = world.vmi_becomes(&marooned, "Failed").await;
    assert!(vmi.data["status"].get("reason").is_none());
    let let_go = |vmi: &DynamicObject| vmi.finalizers().is_empty();
    becomes(&vmis(&world.admin), &marooned.name, "no finalizer", SOON, let_go)
        .await
        .unwrap();
    vmis(&world.admin)
        .delete(&marooned.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&vmis(&world.admin), &marooned.name, SOON).await.unwrap();
}

async fn a_vm_is_marked_for_evacuation(world: &World) {
    let marooned = world.launch(&json!({"neverJoins": true, "slowDelete": 1})).await;
    world.vmi_becomes(&marooned, "Running").await;
    world.host.evict(&marooned.name).await.unwrap();
    let vmi = vmis(&world.admin).get(&marooned.name).await.unwrap();
    assert_eq!(
        vmi.data["status"]["evacuationNodeName"],
        vmi.data["status"]["nodeName"]
    );
    vmis(&world.admin)
        .delete(&marooned.name, &DeleteParams::default())
        .await
        .unwrap();
    let vmi = vmis(&world.admin).get(&marooned.name).await.unwrap();
    assert_eq!(vmi.data["status"]["phase"], "Running", "it does not heed ACPI");
    gone(&vmis(&world.admin), &marooned.name, SOON).await.unwrap();
}

async fn a_script_is_followed(world: &World) {
    let stuck = world.launch(&json!({"unschedulable": true})).await;
    let blocked = |vmi: &DynamicObject| {
        let conditions = vmi.data["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|c| c["reason"] == "Unschedulable")
    };
    let vmi = becomes(&vmis(&world.admin), &stuck.name, "Unschedulable", SOON, blocked)
        .await
        .unwrap();
    assert_eq!(vmi.data["status"]["phase"], "Scheduling");
    vmis(&world.admin)
        .delete(&stuck.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&vmis(&world.admin), &stuck.name, SOON).await.unwrap();

    let denied = world
        .launch(&json!({"wrongNodeName": "host-1", "extraSans": ["192.0.2.1", "kubernetes"]}))
        .await;
    world.judge("client-kubelet", "Denied").await;
    world
        .logs(&denied, GuestEvent::ClientRequestDenied("Test".to_owned()))
        .await;
    vmis(&world.admin)
        .delete(&denied.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&vmis(&world.admin), &denied.name, SOON).await.unwrap();
    let csrs: Api<CertificateSigningRequest> = Api::all(world.admin.clone());
    csrs.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();

    let reboots = world.launch_ready(&json!({"rebootAt": 4, "notReadyAt": 7})).await;
    let boot_id = |node: &Node| node.status.clone().unwrap().node_info.unwrap().boot_id;
    let nodes: Api<Node> = Api::all(world.admin.clone());
    let first = boot_id(&nodes.get(&reboots.name).await.unwrap());
    let rebooted = |node: &Node| boot_id(node) != first;
    becomes(&nodes, &reboots.name, "another boot id", SOON, rebooted)
        .await
        .unwrap();
    assert_eq!(
        world.vmi_becomes(&reboots, "Running").await.name_any(),
        reboots.name
    );
    world.node_becomes(&reboots, "False").await;

    let dies = world.launch(&json!({"neverJoins": true, "diesAt": 0.5})).await;
    world.vmi_becomes(&dies, "Failed").await;

    let mad = world.launch(&json!({"neverBoot": true})).await;
    let vmi = world.vmi_becomes(&mad, "Failed").await;
    assert!(
        vmi.data["status"]["reason"]
            .as_str()
            .unwrap()
            .contains("neverBoot")
    );
}

async fn ordinary_pods_run(world: &World) {
    let pods: Api<Pod> = Api::namespaced(world.admin.clone(), &world.namespace.name);
    let pod: Pod = from(json!({
        "metadata": {"name": "job"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "web"}]},
    }));
    accepts(&pods, &pod).await.unwrap();
    let over = |pod: &Pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Succeeded");
    becomes(&pods, "job", "Succeeded", SOON, over).await.unwrap();
    pods.delete("job", &DeleteParams::default()).await.unwrap();
    gone(&pods, "job", SOON).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(world.admin.clone());
    assert!(namespaces.get_opt(&world.namespace.name).await.unwrap().is_some());
}
