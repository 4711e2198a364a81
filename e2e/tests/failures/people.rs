//! Objects that a person deletes or changes.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_e2e::api::check::becomes;
use maroonedpods_e2e::api::read::phase;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::SOON;
use serde_json::json;

use crate::setup::{Test, never_joins};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_deletes_the_record_of_a_running_pod() {
    let test = Test::new().await;
    let pod = test.running_pod().await;
    pod.records()
        .delete(&pod.node_name(), &DeleteParams::default())
        .await
        .unwrap();
    pod.fails().await.unwrap();
    pod.leaves_nothing().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_deletes_the_record_of_a_gated_pod() {
    let test = Test::new().await;
    let pod = test
        .pod(&Script {
            join_delay: 2.0,
            ..Script::default()
        })
        .await;
    pod.vmi(1, "Running").await.unwrap();
    let first = pod.record("there", |_| true).await.unwrap().uid();
    pod.records()
        .delete(&pod.node_name(), &DeleteParams::default())
        .await
        .unwrap();
    pod.running().await.unwrap();
    assert_ne!(pod.record("there", |_| true).await.unwrap().uid(), first);
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_deletes_the_node_before_the_lift() {
    let test = Test::new().await;
    let pod = test
        .pod(&Script {
            join_delay: 2.0,
            ..Script::default()
        })
        .await;
    // The reconciler makes it when the VM has an address.
    let first = becomes(&pod.nodes(), &pod.node_name(), "there", SOON, |_| true)
        .await
        .unwrap()
        .uid();
    pod.nodes()
        .delete(&pod.node_name(), &DeleteParams::default())
        .await
        .unwrap();
    pod.running().await.unwrap();
    assert_ne!(pod.nodes().get(&pod.node_name()).await.unwrap().uid(), first);
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_deletes_the_vm_of_a_running_pod() {
    let test = Test::new().await;
    let pod = test.running_pod().await;
    pod.vmis()
        .delete(&pod.node_name(), &DeleteParams::default())
        .await
        .unwrap();
    pod.fails().await.unwrap();
    pod.leaves_nothing().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_while_a_vm_boots_for_it() {
    let test = Test::new().await;
    let pod = test
        .pod(&Script {
            boot_delay: 3.0,
            ..Script::default()
        })
        .await;
    pod.vmi(1, "Scheduled").await.unwrap();
    test.namespace.close(&test.admin).await.unwrap();
    pod.leaves_nothing().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_gate_a_person_removes_is_let_go() {
    let test = Test::new().await;
    let pod = test.pod(&never_joins()).await;
    pod.vmi(1, "Running").await.unwrap();
    let ungated = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    // The guards refuse it to every other user: this one uses the reconciler's identity.
    let borrowed = test.env.reconciler_identity().await.unwrap().client;
    Api::<Pod>::namespaced(borrowed, &test.namespace.name)
        .patch(&pod.name, &PatchParams::default(), &ungated)
        .await
        .unwrap();
    pod.reports("GateRemoved").await.unwrap();
    pod.leaves_nothing().await.unwrap();
    let stays = pod.pods.get(&pod.name).await.unwrap();
    assert_eq!(stays.spec.unwrap().node_name, None);
    assert_eq!(phase(&pod.pods.get(&pod.name).await.unwrap()), "Pending");
    pod.ends().await.unwrap();
}
