//! What ours is compared with: a Debian system such as its cloud images hold, with systemd and cloud-init, around the
//! same kernel release, kubelet, containerd and boot program.
//!
//! It is not one of Debian's images: those are not packages. It is made here from Debian's packages, with fewer
//! services than theirs, and is given kernel and initrd, where theirs has a boot loader read them: both favour it.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use maroonedpods_image_build::apt::debian_release;
use maroonedpods_image_build::command::{last_lines, say};
use maroonedpods_image_build::node_image::{self, Arch};
use maroonedpods_image_build::node_tools::{self, NodeTool};
use maroonedpods_image_build::oci::{Files, Image};

use super::sizes::Sizes;
use crate::system::packages::{self, program};

/// The image's name on the nodes.
pub const IMAGE: &str = "localhost/stock-node:test";
/// What its cloud images are, without what only people at a terminal use.
const PACKAGES: &str = "apparmor,ca-certificates,cloud-guest-utils,cloud-init,dbus,e2fsprogs,initramfs-tools,iproute2,\
                        kmod,linux-image-cloud-amd64,netplan.io,nftables,openssh-server,runc,sudo,systemd-resolved,\
                        systemd-sysv,systemd-timesyncd,udev,unattended-upgrades";
const UNITS: [&str; 3] = [
    "containerd.service",
    "kubelet.service",
    "marooned-node-boot.service",
];
/// The disk has this much for what pods and logs need.
const ROOM_BYTES: u64 = 300 << 20;
const FSTAB: &str = "/dev/disk/by-id/virtio-root / ext4 rw,discard,errors=remount-ro 0 1\n";
/// The images are there from the start, as in ours.
const NO_IMPORT: &str = "[Service]\nExecStartPost=\n";
/// What is reached is told by the names of units. By default, long ones and their descriptions are cut.
const STATUS_NAMES: &str = "[Manager]\nStatusUnitFormat=name\n";
const NODE_BOOT: &str = "marooned-node-boot";

/// A built one.
pub struct Stock {
    /// The OCI image, for [`crate::cluster::Cluster::import`].
    pub archive: PathBuf,
    /// How large it is.
    pub sizes: Sizes,
}

/// Builds it in `folder`, with `preloaded`, OCI archives of images, in its containerd. Installs mmdebstrap where apt-get
/// is, and needs root. Blocks, for minutes.
pub fn build(folder: &Path, preloaded: &[&Path]) -> Result<Stock> {
    packages::provide("the stock guest that ours is compared with", || {
        if program("mmdebstrap").is_none() {
            vec!["mmdebstrap"]
        } else {
            Vec::new()
        }
    })?;
    say("making a stock Debian guest of Debian's packages");
    let ours = folder.join("ours");
    lay_out(&ours, folder, preloaded)?;
    let root = folder.join("root");
    bootstrap(&ours, &root, &folder.join("mmdebstrap.log"))?;
    let boot = |name: &str| fs::read(root.join(name)).with_context(|| format!("Debian's {name}"));
    let (kernel, initrd) = (boot("vmlinuz")?, boot("initrd.img")?);
    let (disk, used) = disk(folder, &root)?;
    fs::remove_dir_all(&root)?;

    let mut files = Files::default();
    let sizes = Sizes {
        disk: used,
        kernel: kernel.len(),
        initrd: initrd.len(),
    };
    files.file("/disk/node.img", 0o644, fs::read(disk)?)?;
    files.file("/boot/vmlinuz", 0o644, kernel)?;
    files.file("/boot/initrd", 0o644, initrd)?;
    let image = Image {
        name: IMAGE.to_owned(),
        files,
        entrypoint: Vec::new(),
        user: "107:107".to_owned(),
        env: Vec::new(),
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    let archive = folder.join("stock-node.tar");
    fs::write(&archive, image.archive()?.bytes)?;
    Ok(Stock { archive, sizes })
}

/// Puts what is ours of it into `ours`: the programs of the node image, and the units of its bootc variant.
fn lay_out(ours: &Path, scratch: &Path, preloaded: &[&Path]) -> Result<()> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/node");
    let units = ours.join("usr/lib/systemd/system");
    for folder in [
        "usr/bin",
        "usr/lib/marooned/cni",
        "etc/containerd",
        "etc/systemd/system.conf.d",
        "var/lib",
    ] {
        fs::create_dir_all(ours.join(folder))?;
    }
    fs::create_dir_all(units.join("containerd.service.d"))?;
    let parts = scratch.join("parts");
    node_image::write_parts(&node_image::Options::for_tests()?, &parts)?;
    let boot = Path::new("usr/bin").join(NODE_BOOT);
    let copies = [
        (parts.join(NODE_BOOT), ours.join(&boot)),
        (
            recipe.join("root/etc/containerd/config.toml"),
            ours.join("etc/containerd/config.toml"),
        ),
    ];
    let programs = [NodeTool::Containerd, NodeTool::ContainerdShim, NodeTool::Kubelet].map(|tool| {
        let to = ours.join("usr/bin").join(tool.name());
        anyhow::Ok((node_tools::find(tool, Arch::Amd64.name())?, to))
    });
    let units = UNITS.map(|unit| Ok((recipe.join("bootc/units").join(unit), units.join(unit))));
    for copy in copies.map(Ok).into_iter().chain(programs).chain(units) {
        let (from, to) = copy?;
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    }
    fs::set_permissions(ours.join(&boot), Permissions::from_mode(0o755))?;
    symlink(
        Path::new("/").join(&boot),
        ours.join("usr/lib/marooned/cni/marooned-pass-through"),
    )?;
    fs::write(
        ours.join("usr/lib/systemd/system/containerd.service.d/preloaded.conf"),
        NO_IMPORT,
    )?;
    fs::write(ours.join("etc/systemd/system.conf.d/names.conf"), STATUS_NAMES)?;
    fs::write(ours.join("etc/fstab"), FSTAB)?;
    fs::write(ours.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    let preload = node_tools::find(NodeTool::Preload, Arch::Amd64.name())?;
    let mut command = Command::new(preload);
    command
        .arg(ours.join("var/lib/containerd"))
        .arg(parts.join("pause.tar"))
        .args(preloaded);
    run(&mut command, &scratch.join("preload.log"))
}

/// Installs Debian into `root`, and what is ours over it.
fn bootstrap(ours: &Path, root: &Path, log: &Path) -> Result<()> {
    // The machine's proxies. Its sources may be of others than Debian.
    let acquire = Command::new("apt-config").args(["dump", "Acquire"]).output()?;
    let options = log.with_file_name("apt.conf");
    fs::write(&options, acquire.stdout)?;
    let release = debian_release()?;
    let hook = |what: String| format!("--customize-hook={what}");
    let enable = "systemd-networkd systemd-resolved marooned-node-boot";
    let mut command = Command::new(program("mmdebstrap").context("mmdebstrap is missing")?);
    command
        .args([
            "--variant=required",
            "--format=directory",
            &format!("--include={PACKAGES}"),
        ])
        .arg(format!("--aptopt={}", options.display()))
        .arg(hook(format!("sync-in {} /", ours.display())))
        // Where ours has it. Debian moves it from the one folder to the other.
        .arg(hook(
            "[ -e \"$1\"/usr/bin/runc ] || ln -s ../sbin/runc \"$1\"/usr/bin/runc".to_owned(),
        ))
        .arg(hook(format!("chroot \"$1\" systemctl enable {enable}")))
        // The guest has no such proxy.
        .arg(hook("rm -f \"$1\"/etc/apt/apt.conf.d/99mmdebstrap".to_owned()))
        .args([&release, &root.display().to_string()]);
    run(&mut command, log)
}

/// A file system of what is in `root`, in a file; and how many bytes that takes, without the file system's own and without
/// the room that it has.
fn disk(folder: &Path, root: &Path) -> Result<(PathBuf, usize)> {
    let used = Command::new("du")
        .args(["--summarize", "--block-size=1"])
        .arg(root)
        .output()?;
    let used = String::from_utf8(used.stdout)?;
    let used: usize = used
        .split_whitespace()
        .next()
        .context("du says nothing")?
        .parse()?;
    let path = folder.join("stock.img");
    // A twentieth for inodes and the journal.
    File::create(&path)?.set_len(u64::try_from(used + used / 20)? + ROOM_BYTES)?;
    let mut command = Command::new(program("mkfs.ext4").context("mkfs.ext4 is missing: install e2fsprogs")?);
    command.args(["-q", "-F", "-d"]).arg(root).arg(&path);
    run(&mut command, &folder.join("mkfs.log"))?;
    Ok((path, used))
}

fn run(command: &mut Command, log: &Path) -> Result<()> {
    let output = File::create(log)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    ensure!(
        status.success(),
        "{} failed ({status}):\n{}",
        command.get_program().display(),
        last_lines(log, 20)
    );
    Ok(())
}
