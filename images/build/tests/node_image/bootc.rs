//! The bootc variant, as far as it can be tested without its base image.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../node")
}

fn run(command: &mut Command) -> (bool, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (status.success(), said.concat())
}

/// The value of `ARG NAME=value`.
fn default(name: &str) -> String {
    let file = fs::read_to_string(folder().join("Containerfile.node")).unwrap();
    let line = file
        .lines()
        .find_map(|line| line.strip_prefix(&format!("ARG {name}=")));
    line.unwrap().to_owned()
}

#[test]
fn its_versions_are_those_of_the_minimal_image() {
    let pinned = |module: &str, name: &str| {
        let path = folder().join("../../hack/tools").join(module).join("go.mod");
        let text = fs::read_to_string(path).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{name} ")));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(default("KUBELET_VERSION"), pinned("", "k8s.io/kubernetes"));
    assert_eq!(
        default("CONTAINERD_VERSION"),
        pinned("containerd", "github.com/containerd/containerd/v2")
    );
}

/// A `curl` that answers every download with "hello".
fn with_curl(command: &mut Command, folder: &std::path::Path) -> (bool, String) {
    let curl = folder.join("curl");
    fs::write(
        &curl,
        "#!/bin/sh\nwhile [ \"$1\" != --output ]; do shift; done\nprintf hello > \"$2\"\n",
    )
    .unwrap();
    fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    run(command.env("PATH", path))
}

#[test]
fn a_download_counts_only_with_the_right_checksum() {
    let scratch = tempfile::tempdir().unwrap();
    let fetch = |sum: &str| {
        let mut fetch = Command::new(folder().join("bootc/fetch"));
        fetch
            .arg("program")
            .arg(scratch.path().join("program"))
            .args([sum, "https://files.example/program"]);
        with_curl(&mut fetch, scratch.path())
    };
    let (fetched, said) = fetch("");
    assert!(!fetched && said.contains("give the SHA-256"), "{said}");
    let (fetched, said) = fetch(&HELLO.replace('2', "3"));
    assert!(!fetched && said.contains("is not what it should be"), "{said}");
    assert!(!scratch.path().join("program").exists());

    let (fetched, said) = fetch(HELLO);
    assert!(fetched, "{said}");
    let program = scratch.path().join("program");
    assert_eq!(fs::read(&program).unwrap(), b"hello");
    assert_eq!(fs::metadata(program).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn additions_are_installed_and_run_in_order() {
    let scratch = tempfile::tempdir().unwrap();
    let additions = scratch.path().join("additions");
    let log = scratch.path().join("log");
    fs::create_dir(&additions).unwrap();
    fs::write(
        additions.join("a.packages"),
        "# tools\nstrace  # for debugging\nlsof\n",
    )
    .unwrap();
    fs::write(
        additions.join("20.sh"),
        format!("echo second >> {}", log.display()),
    )
    .unwrap();
    fs::write(
        additions.join("10.sh"),
        format!("echo first >> {}", log.display()),
    )
    .unwrap();
    fs::write(additions.join("README.md"), "no script").unwrap();
    let dnf = scratch.path().join("dnf");
    fs::write(&dnf, format!("#!/bin/sh\necho dnf \"$@\" >> {}\n", log.display())).unwrap();
    fs::set_permissions(&dnf, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", scratch.path().display(), std::env::var("PATH").unwrap());
    let apply = || {
        let mut command = Command::new(folder().join("bootc/drop-in"));
        run(command.arg(&additions).env("PATH", &path))
    };

    let (applied, said) = apply();
    assert!(applied, "{said}");
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "dnf install -y strace lsof\ndnf clean all\nfirst\nsecond\n"
    );

    fs::write(additions.join("15.sh"), "false\necho never").unwrap();
    let (applied, said) = apply();
    assert!(!applied && !said.contains("never"), "{said}");
}

#[test]
fn make_names_what_is_not_set() {
    let make = |arguments: &[&str]| {
        run(Command::new("make")
            .current_dir(folder())
            .arg("--dry-run")
            .args(arguments))
    };
    let (made, said) = make(&["build-node-image"]);
    assert!(!made && said.contains("set BASE_IMAGE"), "{said}");
    let (made, said) = make(&[
        "build-node-image",
        "ENGINE=podman",
        "BASE_IMAGE=base@sha256:0",
        "KUBERNETES_RELEASES=https://kubernetes.example/release",
        "FORGE=https://forge.example",
        "KUBELET_SHA256=1",
        "CONTAINERD_SHA256=2",
        "RUNC_SHA256=3",
        "CNI_SHA256=4",
        "NODE_IMAGE=name:1",
    ]);
    assert!(made, "{said}");
    assert!(
        said.contains("podman build --file Containerfile.node --tag name:1"),
        "{said}"
    );
    assert!(said.contains("--build-arg BASE_IMAGE=base@sha256:0"), "{said}");
}
