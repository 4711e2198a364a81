//! The configuration: absent, refused, not accepted, in force, and the counts on it.

#![allow(clippy::unwrap_used)]

use kube::Api;
use kube::api::DeleteParams;
use maroonedpods_common::api::{MaroonedPodsConfig, NodeCounts};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, gone, refused};
use maroonedpods_e2e::api::read::gates;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::marooned_pod::{self, MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::{TestEnv, quick_config};
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::system::logs::logs;
use serde_json::{Value, json};

/// A VM that takes longer to go than this test takes.
const FOR_LONG: f64 = 600.0;

fn configs(tenant: &Tenant<'_>) -> Api<MaroonedPodsConfig> {
    config::configs(&tenant.admin)
}

async fn change(tenant: &Tenant<'_>, spec: Value) -> kube::Result<MaroonedPodsConfig> {
    config::change(&tenant.admin, &spec).await
}

/// Status and message of the condition Accepted, once it speaks of the present generation.
fn accepted(config: &MaroonedPodsConfig) -> Option<(&str, &str)> {
    let status = config.status.as_ref()?;
    let current = status.observed_generation == config.metadata.generation;
    let accepted = status.conditions.iter().find(|c| c.type_ == "Accepted")?;
    current.then_some((accepted.status.as_str(), accepted.message.as_str()))
}

async fn is_accepted(tenant: &Tenant<'_>) {
    let yes = |config: &MaroonedPodsConfig| accepted(config).is_some_and(|(status, _)| status == "True");
    becomes(&configs(tenant), names::CONFIG_NAME, "accepted", SOON, yes)
        .await
        .unwrap();
}

/// One configuration, and each step changes it: so they are steps, not tests of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_comes_changes_and_counts() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let all = configs(&tenant);
    all.delete(names::CONFIG_NAME, &DeleteParams::default())
        .await
        .unwrap();
    gone(&all, names::CONFIG_NAME, SOON).await.unwrap();
    let reconciler = env.reconciler(false).await.unwrap();

    a_pod_waits_for_a_configuration(&tenant).await;
    a_bad_change_leaves_the_last_good_one_in_force(&tenant).await;
    drop(reconciler);
    it_counts_the_nodes(&tenant).await;
    drop(tenant);
    env.stop().await.unwrap();
}

async fn a_pod_waits_for_a_configuration(tenant: &Tenant<'_>) {
    tenant.creates(&marooned("early")).await.unwrap();
    let pod = tenant.sees_reason("early", "NoConfig").await.unwrap();
    assert_eq!(gates(&pod), [names::GATE]);
    assert_eq!(tenant.records().await.unwrap(), []);

    let spec = quick_config(tenant.env.control_plane().server_url()).unwrap();
    let config = MaroonedPodsConfig::new(names::CONFIG_NAME, spec);
    accepts(&configs(tenant), &config).await.unwrap();
    is_accepted(tenant).await;
    let pod = tenant.sees_running("early").await.unwrap();
    MaroonedPod::of(&tenant.admin, &pod)
        .unwrap()
        .ends()
        .await
        .unwrap();
}

async fn a_bad_change_leaves_the_last_good_one_in_force(tenant: &Tenant<'_>) {
    let message = refused(change(tenant, json!({"deadlines": {"boot": "soon"}})).await).unwrap();
    assert!(message.contains("spec.deadlines.boot"), "{message}");
    let message = refused(change(tenant, json!({"resourceOverhead": {"memory": "1Mi"}})).await).unwrap();
    assert!(
        message.contains("must be a quantity of at least 256Mi"),
        "{message}"
    );

    // CEL takes a duration whose units come in any order, Rust's parser does not.
    let bad = json!({"deadlines": {"boot": "4s1m"}, "taintKey": "bad.example.org"});
    change(tenant, bad).await.unwrap();
    let no = |config: &MaroonedPodsConfig| accepted(config).is_some_and(|(status, _)| status == "False");
    let config = becomes(&configs(tenant), names::CONFIG_NAME, "not accepted", SOON, no)
        .await
        .unwrap();
    let (_, message) = accepted(&config).unwrap();
    assert!(
        message.contains("spec.deadlines.boot")
            && message.contains("the last valid configuration stays in force"),
        "{message}"
    );
    let taint_of = |pod: &str| {
        let pod = pod.to_owned();
        async move {
            tenant.creates(&marooned(&pod)).await.unwrap();
            tenant.sees_running(&pod).await.unwrap();
            let record = tenant.records().await.unwrap().remove(0);
            tenant.deletes(&pod).await.unwrap();
            gone(
                &Api::<maroonedpods_common::api::MaroonedNode>::all(tenant.admin.clone()),
                &names::node_name(&record.spec.pod_ref.uid),
                SOON,
            )
            .await
            .unwrap();
            record.spec.vm.taint_key
        }
    };
    assert_eq!(taint_of("by-the-last").await, names::DEFAULT_TAINT_KEY);

    let good = json!({"deadlines": {"boot": "4s"}, "taintKey": "good.example.org"});
    change(tenant, good).await.unwrap();
    is_accepted(tenant).await;
    assert_eq!(taint_of("by-the-new").await, "good.example.org");
}

/// Counts are taken by the sweep; a reconciler that starts begins with one.
async fn it_counts_the_nodes(tenant: &Tenant<'_>) {
    change(tenant, json!({"deadlines": {"boot": "10m"}}))
        .await
        .unwrap();
    let reconciler = tenant.env.reconciler(false).await.unwrap();
    is_accepted(tenant).await;
    tenant.creates(&marooned("ready")).await.unwrap();
    let unbooted = Script {
        never_boots: true,
        ..Script::default()
    };
    tenant
        .creates(&marooned_pod::pod("launching", &unbooted).unwrap())
        .await
        .unwrap();
    let lingering = Script {
        slow_delete: FOR_LONG,
        ..Script::default()
    };
    let releasing = tenant
        .creates(&marooned_pod::pod("releasing", &lingering).unwrap())
        .await
        .unwrap();
    tenant.sees_running("ready").await.unwrap();
    tenant.sees_running("releasing").await.unwrap();
    tenant.deletes("releasing").await.unwrap();
    let releasing = MaroonedPod::of(&tenant.admin, &releasing).unwrap();
    releasing
        .record("going", |r| r.metadata.deletion_timestamp.is_some())
        .await
        .unwrap();
    drop(reconciler);

    let _reconciler = tenant.env.reconciler(false).await.unwrap();
    let counts = NodeCounts {
        launching: 1,
        ready: 1,
        releasing: 1,
    };
    let counted = |config: &MaroonedPodsConfig| config.status.as_ref().is_some_and(|s| s.nodes == counts);
    becomes(
        &configs(tenant),
        names::CONFIG_NAME,
        "the counts 1, 1, 1",
        SOON,
        counted,
    )
    .await
    .unwrap();
}
