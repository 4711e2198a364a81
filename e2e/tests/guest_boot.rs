//! The node image in bare QEMU: does it boot both ways, does it say what is wrong?
//!
//! Guests here are emulated and have no API server: they get as far as a kubelet that looks for one. What is missing on
//! the machine (QEMU) is installed by apt-get, which needs root; without root and QEMU the tests are reported as skipped.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;
use std::time::Duration;

use maroonedpods_common::api::JoinMode;
use maroonedpods_common::join_info::{JoinInfo, KubeletSettings, Token};
use maroonedpods_e2e::harness::bare_guest::{self, BootFrom, Guest, phases, user_data};
use maroonedpods_image_build::node_image::{Built, Options, build};

/// A boot takes seconds; this is for a machine that does much else.
const SOON: Duration = Duration::from_secs(300);
const SECRET: &str = "0123456789abcdef";

fn image() -> &'static Built {
    static IMAGE: OnceLock<Built> = OnceLock::new();
    IMAGE.get_or_init(|| build(&Options::for_tests().unwrap()).unwrap())
}

fn join_info() -> JoinInfo {
    let pod_uid = "0d2f7a3e-5b1c-4c58-9d0e-3f6a1b2c4d5e";
    JoinInfo {
        server_url: "https://10.0.2.1:6443".to_owned(),
        token: Token::new("abcdef", SECRET),
        pod_uid: pod_uid.to_owned(),
        taint_key: "maroonedpods.io".to_owned(),
        node_name: format!("marooned-{pod_uid}"),
        ca: rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem(),
        mode: JoinMode::Kubelet,
        cluster_dns: None,
        cluster_domain: "cluster.local".to_owned(),
        host_network: false,
        kubelet: KubeletSettings {
            port: 65250,
            reserved_cpu_milli: 100,
            reserved_memory_mi: 224,
            eviction_memory_mi: 50,
        },
    }
}

fn reaches_its_kubelet(from: BootFrom) {
    if !bare_guest::is_possible() {
        return;
    }
    let guest = Guest::start(image(), from, &user_data(&join_info()).unwrap()).unwrap();
    let reached = guest
        .until(SOON, |console| {
            let phases = phases(console);
            phases
                .iter()
                .any(|phase| phase.name == "kubelet")
                .then_some(phases)
        })
        .unwrap();
    let names: Vec<_> = reached.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(
        names,
        ["initrd", "init", "seed", "network", "containerd", "kubelet"]
    );
    assert!(reached.is_sorted_by(|before, after| before.elapsed <= after.elapsed));
    println!("{from:?}: {reached:?}");

    // It is the right kubelet: it asks the server of the seed for a certificate.
    guest
        .until(SOON, |console| console.contains("10.0.2.1:6443").then_some(()))
        .unwrap();
    let console = guest.console().unwrap();
    assert!(
        !console.contains(SECRET),
        "the token is on the console:\n{console}"
    );

    guest.press_power_button().unwrap();
    guest.until_off(SOON).unwrap();
    let last = phases(&guest.console().unwrap()).pop().unwrap();
    assert_eq!(last.name, "poweroff");
}

#[test]
fn a_guest_boots_by_its_kernel_and_ends_at_the_power_button() {
    reaches_its_kubelet(BootFrom::Kernel);
}

#[test]
fn a_guest_boots_from_its_disk_and_ends_at_the_power_button() {
    reaches_its_kubelet(BootFrom::Disk);
}

#[test]
fn a_guest_that_cannot_join_says_so_and_switches_itself_off() {
    if !bare_guest::is_possible() {
        return;
    }
    let broken = user_data(&join_info()).unwrap().replace("taint_key", "taintKey");
    let guest = Guest::start(image(), BootFrom::Kernel, &broken).unwrap();
    guest.until_off(SOON).unwrap();
    let console = guest.console().unwrap();
    let errors: Vec<_> = console
        .lines()
        .filter(|line| line.contains("marooned: error"))
        .collect();
    assert!(
        matches!(errors.as_slice(), [one] if one.contains("taintKey")),
        "{errors:?}"
    );
    let names: Vec<_> = phases(&console).into_iter().map(|phase| phase.name).collect();
    assert_eq!(names, ["initrd", "init", "poweroff"]);
}
