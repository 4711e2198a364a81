//! The node image, what a marooned pod's VM boots: Debian's kernel and a few of its programs, containerd, the kubelet,
//! and our boot program as the first process.
//!
//! One OCI image holds a disk (`/disk/node.img`, a KubeVirt containerDisk) and, for KubeVirt's kernelBoot, kernel and
//! initrd (`/boot/vmlinuz`, `/boot/initrd`). The same commit and the same packages give the same digest.

mod arch;
mod bill;
mod check;
mod cross;
mod depmod;
mod disk;
mod elf;
mod filesystem;
mod host;
mod modules;
mod options;
mod parts;
mod programs;
mod report;
mod tree;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use self::arch::Arch;
use self::host::Host;
pub use self::options::Options;
use self::parts::Parts;
pub use self::report::Sizes;
use crate::apt::Apt;
use crate::cargo::Workspace;
use crate::command::{put, say};
use crate::oci::{Files, Image};

/// The image's name without its tag. Kubernetes would take a bare name for a registry's.
const NAME: &str = "localhost/marooned-node";

/// The image's label that lists what its guests offer beyond a plain node, separated by commas.
pub const CAPABILITIES_LABEL: &str = "io.maroonedpods.capabilities";

/// What guests of this image offer beyond a plain node, as `guestCapabilities` of the configuration is written: the kubelet
/// allows the sysctls of a pod's own namespaces, and mounts NFS.
pub const CAPABILITIES: [&str; 6] = [
    "sysctl/fs.mqueue.*",
    "sysctl/kernel.msg*",
    "sysctl/kernel.sem",
    "sysctl/kernel.shm*",
    "sysctl/net.*",
    "volume/nfs",
];

/// Debian's packages of the programs that make file systems and the disk, and the index of kernel modules.
const TOOLS: [&str; 3] = ["grub-common", "kmod", "squashfs-tools"];

/// The image, and what is in it as plain files.
#[derive(Clone, Debug)]
pub struct Built {
    /// Full reference.
    pub name: String,
    /// The OCI archive.
    pub archive: PathBuf,
    /// Digest of the image's manifest, `sha256:…`.
    pub digest: String,
    /// The raw disk.
    pub disk: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initrd.
    pub initrd: PathBuf,
    /// The bill of materials (CycloneDX JSON), which the image holds too.
    pub sbom: PathBuf,
    /// Of the root file system, by part.
    pub sizes: Sizes,
}

/// Builds the image below cargo's target folder. Needs Debian's apt and dpkg, Go and Rust; no root: nothing is installed.
/// Blocks, for minutes the first time.
///
/// # Errors
/// Something cannot be fetched or built, or the image is not whole: then all that is wrong with it is named.
pub fn build(options: &Options) -> Result<Built> {
    let mut workspace = Workspace::find()?;
    let source = workspace.source()?;
    let work = workspace.target.join("node-image");
    let _lock = lock(&work)?;

    let packages = options.apt(&work, options.arch)?;
    let for_machine = options.prepare(&mut workspace, &packages, &work)?;
    let host = Host::new(for_machine.with_dependencies(&TOOLS)?)?;
    let mut parts = Parts::collect(&workspace, &packages, &work, options, &host)?;

    say("making the root file system and the disk");
    let seconds = u32::try_from(source.time.as_second()).context("no file system knows the commit's time")?;
    let initrd = parts.initrd.cpio(seconds)?;
    let grub = match options.arch {
        Arch::Amd64 => {
            parts
                .root
                .file("kernel", "/boot/vmlinuz", 0o644, parts.kernel.clone())?;
            parts.root.file("initrd", "/boot/initrd", 0o644, initrd.clone())?;
            let package = packages.alone("grub-pc-bin")?;
            let grub = filesystem::grub(&host, &package, &work)?;
            parts.packages.push(package);
            Some(grub)
        }
        Arch::Arm64 => None,
    };
    let disk = disk::disk(
        grub.as_ref(),
        &filesystem::squashfs(&host, &parts.root, seconds, &work)?,
    )?;
    let bill = bill::document(&workspace, options.arch, &parts, &disk, source.time)?;
    let folder = options
        .profile
        .images(&workspace.target)
        .join(match options.arch {
            Arch::Amd64 => "node",
            Arch::Arm64 => "node-arm64",
        });
    fs::create_dir_all(&folder)?;
    let mut files = Files::default();
    files.file("/boot/vmlinuz", 0o644, parts.kernel.clone())?;
    files.file("/boot/initrd", 0o644, initrd.clone())?;
    files.file("/disk/node.img", 0o644, disk.clone())?;
    // Where scanners look for it: any *.cdx.json in an image.
    files.file("/usr/share/sbom/marooned-node.cdx.json", 0o644, bill.clone())?;
    let tag = options.tag.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
    let mut labels = source.labels("marooned-node");
    labels.insert(CAPABILITIES_LABEL.to_owned(), CAPABILITIES.join(","));
    let image = Image {
        name: format!("{NAME}:{tag}"),
        files,
        entrypoint: Vec::new(),
        // KubeVirt's, who reads the disk.
        user: "107:107".to_owned(),
        env: Vec::new(),
        labels,
        created: source.time,
    };
    let archive = image.archive_for(options.arch.name())?;
    Ok(Built {
        name: image.name,
        archive: put(&folder, "marooned-node.tar", &archive.bytes)?,
        digest: archive.digest,
        disk: put(&folder, "node.img", &disk)?,
        kernel: put(&folder, "vmlinuz", &parts.kernel)?,
        initrd: put(&folder, "initrd", &initrd)?,
        sbom: put(&folder, "marooned-node.cdx.json", &bill)?,
        sizes: Sizes::of(&parts.root),
    })
}

/// What is wrong with the image as long as only Debian's packages are in it, of `release` or of the one that `options` has.
/// That takes no compiler, and as little time for another architecture as for this machine's. Blocks, for a minute the first
/// time.
///
/// # Errors
/// Packages cannot be fetched, or one lacks what is to be taken of it.
pub fn problems_of_packages(options: &Options, release: Option<&str>) -> Result<Vec<String>> {
    let workspace = Workspace::find()?;
    let work = workspace.target.join("node-image");
    let _lock = lock(&work)?;
    let arch = options.arch.name();
    let apt = match release {
        Some(release) => Apt::of_release(&work.join(format!("apt-{release}-{arch}")), arch, release)?,
        None => options.apt(&work, options.arch)?,
    };
    let for_machine = options.apt(&work, Arch::of_this_machine()?)?;
    let host = Host::new(for_machine.with_dependencies(&TOOLS)?)?;
    Ok(Parts::of_packages(&workspace, &apt, options.arch, &host, &work)?.problems(options.arch))
}

/// Holds the folder that images are made in until the file is dropped.
fn lock(work: &Path) -> Result<File> {
    fs::create_dir_all(work)?;
    let lock = File::create(work.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Writes into `folder` what the bootc variant takes of us: the boot program and the image of pods' sandboxes. Blocks.
///
/// # Errors
/// One of them cannot be built.
pub fn write_parts(options: &Options, folder: &Path) -> Result<()> {
    let mut workspace = Workspace::find()?;
    let work = workspace.target.join("node-image");
    let _lock = lock(&work)?;
    let packages = options.apt(&work, options.arch)?;
    options.prepare(&mut workspace, &packages, &work)?;
    fs::create_dir_all(folder)?;
    let boot = programs::boot(&workspace, options.profile, options.arch)?;
    put(folder, programs::BOOT_PACKAGE, &boot)?;
    put(folder, "pause.tar", &parts::pause(options.arch)?)?;
    Ok(())
}
