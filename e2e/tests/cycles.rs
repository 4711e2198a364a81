//! A cluster with `KubeVirt` and a VM, killed: does it leave the machine as it was? Once, or as often as
//! `MAROONEDPODS_CYCLES` says; each time it prints how long the cluster took to come up, and to be gone.
//!
//! Needs root, Debian's apt and a C compiler; what is skipped without root is named.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

#[path = "nodes/traces.rs"]
mod traces;

use std::env;
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::DynamicObject;
use maroonedpods_e2e::api::check::{accepts, becomes};
use maroonedpods_e2e::api::read::vmis;
use maroonedpods_e2e::cluster::{Cluster, ClusterOptions, provide, with_cluster};
use maroonedpods_e2e::harness::real_env::provide_tools;
use maroonedpods_e2e::harness::test_env::make_vm_namespace;
use maroonedpods_e2e::kubevirt::{self, Kvm, Programs};
use serde_json::json;
use tokio::runtime::Runtime;

use self::traces::{hold_and_kill, machine};

const SOON: Duration = Duration::from_secs(120);
const CYCLES: &str = "MAROONEDPODS_CYCLES";

/// Builds what is missing, before a cluster's network takes the registries away.
fn options() -> (Programs, ClusterOptions) {
    provide_tools().unwrap();
    let programs = Programs::build().unwrap();
    let options = ClusterOptions {
        images: Some(programs.images()),
        ..ClusterOptions::default()
    };
    (programs, options)
}

/// Run by the test below, in a process to be killed.
#[test]
#[ignore = "waits until it is killed"]
fn holds_a_vm() {
    let (programs, options) = options();
    let begun = Instant::now();
    with_cluster(options, async |cluster| {
        kubevirt::install(&cluster, &programs, Kvm::Never).await.unwrap();
        println!("up after {:.1} s", begun.elapsed().as_secs_f64());
        run_a_vm(&cluster).await;
        println!("VM runs after {:.1} s", begun.elapsed().as_secs_f64());
        println!("FOLDER={}", cluster.control_plane().folder().display());
        std::future::pending::<()>().await;
    })
    .unwrap();
}

/// It has no disk, so that its firmware finds nothing to boot.
async fn run_a_vm(cluster: &Cluster) {
    let admin: Client = cluster.control_plane().admin().await.unwrap();
    make_vm_namespace(&admin).await.unwrap();
    let vmi = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm"},
        "spec": {
            "domain": {
                "memory": {"guest": "64Mi"},
                "devices": {"interfaces": [{"name": "default", "masquerade": {}}]},
            },
            "networks": [{"name": "default", "pod": {}}],
        },
    });
    let vmi: DynamicObject = serde_json::from_value(vmi).unwrap();
    let vmis = vmis(&admin);
    accepts(&vmis, &vmi).await.unwrap();
    let runs = |vmi: &DynamicObject| vmi.data["status"]["phase"] == "Running";
    becomes(&vmis, "vm", "running", SOON, runs).await.unwrap();
}

#[test]
fn a_killed_cluster_with_a_vm_leaves_the_machine_as_it_was() {
    if !provide().unwrap() {
        // Says that it is skipped.
        return with_cluster(ClusterOptions::default(), async |_| ()).unwrap();
    }
    options();
    let before = machine();
    let cycles = env::var(CYCLES).map_or(1, |text| text.parse().unwrap());
    for cycle in 1..=cycles {
        let said = Runtime::new().unwrap().block_on(hold_and_kill("holds_a_vm"));
        let times: Vec<_> = said.into_iter().filter(|line| line.contains(" after ")).collect();
        println!("cycle {cycle}: {}", times.join(", "));
        assert_eq!(machine(), before);
    }
}
