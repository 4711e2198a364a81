//! Reconcilers die, and there are two of them: nothing is done twice, nothing is forgotten.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::future::try_join_all;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use maroonedpods_common::api::MaroonedPodsConfig;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::leftovers::nothing_left;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::cut_proxy::CutProxy;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::test_env::{Running, TestEnv};
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

/// More than a pod's whole life takes, with a restart at each write.
const LIFE: Duration = Duration::from_secs(180);

/// An environment of its own, in which no deadline passes while reconcilers come and go.
async fn patient_world() -> (TestEnv, Client, TestNamespace) {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let configs: Api<MaroonedPodsConfig> = Api::all(admin.clone());
    let patience = Patch::Merge(json!({"spec": {"deadlines": {"boot": "5m", "join": "5m"}}}));
    configs
        .patch(names::CONFIG_NAME, &PatchParams::default(), &patience)
        .await
        .unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    (env, admin, namespace)
}

async fn is_clean(admin: &Client) {
    eventually("nothing to be left", SOON, || async {
        let left = nothing_left(admin).await?;
        anyhow::ensure!(left.is_empty(), "left: {}", left.join(", "));
        Ok(Some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_reconcilers_at_once_do_nothing_twice() {
    let (env, admin, namespace) = patient_world().await;
    let _first = env.reconciler(false).await.unwrap();
    let _second = env.reconciler(false).await.unwrap();
    let names: Vec<_> = (0..10).map(|n| format!("pod-{n}")).collect();
    let script = Script::default();
    let create = |name| MaroonedPod::create(&admin, &namespace.name, name, &script);
    let pods = try_join_all(names.iter().map(|name| create(name))).await.unwrap();
    try_join_all(pods.iter().map(MaroonedPod::running)).await.unwrap();
    try_join_all(pods.iter().map(MaroonedPod::ends)).await.unwrap();
    is_clean(&admin).await;
    let mut created: Vec<_> = env
        .control_plane()
        .audit()
        .unwrap()
        .into_iter()
        .filter(|e| {
            e.is_write() && e.verb == "create" && e.resource == "virtualmachineinstances" && e.code == 201
        })
        .map(|e| e.name)
        .collect();
    created.sort();
    let mut expected: Vec<_> = pods.iter().map(MaroonedPod::node_name).collect();
    expected.sort();
    assert_eq!(created, expected);
}

async fn leads(reconciler: &Running) {
    eventually("leadership", SOON, || async {
        Ok((reconciler.metric("maroonedpods_leader").await? > 0.0).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_passes_on_when_the_leader_stops_and_when_it_dies() {
    let (env, admin, namespace) = patient_world().await;
    let runs = async |name: &str| {
        let pod = MaroonedPod::create(&admin, &namespace.name, name, &Script::default()).await?;
        pod.running().await?;
        anyhow::Ok(pod)
    };
    let first = env.reconciler(true).await.unwrap();
    leads(&first).await;
    let second = env.reconciler(true).await.unwrap();
    let one = runs("one").await.unwrap();
    assert!(second.metric("maroonedpods_leader").await.unwrap() < 1.0);

    first.stop().await.unwrap();
    leads(&second).await;
    let third = env.reconciler(true).await.unwrap();
    let two = runs("two").await.unwrap();
    assert!(third.metric("maroonedpods_leader").await.unwrap() < 1.0);

    drop(second);
    leads(&third).await;
    let three = runs("three").await.unwrap();
    try_join_all([&one, &two, &three].map(MaroonedPod::ends))
        .await
        .unwrap();
    is_clean(&admin).await;
}

/// Runs reconciler after reconciler, each for so many writes, until `goal` is reached. Returns how many died.
async fn lives(env: &TestEnv, writes: u32, goal: impl Future<Output = anyhow::Result<()>>) -> u32 {
    let identity = env.reconciler_identity().await.unwrap();
    let mut deaths = 0;
    let live = async {
        loop {
            let proxy = CutProxy::open(identity.client.clone(), env.control_plane().folder(), writes)
                .await
                .unwrap();
            let reconciler = TestEnv::reconciler_with(proxy.kubeconfig.clone(), false)
                .await
                .unwrap();
            proxy.cut().await;
            drop(reconciler);
            deaths += 1;
        }
    };
    tokio::select! {
        () = live => {}
        reached = tokio::time::timeout(LIFE, goal) => reached.unwrap().unwrap(),
    }
    deaths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciler_that_dies_after_each_of_its_writes_gets_there() {
    let (env, admin, namespace) = patient_world().await;
    for (writes, fewest_deaths) in [(1, 10), (2, 5), (3, 3)] {
        let name = format!("pod-{writes}");
        let pod = MaroonedPod::create(&admin, &namespace.name, &name, &Script::default())
            .await
            .unwrap();
        let deaths = lives(&env, writes, async { pod.running_within(LIFE).await.map(drop) }).await;
        assert!(
            deaths >= fewest_deaths,
            "only {deaths} deaths at {writes} writes each"
        );
        pod.delete().await.unwrap();
        lives(&env, writes, async { pod.leaves_nothing().await }).await;
    }
    is_clean(&admin).await;
}
