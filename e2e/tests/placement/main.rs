//! Where a pod's VM goes, and which pods get none: three hosts, each in a zone of its own, on a real scheduler.

#![allow(clippy::unwrap_used)]

mod changes;
mod manifests;
mod neighbours;
mod replicas;
mod shapes;
mod twins;

use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::{self, TestEnv};
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_image_build::node_image;
use serde_json::{Value, json};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// `images/build` knows nothing of the configuration, so the two lists are written twice.
#[test]
fn the_node_image_declares_what_a_configuration_counts_on() {
    let config = test_env::quick_config("https://192.0.2.1").unwrap();
    assert_eq!(config.guest_capabilities, node_image::CAPABILITIES);
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_go_where_their_pods_want_and_only_if_they_help() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    tenant.has_a_zone_for_each_host().await.unwrap();
    for (host, disk) in [("host-1", "slow"), ("host-2", "slow"), ("host-3", "fast")] {
        tenant.labels_host(host, &json!({"disk": disk})).await.unwrap();
    }
    let changed = json!({
        "deadlines": {"boot": "10m", "join": "10m"},
        "placement": {"hostLabels": ["disk"], "nodeLabels": {"pool": "vms"}, "hostTaints": ["team"]},
    });
    let changed = config::change(&tenant.admin, &changed).await.unwrap();
    config::seen(&tenant.admin, &changed).await.unwrap();
    shapes::each_shape_runs_in_its_place(&tenant).await;
    shapes::each_shape_that_cannot_run_waits_without_a_vm(&tenant).await;
    replicas::replicas_are_apart_as_they_ask(&tenant).await;
    replicas::replicas_are_apart_by_default(&tenant).await;
    replicas::a_zone_that_is_out_of_order_is_said_and_others_go_on(&tenant).await;
    let changes = changes::a_pod_that_changes_while_it_waits_gets_the_vm_that_it_needs_now(&tenant);
    Box::pin(changes).await;
    Box::pin(manifests::each_manifest_ends_as_it_says(&env)).await;
    twins::a_pod_runs_where_its_ordinary_twin_would(&tenant).await;
    neighbours::a_pod_is_near_others_where_its_ordinary_twin_would_be(&tenant).await;
    changes::a_pod_that_no_scheduler_binds_fails_and_frees_its_vm(&tenant).await;
    tenant.leaves().await.unwrap();
    env.stop().await.unwrap();
}

fn term(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

fn required(terms: &Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

fn affinity(kind: &str, key: &str, selector: &Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": selector}]}}})
}

fn near(kind: &str, app: &str, key: &str) -> Value {
    affinity(kind, key, &json!({"matchLabels": {"app": app}}))
}

fn spread(key: &str, app: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": app}}}]})
}
