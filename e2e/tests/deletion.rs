//! A pod is deleted at each stage of the protocol; the simulated VM is held there by its script. Whatever the stage,
//! nothing is left.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, DynamicObject};
use maroonedpods_common::api::{MaroonedNode, Phase};
use maroonedpods_e2e::api::check::{becomes, eventually};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::GuestEvent;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::test_env::TestEnv;

async fn pod(script: &Script) -> MaroonedPod {
    let env = TestEnv::shared().await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    MaroonedPod::create(&admin, &namespace.name, "pod", script)
        .await
        .unwrap()
}

fn never_boots() -> Script {
    Script {
        never_boots: true,
        ..Script::default()
    }
}

fn has_phase(wanted: Phase) -> impl Fn(&MaroonedNode) -> bool {
    move |record| record.status.as_ref().is_some_and(|s| s.phase == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once() {
    pod(&never_boots()).await.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_it_has_a_record() {
    let pod = pod(&never_boots()).await;
    pod.record("there", |_| true).await.unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_it_has_a_node() {
    let pod = pod(&Script {
        never_joins: true,
        ..Script::default()
    })
    .await;
    becomes(&pod.nodes(), &pod.node_name(), "there", SOON, |_: &Node| true)
        .await
        .unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_it_has_a_vmi() {
    let pod = pod(&never_boots()).await;
    becomes(
        &pod.vmis(),
        &pod.node_name(),
        "there",
        SOON,
        |_: &DynamicObject| true,
    )
    .await
    .unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_vm_boots() {
    let pod = pod(&never_boots()).await;
    pod.record("Launched", has_phase(Phase::Launched)).await.unwrap();
    pod.vmi(1, "Scheduled").await.unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_vm_runs_and_has_not_joined() {
    let pod = pod(&Script {
        never_joins: true,
        ..Script::default()
    })
    .await;
    pod.vmi(1, "Running").await.unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_node_has_joined_and_is_not_ready() {
    let pod = pod(&Script {
        not_ready_at: Some(0.0),
        ..Script::default()
    })
    .await;
    pod.record("Registered", has_phase(Phase::Registered))
        .await
        .unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn between_two_attempts() {
    let pod = pod(&never_boots()).await;
    pod.reports("Retrying").await.unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_gate_is_lifted() {
    let pod = pod(&Script::default()).await;
    let ungated = |pod: &Pod| pod.spec.as_ref().is_some_and(|s| s.scheduling_gates.is_none());
    pod.becomes("lifted", ungated).await.unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_it_runs() {
    let pod = pod(&Script::default()).await;
    pod.running().await.unwrap();
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn by_force_while_its_silent_kubelet_should_stop_it() {
    let pod = pod(&Script {
        silent_at: Some(5.0),
        ..Script::default()
    })
    .await;
    pod.running().await.unwrap();
    let guests = TestEnv::shared().await.unwrap().kubevirt().guests();
    eventually("a silent kubelet", SOON, || async {
        let silent = guests.of(&pod.node_name()).contains(&GuestEvent::FellSilent);
        Ok(silent.then_some(()))
    })
    .await
    .unwrap();
    pod.delete().await.unwrap();
    pod.becomes("terminating", |pod| pod.metadata.deletion_timestamp.is_some())
        .await
        .unwrap();
    pod.pods
        .delete(&pod.name, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    pod.gone().await.unwrap();
    pod.leaves_nothing().await.unwrap();
}
