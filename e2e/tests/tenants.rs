//! Tenants take nothing from one another. Starts take turns between namespaces, and a namespace may have so many
//! VMs and no more.

#![allow(clippy::unwrap_used)]

use anyhow::Result;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use maroonedpods_common::api::MaroonedPodsConfigSpec;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::{reason, report, runs};
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::marooned_pod::{SOON, pod};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::{TestEnv, quick_config};
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

const CROWD: usize = 60;
/// The one pod's VM is among the first so many: without turns it would be the last. Its own two writes may be overtaken.
const FEW: usize = 12;

/// VMs that a namespace may have, and the pods that want one.
const LIMIT: usize = 2;
const PODS: usize = 6;

/// A configuration by which no VM is given up while a test runs.
fn patient_config(server_url: &str) -> Result<MaroonedPodsConfigSpec> {
    let mut config = quick_config(server_url)?;
    "10m".clone_into(&mut config.deadlines.boot);
    Ok(config)
}

/// Names of the VMs that were made, in order.
fn vms_made(env: &TestEnv) -> Result<Vec<String>> {
    let mut made = env.control_plane().audit()?;
    made.retain(|event| {
        (event.resource.as_str(), event.verb.as_str()) == ("virtualmachineinstances", "create")
            && event.is_write()
            && event.code == 201
    });
    made.sort_by_key(|event| event.received);
    Ok(made.into_iter().map(|event| event.name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pod_does_not_wait_for_another_tenants_burst() {
    logs();
    let env = TestEnv::start_with(0, patient_config).await.unwrap();
    let crowd = Tenant::new(&env, None).await.unwrap();
    let lone = Tenant::new(&env, None).await.unwrap();
    let script = Script {
        never_boots: true,
        ..Script::default()
    };
    let pods: Vec<_> = (0..CROWD)
        .map(|nth| pod(&format!("crowd-{nth}"), &script).unwrap())
        .collect();
    try_join_all(pods.iter().map(|pod| crowd.creates(pod)))
        .await
        .unwrap();
    let alone = lone.creates(&pod("lone", &script).unwrap()).await.unwrap();
    let its_vm = names::vmi_name(&alone.uid().unwrap().into(), 1);

    let _reconciler = env.reconciler(false).await.unwrap();
    let made = eventually("the VMs of all", SOON, || async {
        let made = vms_made(&env)?;
        Ok((made.len() > CROWD).then_some(made))
    })
    .await
    .unwrap();
    let position = made.iter().position(|name| *name == its_vm).unwrap();
    assert!(
        position < FEW,
        "{position} of {} VMs were made before",
        made.len()
    );
    env.stop().await.unwrap();
}

fn limited_config(server_url: &str) -> Result<MaroonedPodsConfigSpec> {
    let mut config = patient_config(server_url)?;
    config.limits.vms_per_namespace = Some(u32::try_from(LIMIT)?);
    Ok(config)
}

fn waits(pod: &Pod) -> bool {
    reason(pod) == "NamespaceLimit"
}

async fn creates_all(tenant: &Tenant<'_>, prefix: &str) {
    let pods: Vec<_> = (0..PODS)
        .map(|nth| marooned(&format!("{prefix}-{nth}")))
        .collect();
    try_join_all(pods.iter().map(|pod| tenant.creates(pod)))
        .await
        .unwrap();
}

/// One configuration, and each step follows from the one before: so they are steps, not tests of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_has_no_more_vms_than_its_limit() {
    logs();
    let env = TestEnv::start_with(0, limited_config).await.unwrap();
    let full = Tenant::new(&env, None).await.unwrap();
    let other = Tenant::new(&env, None).await.unwrap();
    // All are there when the reconciler begins, so that starts meet.
    creates_all(&full, "first").await;
    other.creates(&marooned("free")).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();

    let waiting = full
        .sees(PODS - LIMIT, "waiting for a place", waits)
        .await
        .unwrap();
    let (_, said) = report(&waiting[0]);
    assert!(
        said.contains(full.namespace()) && said.contains("2 VMs") && said.contains("limits.vmsPerNamespace"),
        "{said}"
    );
    other.sees_running("free").await.unwrap();
    full.sees(LIMIT, "running", runs).await.unwrap();
    assert_eq!(full.records().await.unwrap().len(), LIMIT);

    // A place that becomes free is taken.
    for left in [PODS - LIMIT - 1, PODS - LIMIT - 2] {
        let running = full.sees(LIMIT, "running", runs).await.unwrap();
        full.deletes(&running[0].name_any()).await.unwrap();
        full.sees(left, "waiting for a place", waits).await.unwrap();
        assert!(full.records().await.unwrap().len() <= LIMIT);
    }

    // Two leaders at once may each take the last place, and no more.
    let second = env.reconciler(false).await.unwrap();
    creates_all(&other, "second").await;
    let settled = |pod: &Pod| waits(pod) || runs(pod);
    other.sees(PODS + 1, "running or waiting", settled).await.unwrap();
    let records = other.records().await.unwrap().len();
    assert!((LIMIT..=LIMIT + 1).contains(&records), "{records} records");
    drop(second);

    // The limit is taken away, and all go on.
    let changed = config::change(&full.admin, &json!({"limits": null}))
        .await
        .unwrap();
    assert_eq!(changed.spec.limits.vms_per_namespace, None);
    full.sees(PODS - 2, "running", runs).await.unwrap();
    full.leaves().await.unwrap();
    other.leaves().await.unwrap();
    env.stop().await.unwrap();
}
