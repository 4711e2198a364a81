//! The container images: what is in them runs by itself, as an unprivileged user.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use maroonedpods_image_build::program_images::{Built, images};
use serde_json::Value;
use tempfile::TempDir;

/// One file of a tar archive.
fn member(archive: &Path, path: &str) -> Vec<u8> {
    let mut archive = tar::Archive::new(File::open(archive).unwrap());
    let mut found = archive
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .find(|entry| entry.path().unwrap() == Path::new(path))
        .unwrap();
    let mut content = Vec::new();
    found.read_to_end(&mut content).unwrap();
    content
}

fn blob(image: &Built, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap();
    member(&image.archive, &format!("blobs/{}", digest.replace(':', "/")))
}

fn document(image: &Built, descriptor: &Value) -> Value {
    serde_json::from_slice(&blob(image, descriptor)).unwrap()
}

/// Unpacks the image's one layer, and gives its configuration.
fn unpack(image: &Built) -> (TempDir, Value) {
    let index: Value = serde_json::from_slice(&member(&image.archive, "index.json")).unwrap();
    let manifest = document(image, &index["manifests"][0]);
    let root = tempfile::tempdir().unwrap();
    tar::Archive::new(blob(image, &manifest["layers"][0]).as_slice())
        .unpack(root.path())
        .unwrap();
    (root, document(image, &manifest["config"])["config"].take())
}

/// Runs the entrypoint as its user with nothing around it but the layer, in a user namespace: no root is needed.
fn run(image: &Built, argument: &str) -> String {
    let (root, config) = unpack(image);
    let user = config["User"].as_str().unwrap().split(':').next().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-user", user, "--map-group", user, "--root"])
        .arg(root.path())
        .arg(config["Entrypoint"][0].as_str().unwrap())
        .arg(argument)
        .env_clear()
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", image.name);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn both_images_run_with_nothing_around_them() {
    let images = images().unwrap();
    for (image, flag) in [
        (&images.webhook, "--tls-dir"),
        (&images.reconciler, "--kubeconfig"),
    ] {
        let help = run(image, "--help");
        assert!(help.contains(flag), "{}: {help}", image.name);
    }
}

#[test]
fn an_image_holds_its_program_and_its_bill_of_materials() {
    let images = images().unwrap();
    let image = &images.webhook;
    let (root, _) = unpack(image);
    let inside = std::fs::read(root.path().join("usr/share/sbom/maroonedpods-webhook.cdx.json")).unwrap();
    assert_eq!(inside, std::fs::read(&image.sbom).unwrap());

    let bill: Value = serde_json::from_slice(&inside).unwrap();
    let components = bill["components"].as_array().unwrap();
    let names: BTreeSet<_> = components
        .iter()
        .map(|component| component["name"].as_str().unwrap())
        .collect();
    // What is linked in is named, what only tests or the other program need is not.
    for linked in ["rustls", "ring", "maroonedpods-common", "glibc", "rust-std"] {
        assert!(names.contains(linked), "{linked} is not in {names:?}");
    }
    for foreign in [
        "proptest",
        "kube-client",
        "serde_derive",
        "maroonedpods-e2e",
        "maroonedpods-image-build",
        "maroonedpods-testing",
    ] {
        assert!(!names.contains(foreign), "{foreign} is in {names:?}");
    }
    let unlicensed: Vec<_> = components
        .iter()
        .filter(|component| component["licenses"].is_null())
        .collect();
    assert!(unlicensed.is_empty(), "{unlicensed:?}");
}
