//! Marooned pods in real virtual machines, as their users see them.
//!
//! Needs root, Debian's apt and a C compiler; what is skipped without root is named.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod attacks;
mod credentials;
mod dead_vm;
mod faults;
mod first;
mod fit;
mod hostile;
mod jobs;
mod kernel;
mod kubevirt;
mod names;
mod network;
mod nfs;
mod pods;
mod ports;
mod probes;
mod reconfigured;
mod registry;
mod sizes;
mod user;

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use maroonedpods_e2e::api::read::condition;
use maroonedpods_e2e::cluster::{provide, with_cluster};
use maroonedpods_e2e::harness::real_env::{Archives, RealEnv};
use maroonedpods_e2e::harness::registry::program;
use maroonedpods_e2e::install::dns;
use maroonedpods_e2e::kubevirt::Kvm;
use maroonedpods_image_build::apt::{Apt, debian_release};
use maroonedpods_image_build::node_image::Arch;
use maroonedpods_image_build::node_tools;
use serde_json::{Value, json};

use self::first::First;
use self::sizes::Size;
use self::user::Setup;

#[test]
fn a_pod_runs_in_a_real_virtual_machine() {
    // Without the smaller size of these tests' VMs, the defaults hold.
    with_real_env(None, &json!({"baseVMResources": null}), async |env| {
        let first = First::runs(env).await;
        first.has_another_kernel().await;
        first.has_the_default_size().await;
        first.ends().await;
    });
}

/// Kubernetes supports kubelets that are up to three minor versions older than the API server.
#[test]
#[ignore = "minutes of compiling: hack/test --real"]
fn a_node_has_an_older_kubelet() {
    let kubelet = node_tools::older_kubelet(Arch::of_this_machine().unwrap().name()).unwrap();
    with_real_env(Some(kubelet), &json!({}), async |env| {
        let first = First::runs(env).await;
        first.has_another_kernel().await;
        let info = first.node().await.status.unwrap().node_info.unwrap();
        assert_eq!(info.kubelet_version, node_tools::older_kubelet_version().unwrap());
        assert_ne!(
            info.kubelet_version,
            node_tools::pinned_kubernetes_version().unwrap()
        );
        first.ends().await;
    });
}

#[test]
#[ignore = "minutes of guests: hack/test --real"]
fn pods_reach_each_other() {
    let folder = tempfile::tempdir().unwrap();
    // Built before there is a cluster: from its network nothing can be downloaded.
    let names = provide().unwrap().then(|| dns::image(folder.path()).unwrap());
    with_real_env(None, &json!({}), async |env| {
        env.cluster().import(names.as_ref().unwrap()).await.unwrap();
        network::pods_reach_each_other(env).await;
    });
}

#[test]
#[ignore = "minutes of guests: hack/test --real"]
fn pods_hostile_guests_and_faults() {
    let config = json!({
        // Little for the system, so that one processor has room for pods of many sizes.
        "resourceOverhead": {"cpu": "100m", "memory": "512Mi"},
        "deadlines": {"boot": "4m", "join": "5m", "finishedPodTTL": "20s"},
    });
    // As above.
    let folder = tempfile::tempdir().unwrap();
    let prepared = provide().unwrap().then(|| {
        let registry = program(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
        // Kept for the next run.
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("apt");
        let apt = Apt::of_release(&kept, "amd64", &debian_release().unwrap()).unwrap();
        let programs = kernel::programs(&apt, folder.path());
        (registry, programs, nfs::image(&apt, folder.path()))
    });
    with_real_env(None, &config, async |env| {
        let (registry, programs, nfs) = prepared.as_ref().unwrap();
        let setup = Setup::new(env);
        // Each starts when there is room for its guests.
        tokio::join!(
            pods::everything(&setup),
            pods::failing_containers(&setup),
            probes::fail(&setup),
            registry::is_pulled_from(&setup, registry),
            kernel::offers_what_users_need(&setup, programs),
            nfs::is_mounted(&setup, nfs),
            jobs::completes(&setup),
            hostile::breached(&setup),
            jobs::is_not_restarted(&setup),
            fit::a_pod_fits(&setup, Size("600m", "1Gi")),
            fit::a_pod_fits(&setup, Size("700m", "2Gi")),
            fit::a_pod_fits(&setup, Size("800m", "3Gi")),
        );
        // Each alone: the other host node must have room, or all VMs are concerned.
        faults::drained(&setup).await;
        kubevirt::parts_are_down(&setup).await;
        kubevirt::launchers_cannot_start(&setup).await;
        setup.sizes.print();
    });
}

#[test]
#[ignore = "minutes of guests: hack/test --real"]
fn kubevirt_is_changed_and_uninstalled() {
    let config = json!({"deadlines": {"boot": "240s", "join": "5m", "finishedPodTTL": "20s"}});
    with_real_env(None, &config, async |env| {
        reconfigured::changed_and_uninstalled(&Setup::new(env)).await;
    });
}

/// Runs a test on a cluster of its own with the chart installed; `config` is laid over these tests' configuration (a null
/// takes a field out), and guests have this kubelet, or the cluster's.
fn with_real_env(kubelet: Option<PathBuf>, config: &Value, test: impl AsyncFnOnce(&RealEnv<'_>) + Send) {
    let archives = provide().unwrap().then(|| Archives::make(kubelet).unwrap());
    let options = archives.as_ref().map(Archives::cluster);
    with_cluster(options.unwrap_or_default(), async |cluster| {
        let archives = archives.as_ref().unwrap();
        let env = RealEnv::install(&cluster, archives, Kvm::Auto, config)
            .await
            .unwrap();
        test(&env).await;
        drop(env);
        cluster.stop().await.unwrap();
    })
    .unwrap();
}

/// Whether the pod's Ready condition holds.
fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}
