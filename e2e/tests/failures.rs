//! What goes wrong with a VM, its guest, its host, or through a person's mistake, and what becomes of the pod.

#![allow(clippy::unwrap_used)]

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::api::Phase;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::api::leftovers::nothing_left_of;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::api::read::{condition, phase};
use maroonedpods_e2e::fake_kubevirt::GuestEvent;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON, pod};
use maroonedpods_e2e::harness::test_env::TestEnv;
use serde_json::json;

struct Test {
    env: &'static TestEnv,
    admin: Client,
    namespace: TestNamespace,
}

impl Test {
    async fn new() -> Self {
        let env = TestEnv::shared().await.unwrap();
        let admin = env.control_plane().admin().await.unwrap();
        let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
        Self {
            env,
            admin,
            namespace,
        }
    }

    async fn pod(&self, script: &Script) -> MaroonedPod {
        MaroonedPod::create(&self.admin, &self.namespace.name, "pod", script)
            .await
            .unwrap()
    }

    async fn running_pod(&self) -> MaroonedPod {
        let pod = self.pod(&Script::default()).await;
        pod.running().await.unwrap();
        pod
    }
}

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
    let second = names::vmi_name(&pod.uid, 2);
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

fn never_joins() -> Script {
    Script {
        never_joins: true,
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
    pod.fails().await.unwrap();
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
async fn a_guest_that_reboots_under_its_pod_is_destroyed() {
    let test = Test::new().await;
    let script = Script {
        reboot_at: Some(6.0),
        ..Script::default()
    };
    let pod = test.pod(&script).await;
    pod.running().await.unwrap();
    pod.fails().await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn node_and_record_stay_until_the_vm_is_proven_gone() {
    let test = Test::new().await;
    let pod = test
        .pod(&Script {
            slow_delete: 3.0,
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
    pod.vmi(1, "Running").await.unwrap();
    let first = pod.nodes().get(&pod.node_name()).await.unwrap().uid();
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
    pod.leaves_nothing().await.unwrap();
    let stays = pod.pods.get(&pod.name).await.unwrap();
    assert_eq!(stays.spec.unwrap().node_name, None);
    assert_eq!(phase(&pod.pods.get(&pod.name).await.unwrap()), "Pending");
    pod.ends().await.unwrap();
}
