//! The image of all of `KubeVirt`'s programs, with libvirt and QEMU of Debian below them.
//!
//! One image for all, of one layer: `KubeVirt` names a program in each of its containers.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use maroonedpods_image_build::apt::Apt;
use maroonedpods_image_build::command::{run, say};
use maroonedpods_image_build::go::{self, Module};
use maroonedpods_image_build::node_tools::{self, NodeTool};
use maroonedpods_image_build::oci::{Files, Image};

use super::programs;
use crate::system::{debian, stores};

/// The image's name on the nodes.
pub(super) const IMAGE: &str = "localhost/kubevirt:1";
/// The release of Debian whose libvirt and QEMU are new enough for `KubeVirt`: libvirt 11, QEMU 10.
const RELEASE: &str = "trixie";
/// What `KubeVirt`'s programs start, with all that it depends on.
const PACKAGES: [&str; 20] = [
    "bash",
    "coreutils",
    "findutils",
    "gawk",
    "grep",
    "iproute2",
    "libc-bin",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-log",
    "mount",
    "nftables",
    "procps",
    "qemu-system-x86",
    "qemu-utils",
    "sed",
    "tar",
    "util-linux",
    "xorriso",
];
/// What no container needs of them.
const LEFT_OUT: [&str; 6] = [
    "./usr/share/qemu/edk2*",
    "./usr/share/qemu/opensbi*",
    "./usr/share/qemu/skiboot*",
    "./usr/bin/qemu-system-i386",
    "./usr/bin/qemu-system-x86_64-microvm",
    "./usr/bin/qemu-storage-daemon",
];
/// The user of programs that say only that theirs is not root.
const OTHERS: &str = "1001:1001";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash
qemu:x:107:107:qemu:/home/qemu:/bin/bash
libvirt-qemu:x:64055:64055::/var/lib/libvirt:/bin/sh
";
// Debian's libvirt insists on its own user and group.
const GROUP: &str = "root:x:0:
qemu:x:107:
libvirt-qemu:x:64055:
libvirt:x:64056:
kvm:x:64057:
";
const NAME_SERVICE: &str =
    "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n";
/// Debian has one daemon for all drivers, which is the same program under another name. `KubeVirt` starts virtqemud,
/// looks for a process of that name, and dials its socket.
const VIRTQEMUD: &str = r#"#!/bin/sh
folder=${XDG_RUNTIME_DIR:-/run}/libvirt
[ "$(id -u)" = 0 ] && { folder=/run/libvirt; mkdir -p /var/log/libvirt; }
mkdir -p "$folder"
ln -sfn libvirt-sock "$folder/virtqemud-sock"
exec /usr/libexec/libvirt-daemon/virtqemud "$@"
"#;
/// `CAP_NET_BIND_SERVICE`, which the launcher's monitor passes on to libvirt and has as a file capability, since it does
/// not run as root.
const NET_BIND_SERVICE: u32 = 1 << 10;

/// A containerd folder with the image in it, for [`crate::cluster::ClusterOptions::images`]. Builds it in `cache`, where the
/// programs are, if that was not done yet by this version of this file. Needs root, and Debian's apt, which fetches packages
/// and installs none. Blocks, for minutes the first time.
pub(super) fn build(cache: &Path) -> Result<PathBuf> {
    let store = stores::store(cache, &[include_str!("image.rs"), debian::RECIPE]);
    let preload = node_tools::find(NodeTool::Preload, "amd64")?;
    let unfinished = cache.join("unfinished-image");
    let _lock = go::lock(cache)?;
    if !store.exists() {
        // Of a build that was killed.
        stores::clear(&unfinished)?;
        make(cache, &unfinished, &preload, &store)?;
    }
    stores::use_one(&store, &unfinished)?;
    Ok(store)
}

fn make(cache: &Path, unfinished: &Path, preload: &Path, store: &Path) -> Result<()> {
    say("making KubeVirt's image of Debian's packages, once");
    let apt = Apt::of_release(&cache.join("apt"), "amd64", RELEASE)?;
    let root = unfinished.join("root");
    lay_out(&root)?;
    debian::unpack(&apt, &PACKAGES, &LEFT_OUT, &root)?;
    let source = go::module_folder(Module::KubeVirt, "kubevirt.io/kubevirt")?;
    configure(&source, &root)?;
    add_programs(cache, &source, &root)?;
    find_libraries(&root)?;
    let archive = unfinished.join("kubevirt.tar");
    fs::write(&archive, pack(&root)?)?;
    let whole = unfinished.join("store");
    run(Command::new(preload).arg(&whole).arg(&archive))?;
    fs::rename(whole, store)?;
    fs::remove_dir_all(unfinished)?;
    Ok(())
}

/// The file system of the image, which must not be changed.
pub(super) fn root(store: &Path) -> PathBuf {
    store.join("io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs")
}

/// The folders and links that packages are unpacked into.
fn lay_out(root: &Path) -> Result<()> {
    debian::lay_out(root)?;
    for folder in [
        "etc/libvirt/hooks",
        "home/qemu",
        "init/usr/bin",
        "proc",
        "root",
        "run/libvirt",
        "sys",
        "dev",
        "var/cache",
        "var/lib",
        "var/log",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    // Relative: virt-handler looks through /proc/PID/root.
    symlink("../run", root.join("var/run"))?;
    for folder in ["tmp", "var/tmp"] {
        fs::create_dir(root.join(folder))?;
        fs::set_permissions(root.join(folder), Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

/// Writes what the programs read. `source` is KubeVirt's.
fn configure(source: &Path, root: &Path) -> Result<()> {
    let launcher = source.join("cmd/virt-launcher");
    for (path, text) in [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/nsswitch.conf", NAME_SERVICE),
        ("etc/machine-id", ""),
    ] {
        fs::write(root.join(path), text)?;
    }
    for (file, path, mode) in [
        ("qemu.conf", "etc/libvirt/qemu.conf", 0o644),
        ("virtqemud.conf", "etc/libvirt/virtqemud.conf", 0o644),
        ("qemu", "etc/libvirt/hooks/qemu", 0o755),
        (
            "node-labeller/node-labeller.sh",
            "usr/bin/node-labeller.sh",
            0o755,
        ),
    ] {
        install(&launcher.join(file), &root.join(path), mode)?;
    }
    for link in [("bash", "usr/bin/sh"), ("gawk", "usr/bin/awk")] {
        let path = root.join(link.1);
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path)?;
        }
        symlink(link.0, path)?;
    }
    // The launcher, which is not root, replaces the hook. Nodes that share unpacked images forget owners.
    for path in ["etc/libvirt/hooks", "etc/libvirt/hooks/qemu", "home/qemu"] {
        fs::set_permissions(root.join(path), Permissions::from_mode(0o777))?;
    }
    let daemon = root.join("usr/libexec/libvirt-daemon");
    fs::create_dir_all(&daemon)?;
    fs::rename(root.join("usr/sbin/libvirtd"), daemon.join("virtqemud"))?;
    let wrapper = root.join("usr/sbin/virtqemud");
    fs::write(&wrapper, VIRTQEMUD)?;
    fs::set_permissions(wrapper, Permissions::from_mode(0o755))?;
    Ok(())
}

fn add_programs(cache: &Path, source: &Path, root: &Path) -> Result<()> {
    for program in programs::IN_IMAGE {
        install(&cache.join(program), &root.join("usr/bin").join(program), 0o755)?;
    }
    // It is put into the containers of disks, whatever they hold besides, so it is static.
    run(Command::new("gcc")
        .args(["-O2", "-static", "-o"])
        .arg(root.join("usr/bin/container-disk"))
        .arg(source.join("cmd/container-disk-v2alpha/main.c")))
    .context("compiling KubeVirt's container-disk: a C compiler is needed (Debian: gcc, libc6-dev)")?;
    Ok(())
}

/// Writes the loader's cache, and finds out whether a library is missing.
fn find_libraries(root: &Path) -> Result<()> {
    let inside = || {
        let mut command = Command::new("chroot");
        command.arg(root);
        command
    };
    debian::find_libraries(root)?;
    let programs = [
        "/usr/libexec/libvirt-daemon/virtqemud",
        "/usr/sbin/virtlogd",
        "/usr/bin/qemu-system-x86_64",
        "/usr/bin/qemu-img",
        "/usr/bin/virsh",
        "/usr/sbin/nft",
        "/usr/bin/findmnt",
        "/usr/bin/xorriso",
        "/usr/bin/ps",
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
    ];
    for program in programs {
        let libraries = run(inside().arg("/usr/bin/ldd").arg(program))?;
        let missing: Vec<_> = libraries
            .lines()
            .filter(|line| line.contains("not found"))
            .collect();
        ensure!(
            missing.is_empty(),
            "{program} of Debian {RELEASE} lacks libraries in KubeVirt's image: {missing:?}"
        );
    }
    Ok(())
}

fn pack(root: &Path) -> Result<Vec<u8>> {
    let mut files = Files::default();
    files.tree(root)?;
    files.capabilities("/usr/bin/virt-launcher-monitor", NET_BIND_SERVICE)?;
    let image = Image {
        name: IMAGE.to_owned(),
        files,
        entrypoint: Vec::new(),
        user: OTHERS.to_owned(),
        env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    Ok(image.archive()?.bytes)
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    fs::set_permissions(to, Permissions::from_mode(mode))?;
    Ok(())
}
