//! Hosts that are drained, and VMs that take long to go.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::DeleteParams;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::SOON;
use serde_json::json;

use crate::setup::Test;

#[tokio::test(flavor = "multi_thread")]
async fn node_and_record_stay_until_the_vm_is_proven_gone() {
    let test = Test::new().await;
    let pod = test
        .pod(&Script {
            // As long as a real VM took to go (9.5 to 13 s, measured on KubeVirt 1.9).
            slow_delete: 10.0,
            ..Script::default()
        })
        .await;
    pod.running().await.unwrap();
    pod.delete().await.unwrap();
    pod.gone().await.unwrap();
    let mut seen_dying = false;
    loop {
        let record = pod.records().get_opt(&pod.node_name()).await.unwrap();
        let node = pod.nodes().get_opt(&pod.node_name()).await.unwrap();
        let Some(vmi) = pod.vmis().get_opt(&pod.node_name()).await.unwrap() else {
            break;
        };
        assert!(record.is_some() && node.is_some(), "a VM without node or record");
        seen_dying |= vmi.metadata.deletion_timestamp.is_some();
    }
    assert!(seen_dying);
    pod.leaves_nothing().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_drain_evicts_the_pod() {
    let test = Test::new().await;
    let pod = test.running_pod().await;
    test.env.kubevirt().evict(&pod.node_name()).await.unwrap();
    pod.gone().await.unwrap();
    pod.leaves_nothing().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_drain_waits_for_the_pods_disruption_budget() {
    let test = Test::new().await;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(test.admin.clone(), &test.namespace.name);
    let budget = serde_json::from_value(json!({
        "metadata": {"name": "keep"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "pod"}}},
    }));
    accepts(&budgets, &budget.unwrap()).await.unwrap();
    let pod = test.running_pod().await;
    test.env.kubevirt().evict(&pod.node_name()).await.unwrap();
    eventually("an eviction that the budget refuses", SOON, || async {
        let refused = test.env.control_plane().audit()?.into_iter().any(|event| {
            event.subresource == "eviction"
                && event.namespace == test.namespace.name
                && event.name == pod.name
                && event.code == 429
        });
        Ok(refused.then_some(()))
    })
    .await
    .unwrap();
    let kept = pod.running().await.unwrap();
    assert!(kept.metadata.deletion_timestamp.is_none());
    let vmi = pod.vmis().get(&pod.node_name()).await.unwrap();
    assert!(vmi.metadata.deletion_timestamp.is_none());
    budgets.delete("keep", &DeleteParams::default()).await.unwrap();
    pod.gone().await.unwrap();
    pod.leaves_nothing().await.unwrap();
}
