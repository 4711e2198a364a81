//! The node image: is it complete, and the same each time? `e2e/tests/guest_boot.rs` boots it.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

mod bootc;

use std::collections::BTreeMap;
use std::fs;

use jiff::Timestamp;
use maroonedpods_image_build::node_image::{Arch, Options, build, problems_of_packages};
use maroonedpods_image_build::oci::{Files, Image};

#[test]
fn two_builds_give_the_same_image() {
    let [one, another] = [(); 2].map(|()| build(&Options::for_tests().unwrap()).unwrap());
    assert_eq!(one.digest, another.digest);
}

/// What two images share, a layer or all but the name, is stored once.
#[test]
fn images_that_share_a_layer_are_preloaded() {
    let folder = tempfile::tempdir().unwrap();
    let images = [("one", "1"), ("another", "1"), ("third", "2")];
    let preload = images.map(|(name, argument)| {
        let mut files = Files::default();
        files.file("/file", 0o644, b"the same".to_vec()).unwrap();
        let image = Image {
            name: format!("localhost/{name}:1"),
            files,
            entrypoint: vec![argument.to_owned()],
            user: "0:0".to_owned(),
            env: Vec::new(),
            labels: BTreeMap::new(),
            created: Timestamp::UNIX_EPOCH,
        };
        let archive = folder.path().join(name);
        fs::write(&archive, image.archive().unwrap().bytes).unwrap();
        archive
    });
    let options = Options {
        preload: preload.to_vec(),
        ..Options::for_tests().unwrap()
    };
    build(&options).unwrap();
}

/// It is not booted. A build fails unless all programs are for arm64, and their libraries there.
#[test]
#[ignore = "minutes of compiling: hack/test --arm64"]
fn for_arm64_too_the_image_is_whole_and_the_same_each_time() {
    let options = Options {
        arch: Arch::Arm64,
        ..Options::for_tests().unwrap()
    };
    let built = build(&options).unwrap();
    let kernel = fs::read(&built.kernel).unwrap();
    assert_eq!(&kernel[56..60], b"ARMd", "no kernel for arm64");
    let bill = fs::read_to_string(&built.sbom).unwrap();
    for part in [
        "/libc6@",
        "/runc@",
        "/k8s.io/kubernetes@",
        "/rust-std@",
        "/glibc@",
        "/serde@",
    ] {
        assert!(bill.contains(part), "the bill of materials lacks {part}");
    }
    assert!(
        !bill.contains("arch=amd64"),
        "the bill of materials has packages for amd64"
    );
    assert_eq!(build(&options).unwrap().digest, built.digest);
}

/// What is missing as long as nothing is compiled.
const OURS: [&str; 6] = [
    "root: /sbin/init is missing",
    "root: /usr/bin/containerd is missing",
    "root: /usr/bin/containerd-shim-runc-v2 is missing",
    "root: /usr/bin/kubelet is missing",
    "root: /usr/share/marooned/containerd/io.containerd.metadata.v1.bolt/meta.db is missing",
    "initrd: /init is missing",
];

#[test]
fn for_arm64_too_debian_brings_all_that_is_not_ours() {
    let options = Options {
        arch: Arch::Arm64,
        ..Options::for_tests().unwrap()
    };
    assert_eq!(problems_of_packages(&options, None).unwrap(), OURS);
}

/// Its files are below /usr alone, and its kernel modules are compressed.
#[test]
fn debian_13_too_brings_all_that_is_not_ours() {
    let options = Options::for_tests().unwrap();
    assert_eq!(problems_of_packages(&options, Some("trixie")).unwrap(), OURS);
}
