//! Rights are least: each is used by a call that the API server saw, and no call was denied. And every
//! write names its field manager and carries a precondition.
//!
//! One control plane, on which reconciler and guests do all that they can do; hooks and certificates are judged
//! where they run for real, in the tests named `installed`. A right that a new scenario needs is granted in the chart; a
//! scenario for a right that is reported as unused goes into [`everything`].

#![allow(clippy::unwrap_used)]

use anyhow::Result;
use futures::future::{FutureExt, LocalBoxFuture, try_join_all};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::api::MaroonedPodsConfig;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::GuestEvent;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::cut_proxy::CutProxy;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON, pod};
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::harness::writes::careless;
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::install::rights::{all_used, denied, granted};
use maroonedpods_e2e::install::{programs_outside, render};
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

/// An environment and a namespace in it.
struct Setup {
    env: TestEnv,
    admin: Client,
    namespace: TestNamespace,
}

impl Setup {
    async fn new() -> Self {
        let env = TestEnv::start(0).await.unwrap();
        let admin = env.control_plane().admin().await.unwrap();
        let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
        Self {
            env,
            admin,
            namespace,
        }
    }

    async fn pod(&self, name: &str, script: &Script) -> Result<MaroonedPod> {
        MaroonedPod::create(&self.admin, &self.namespace.name, name, script).await
    }
}

/// A life as it should be.
async fn life(setup: &Setup) -> Result<()> {
    let pod = setup.pod("life", &Script::default()).await?;
    pod.running().await?;
    pod.ends().await
}

/// Each VM ends before it has joined.
async fn failure(setup: &Setup) -> Result<()> {
    let dies_early = Script {
        never_joins: true,
        dies_at: Some(0.5),
        ..Script::default()
    };
    let pod = setup.pod("failure", &dies_early).await?;
    pod.reports("AttemptsExhausted").await?;
    pod.ends().await
}

/// The VM ends under its pod.
async fn power_cut(setup: &Setup) -> Result<()> {
    let pod = setup.pod("power-cut", &Script::default()).await?;
    pod.running().await?;
    pod.power_off(1).await?;
    pod.fails().await?;
    pod.leaves_nothing().await
}

/// The kubelet does not stop a pod that its user deletes.
async fn silence(setup: &Setup) -> Result<()> {
    let script = Script {
        silent_at: Some(10.0),
        ..Script::default()
    };
    let mut wanted = pod("silence", &script)?;
    wanted.spec.as_mut().unwrap().termination_grace_period_seconds = Some(1);
    let pod = MaroonedPod::create_pod(&setup.admin, &setup.namespace.name, &wanted).await?;
    pod.running().await?;
    eventually("a silent kubelet", SOON, || async {
        let log = setup.env.kubevirt().guests().of(&pod.node_name());
        Ok(log.contains(&GuestEvent::FellSilent).then_some(()))
    })
    .await?;
    pod.ends().await
}

/// A drain of the host.
async fn eviction(setup: &Setup) -> Result<()> {
    let pod = setup.pod("eviction", &Script::default()).await?;
    pod.running().await?;
    setup.env.kubevirt().evict(&pod.node_name()).await?;
    pod.gone().await?;
    pod.leaves_nothing().await
}

/// A VM's host is labelled with another zone.
async fn relabelling(setup: &Setup) -> Result<()> {
    let pod = setup.pod("relabelling", &Script::default()).await?;
    pod.running().await?;
    let vmi = pod.vmi(1, "Running").await?;
    let host = vmi.data["status"]["nodeName"].as_str().unwrap_or_default();
    let zone = Patch::Merge(json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "other"}}}));
    pod.nodes().patch(host, &PatchParams::default(), &zone).await?;
    let follows = |node: &Node| {
        node.labels()
            .get("topology.kubernetes.io/zone")
            .is_some_and(|z| z == "other")
    };
    becomes(&pod.nodes(), &pod.node_name(), "in the other zone", SOON, follows).await?;
    pod.ends().await
}

/// A pod that the scheduler cannot place, with a claim that gets its volume later.
async fn binding(setup: &Setup) -> Result<()> {
    let volumes: Api<PersistentVolume> = Api::all(setup.admin.clone());
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(setup.admin.clone(), &setup.namespace.name);
    let (size, modes) = (json!({"storage": "1Mi"}), json!(["ReadWriteOnce"]));
    let claim_ref = json!({"namespace": setup.namespace.name, "name": "binding"});
    let volume = json!({"metadata": {"name": "binding"}, "spec": {"claimRef": claim_ref,
        "capacity": size, "accessModes": modes, "storageClassName": "none", "hostPath": {"path": "/tmp"}}});
    let claim = json!({"metadata": {"name": "binding"}, "spec": {
        "resources": {"requests": size}, "accessModes": modes, "storageClassName": "none"}});
    accepts(&claims, &serde_json::from_value(claim)?).await?;
    let mut wanted = pod("binding", &Script::default())?;
    let spec = wanted.spec.get_or_insert_default();
    spec.volumes =
        serde_json::from_value(json!([{"name": "v", "persistentVolumeClaim": {"claimName": "binding"}}]))?;
    spec.topology_spread_constraints = serde_json::from_value(json!([
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}]))?;
    let pod = MaroonedPod::create_pod(&setup.admin, &setup.namespace.name, &wanted).await?;
    pod.reports("Unplaceable").await?;
    accepts(&volumes, &serde_json::from_value(volume)?).await?;
    pod.running().await?;
    pod.ends().await?;
    volumes.delete("binding", &DeleteParams::default()).await?;
    Ok(())
}

/// A person deletes the record of a running pod.
async fn lost_record(setup: &Setup) -> Result<()> {
    let pod = setup.pod("lost-record", &Script::default()).await?;
    pod.running().await?;
    pod.records()
        .delete(&pod.node_name(), &DeleteParams::default())
        .await?;
    pod.fails().await?;
    pod.leaves_nothing().await
}

/// The configuration changes. Deadlines are long from here on: how many VMs a pod takes must not depend on how busy
/// the machine is.
async fn patience(setup: &Setup) -> Result<MaroonedPodsConfig> {
    let spec = json!({"deadlines": {"boot": "5m", "join": "5m"}});
    Ok(config::change(&setup.admin, &spec).await?)
}

/// A pod for which reconciler after reconciler dies, each right after a write, until its VM runs. The next one finds
/// what the last one made.
async fn interruptions(setup: &Setup) -> Result<MaroonedPod> {
    let identity = setup.env.reconciler_identity().await?;
    let folder = setup.env.control_plane().folder();
    let pod = setup.pod("interruptions", &Script::default()).await?;
    let lives = async {
        loop {
            let proxy = CutProxy::open(identity.client.clone(), folder, 1).await?;
            let reconciler = TestEnv::reconciler_with(proxy.kubeconfig.clone(), false).await?;
            proxy.cut().await;
            drop(reconciler);
        }
    };
    tokio::select! {
        ended = lives => ended,
        launched = pod.vmi(1, "Running") => launched.map(|_| pod),
    }
}

/// All that our accounts ever do. Once a reconciler stays, scenarios run at once, each on a pod of its own.
async fn everything(setup: &Setup) -> Result<()> {
    let changed = patience(setup).await?;
    let interrupted = interruptions(setup).await?;
    let reconciler = setup.env.reconciler(true).await?;
    let scenarios: [LocalBoxFuture<'_, Result<()>>; 9] = [
        life(setup).boxed_local(),
        failure(setup).boxed_local(),
        power_cut(setup).boxed_local(),
        silence(setup).boxed_local(),
        eviction(setup).boxed_local(),
        lost_record(setup).boxed_local(),
        binding(setup).boxed_local(),
        relabelling(setup).boxed_local(),
        interrupted.ends().boxed_local(),
    ];
    try_join_all(scenarios).await?;
    config::seen(&setup.admin, &changed).await?;
    // A watch is in the log when it has ended.
    reconciler.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_right_is_used_and_every_write_is_careful() {
    logs();
    let setup = Setup::new().await;
    let objects = render(&programs_outside(
        "https://127.0.0.1:1",
        &setup.env.control_plane().ca_pem(),
    ))
    .await
    .unwrap();
    let rights = granted(&objects).unwrap();
    assert!(rights.len() > 30, "{rights:?}");
    everything(&setup).await.unwrap();
    eventually("a use of each right", SOON, || async {
        all_used(&rights, &setup.env.control_plane().audit()?)
    })
    .await
    .unwrap();
    let log = setup.env.control_plane().audit().unwrap();
    let denied = denied(&log);
    assert!(denied.is_empty(), "denied:\n{}", denied.join("\n"));
    // All that a reconciler ever writes is in this log.
    let careless = careless(&log);
    assert!(careless.is_empty(), "careless:\n{}", careless.join("\n"));
    setup.env.stop().await.unwrap();
}
