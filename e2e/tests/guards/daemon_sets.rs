//! A DaemonSet that tolerates every taint counts marooned nodes as its own. They are not, and its other pods are fine.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{Patch, PatchParams};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::becomes;
use maroonedpods_e2e::api::read::{node, runs};
use maroonedpods_e2e::harness::fixtures::{marooned, spec};
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

use crate::placement::binding_refused;

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_that_tolerates_everything_is_well_on_the_hosts() {
    logs();
    // Alone: the marooned nodes of other tests would be counted.
    let env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    for name in ["one", "two"] {
        tenant.creates(&marooned(name)).await.unwrap();
        tenant.sees_running(name).await.unwrap();
    }
    let mut template = spec();
    template["tolerations"] = json!([{"operator": "Exists"}]);
    let agent = json!({
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": template},
        },
    });
    tenant.applies::<DaemonSet>(agent).await.unwrap();
    let sets: Api<DaemonSet> = tenant.api();
    let counts = |desired: i32| {
        move |set: &DaemonSet| {
            let status = set.status.clone().unwrap_or_default();
            status.number_ready == 3 && status.desired_number_scheduled == desired
        }
    };
    becomes(&sets, "agent", "3 of 5 ready", SOON, counts(5))
        .await
        .unwrap();
    let events: Api<Event> = tenant.api();
    let stuck = tenant
        .sees(2, "kept off", |pod| node(pod).is_empty())
        .await
        .unwrap();
    let name = stuck[0].metadata.name.clone().unwrap();
    let message = binding_refused(&events, &name).await;
    assert!(message.contains("a required node affinity"), "{message}");

    // The remedy that the message names.
    let off = json!([{"key": names::CLASS_LABEL, "operator": "DoesNotExist"}]);
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": off}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"affinity": affinity}}}}));
    sets.patch("agent", &PatchParams::default(), &patch)
        .await
        .unwrap();
    becomes(&sets, "agent", "3 of 3 ready", SOON, counts(3))
        .await
        .unwrap();
    tenant.sees(5, "running", runs).await.unwrap();
    drop(tenant);
    env.stop().await.unwrap();
}
