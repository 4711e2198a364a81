//! VMs and guests that fail, before and under their pods.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::api::Phase;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::api::leftovers::nothing_left_of;
use maroonedpods_e2e::api::read::{condition, phase, reason};
use maroonedpods_e2e::fake_kubevirt::GuestEvent;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON, pod};
use serde_json::json;

use crate::setup::{Test, never_joins, told};

/// Both attempts fail: the pod says why and stays gated, of the attempts only the record is left.
async fn all_attempts_fail(script: &Script, why: &str) {
    let test = Test::new().await;
    let pod = test.pod(script).await;
    let message = pod.reports("AttemptsExhausted").await.unwrap();
    assert!(
        message.contains("all 2 attempts") && message.contains(why),
        "{message}"
    );
    let gates = pod
        .pods
        .get(&pod.name)
        .await
        .unwrap()
        .spec
        .unwrap()
        .scheduling_gates;
    assert_eq!(gates.unwrap()[0].name, names::GATE);
    let left = nothing_left_of(&test.admin, &pod.uid).await.unwrap();
    assert_eq!(left, [format!("MaroonedNode {}", pod.node_name())]);
    pod.ends().await.unwrap();
}

/// The first attempt fails, the second does not.
async fn second_attempt_succeeds(script: Script) {
    let test = Test::new().await;
    let pod = test
        .pod(&Script {
            attempts: 1,
            ..script
        })
        .await;
    let message = pod.reports("Retrying").await.unwrap();
    assert!(message.contains("attempt 1 of 2 failed"), "{message}");
    pod.running().await.unwrap();
    let second = format!("marooned-{}-r2", pod.uid);
    assert_eq!(
        pod.record("Lifted", lifted)
            .await
            .unwrap()
            .status
            .unwrap()
            .vmi_name,
        Some(second)
    );
    pod.ends().await.unwrap();
}

fn lifted(record: &maroonedpods_common::api::MaroonedNode) -> bool {
    record.status.as_ref().is_some_and(|s| s.phase == Phase::Lifted)
}

fn never_boots() -> Script {
    Script {
        never_boots: true,
        ..Script::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_never_boots_is_given_up() {
    all_attempts_fail(&never_boots(), "the VM did not run within").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_does_not_boot_once_is_replaced() {
    second_attempt_succeeds(never_boots()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_never_joins_is_given_up() {
    all_attempts_fail(&never_joins(), "the VM's node was not ready within").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_does_not_join_once_is_replaced() {
    second_attempt_succeeds(never_joins()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_fits_nowhere_says_so_in_the_words_of_kubevirt() {
    let script = Script {
        unschedulable: true,
        ..Script::default()
    };
    all_attempts_fail(&script, "(Unschedulable: 0/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_pod_whose_vm_dies_is_unready_at_once_and_then_failed() {
    let test = Test::new().await;
    let pod = test.running_pod().await;
    let now = pod.pods.get(&pod.name).await.unwrap().resource_version().unwrap();
    let by_name = WatchParams::default().fields(&format!("metadata.name={}", pod.name));
    let changes = pod.pods.watch(&by_name, &now).await.unwrap();
    pod.power_off(1).await.unwrap();
    let failed = pod.fails().await.unwrap();
    assert_eq!(
        failed.status.as_ref().unwrap().reason.as_deref(),
        Some("VirtualMachineGone")
    );
    for type_ in ["Ready", "ContainersReady", "DisruptionTarget"] {
        assert_eq!(
            condition(&failed, type_).unwrap().1,
            "VirtualMachineGone",
            "{type_}"
        );
    }
    assert_eq!(reason(&failed), "NodeLost");
    let states: Vec<_> = changes
        .map_ok(|change| match change {
            WatchEvent::Modified(pod) => (phase(&pod).to_owned(), condition(&pod, "Ready").unwrap().0),
            other => panic!("{other:?}"),
        })
        .try_take_while(|(phase, _)| futures::future::ready(Ok(phase != "Failed")))
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(
        states.last().unwrap(),
        &("Running".to_owned(), "False".to_owned()),
        "{states:?}"
    );
    pod.leaves_nothing().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_replaces_a_pod_whose_vm_dies() {
    let test = Test::new().await;
    let (admin, namespace) = (&test.admin, &test.namespace.name);
    let template = pod("web", &Script::default()).unwrap();
    let deployment = serde_json::from_value::<Deployment>(json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": template.metadata.labels}, "spec": template.spec},
        },
    }));
    let deployments: Api<Deployment> = Api::namespaced(admin.clone(), namespace);
    accepts(&deployments, &deployment.unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
    let other_than = |old: Option<String>| {
        let pods = pods.clone();
        async move {
            let live = |pod: &Pod| phase(pod) != "Failed" && pod.uid() != old;
            eventually("a pod of the Deployment", SOON, || async {
                let all = pods.list(&ListParams::default()).await?;
                Ok(all.items.into_iter().find(live))
            })
            .await
            .unwrap()
        }
    };
    let first = MaroonedPod::of(admin, &other_than(None).await).unwrap();
    first.running().await.unwrap();
    first.power_off(1).await.unwrap();
    let second = MaroonedPod::of(admin, &other_than(Some(first.uid.clone())).await).unwrap();
    second.running().await.unwrap();
    first.leaves_nothing().await.unwrap();
    deployments.delete("web", &DeleteParams::default()).await.unwrap();
    second.gone().await.unwrap();
    second.leaves_nothing().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_dies_before_its_node_is_ready_is_replaced() {
    let test = Test::new().await;
    let pod = test
        .pod(&Script {
            attempts: 1,
            ..never_joins()
        })
        .await;
    pod.vmi(1, "Running").await.unwrap();
    pod.power_off(1).await.unwrap();
    let message = pod.reports("Retrying").await.unwrap();
    assert!(message.contains("the VM ended (phase Failed)"), "{message}");
    pod.running().await.unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_reboots_under_its_pod_ends_its_vm() {
    let test = Test::new().await;
    let script = Script {
        // Long after it has joined.
        reboot_at: Some(15.0),
        ..Script::default()
    };
    let pod = test.pod(&script).await;
    let vmi = pod.vmi(1, "Running").await.unwrap();
    assert_eq!(vmi.data["spec"]["domain"]["rebootPolicy"], "Terminate");
    pod.running().await.unwrap();
    pod.fails().await.unwrap();
    assert_eq!(told(&pod, "NodeLost").await, "the pod's VM has ended");
    pod.leaves_nothing().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_its_silent_kubelet_does_not_stop_is_deleted_with_its_vm() {
    let test = Test::new().await;
    let script = Script {
        silent_at: Some(5.0),
        ..Script::default()
    };
    let mut wanted = pod("pod", &script).unwrap();
    wanted.spec.as_mut().unwrap().termination_grace_period_seconds = Some(1);
    let pod = MaroonedPod::create_pod(&test.admin, &test.namespace.name, &wanted)
        .await
        .unwrap();
    pod.running().await.unwrap();
    eventually("a silent kubelet", SOON, || async {
        let log = test.env.kubevirt().guests().of(&pod.node_name());
        Ok(log.contains(&GuestEvent::FellSilent).then_some(()))
    })
    .await
    .unwrap();
    pod.ends().await.unwrap();
}
