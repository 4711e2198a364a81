//! What a pod's life costs the API server, counted by the server itself.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::api::{MaroonedNode, MaroonedPodsConfig, Phase};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually};
use maroonedpods_e2e::control_plane::audit::AuditEvent;
use maroonedpods_e2e::fake_kubevirt::GuestEvent;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON, pod};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::install::{RECONCILER_ACCOUNT, SYSTEM_NAMESPACE};
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

/// Invariant S7: writes of a cold life, events excluded.
const MOST: usize = 24;
/// Longer than the guest's heartbeat: its news must set off nothing.
const SILENCE: Duration = Duration::from_secs(15);

/// The reconciler's writes that the server received since `start`.
async fn writes_since(tenant: &Tenant<'_>, start: Timestamp) -> Vec<AuditEvent> {
    // A request of our own marks the place in the log up to which everything before is written.
    let marker = format!("marker-{}", Timestamp::now().as_nanosecond());
    let maps: Api<ConfigMap> = tenant.api();
    assert!(maps.get_opt(&marker).await.unwrap().is_none());
    let reconciler = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{RECONCILER_ACCOUNT}");
    let mut events = eventually("the marker in the audit log", SOON, || async {
        let events = tenant.env.control_plane().audit()?;
        Ok(events.iter().any(|event| event.name == marker).then_some(events))
    })
    .await
    .unwrap();
    events.retain(|event| event.user == reconciler && event.is_write() && event.received >= start);
    events
}

fn shown(writes: &[AuditEvent]) -> String {
    let line = |w: &AuditEvent| {
        format!(
            "  {} {} {}/{} {} {}",
            w.received, w.verb, w.resource, w.subresource, w.name, w.code
        )
    };
    writes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Waits until the reconciler has nothing left to do for the pod while it runs.
async fn settled(tenant: &Tenant<'_>, name: &str) -> Pod {
    let pod = tenant.sees_running(name).await.unwrap();
    let node = names::node_name(&pod.uid().unwrap().into());
    let records: Api<MaroonedNode> = Api::all(tenant.admin.clone());
    let lifted = |record: &MaroonedNode| record.status.as_ref().is_some_and(|s| s.phase == Phase::Lifted);
    becomes(&records, &node, "lifted", SOON, lifted).await.unwrap();
    eventually("the serving certificate", SOON, || async {
        let seen = tenant.env.kubevirt().guests().of(&node);
        Ok(seen.contains(&GuestEvent::ServingCertificate).then_some(()))
    })
    .await
    .unwrap();
    pod
}

/// One life from creation to nothing left; gives what it took.
async fn life(tenant: &Tenant<'_>, name: &str, script: &Script) -> Vec<AuditEvent> {
    let start = Timestamp::now();
    tenant.creates(&pod(name, script).unwrap()).await.unwrap();
    let pod = settled(tenant, name).await;
    MaroonedPod::of(&tenant.admin, &pod)
        .unwrap()
        .ends()
        .await
        .unwrap();
    let mut writes = writes_since(tenant, start).await;
    // Refused ones wrote nothing. Events are for people and bounded on their own; the configuration's status is no
    // part of a pod's life.
    writes.retain(|w| w.code < 300 && w.resource != "events" && w.resource != "maroonedpodsconfigs");
    writes
}

/// A view that is read live has the requests for certificates from a cache, which may not know of a decision yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_certificate_is_decided_once() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    let names = (0..8).map(|number| format!("of-many-{number}"));
    let names: Vec<_> = names.collect();
    let start = Timestamp::now();
    for name in &names {
        tenant.creates(&marooned(name)).await.unwrap();
    }
    let mut pods = Vec::new();
    for name in &names {
        pods.push(settled(&tenant, name).await);
    }
    let mut decisions = writes_since(&tenant, start).await;
    decisions.retain(|w| w.subresource == "approval");
    assert!(decisions.len() >= names.len(), "{}", shown(&decisions));
    let again: Vec<_> = decisions.into_iter().filter(|w| w.code >= 300).collect();
    assert!(again.is_empty(), "refused:\n{}", shown(&again));
    for pod in &pods {
        MaroonedPod::of(&tenant.admin, pod).unwrap().ends().await.unwrap();
    }
    tenant.leaves().await.unwrap();
}

/// Where guards do not refuse it, another client may undo what we report as often as it likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_war_over_our_condition_is_left_to_the_other_side() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    tenant.creates(&marooned("fought-over")).await.unwrap();
    settled(&tenant, "fought-over").await;
    let params = PatchParams::default();
    let flip = json!({"type": names::NODE_READY_CONDITION, "status": "False", "reason": "Mine"});
    let flip = Patch::Strategic(json!({"status": {"conditions": [flip]}}));
    let start = Timestamp::now();
    for _ in 0..60 {
        tenant
            .pods
            .patch_status("fought-over", &params, &flip)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut writes = writes_since(&tenant, start).await;
    writes.retain(|w| w.resource == "pods" && w.name == "fought-over");
    let count = writes.len();
    assert!((1..=13).contains(&count), "{count} of 60:\n{}", shown(&writes));
    // Ours is the last word.
    tenant.sees_reason("fought-over", "NodeReady").await.unwrap();
    tenant.leaves().await.unwrap();
}

/// Counted by user, hence one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_life_takes_few_writes_and_a_running_pod_none() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let configs: Api<MaroonedPodsConfig> = Api::all(tenant.admin.clone());
    let patient = Patch::Merge(json!({"spec": {"deadlines": {"boot": "1m", "join": "1m"}}}));
    configs
        .patch(names::CONFIG_NAME, &PatchParams::default(), &patient)
        .await
        .unwrap();

    // As slow as a VM is in reality: then people are told more on the way.
    let slow = Script {
        boot_delay: 6.0,
        join_delay: 6.0,
        ..Script::default()
    };
    for (name, script) in [("quick", Script::default()), ("slow", slow)] {
        let writes = life(&tenant, name, &script).await;
        let (count, list) = (writes.len(), shown(&writes));
        assert!(
            (1..=MOST).contains(&count),
            "a {name} life: {count} writes:\n{list}"
        );
    }

    tenant.creates(&marooned("steady")).await.unwrap();
    settled(&tenant, "steady").await;
    drop(reconciler);
    // The counts are the last thing that a new reconciler's first sweep writes, if they are not right already.
    let wrong = Patch::Merge(json!({"status": {"nodes": {"ready": 9}}}));
    configs
        .patch_status(names::CONFIG_NAME, &PatchParams::default(), &wrong)
        .await
        .unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let counted = |config: &MaroonedPodsConfig| config.status.as_ref().is_some_and(|s| s.nodes.ready == 1);
    becomes(&configs, names::CONFIG_NAME, "counted", SOON, counted)
        .await
        .unwrap();
    let start = Timestamp::now();
    tokio::time::sleep(SILENCE).await;
    let writes = writes_since(&tenant, start).await;
    assert!(writes.is_empty(), "{} writes:\n{}", writes.len(), shown(&writes));
    tenant.leaves().await.unwrap();
    env.stop().await.unwrap();
}
