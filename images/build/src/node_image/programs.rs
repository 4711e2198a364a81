//! The programs of the image: Debian's with their shared libraries, ours of Go and Rust, static.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::arch::Arch;
use super::options::Options;
use super::tree::Tree;
use super::{elf, host};
use crate::Profile;
use crate::apt::Package;
use crate::cargo::Workspace;
use crate::node_tools::{self, NodeTool};

/// Where they are in the image.
pub(super) const PATHS: [&str; 11] = [
    BOOT,
    "/sbin/mount.nfs",
    "/usr/bin/containerd",
    "/usr/bin/containerd-shim-runc-v2",
    "/usr/bin/kmod",
    "/usr/bin/kubelet",
    "/usr/bin/mkfs.ext4",
    "/usr/bin/mount",
    "/usr/bin/nft",
    "/usr/bin/runc",
    "/usr/bin/umount",
];
/// The boot program, which is the first process.
pub(super) const BOOT: &str = "/sbin/init";
/// The boot program under another name: the CNI plugin.
pub(super) const CNI_PLUGIN: &str = "/usr/lib/marooned/cni/marooned-pass-through";
/// The cargo package of the boot program, and its program.
pub(super) const BOOT_PACKAGE: &str = "marooned-node-boot";

/// Debian's packages, and of each the program that the image takes, with the path it has there.
pub(super) const DEBIAN: [(&str, &str, &str); 7] = [
    ("runc", "runc", "/usr/bin/runc"),
    ("nftables", "nft", "/usr/bin/nft"),
    ("e2fsprogs", "mke2fs", "/usr/bin/mkfs.ext4"),
    // The kubelet runs them for every volume that is in memory: Secrets and service accounts' tokens.
    ("mount", "mount", "/usr/bin/mount"),
    ("mount", "umount", "/usr/bin/umount"),
    ("nfs-common", "mount.nfs", "/sbin/mount.nfs"),
    // The kernel runs it, under the name of modprobe, for what it has as a module.
    ("kmod", "kmod", "/usr/bin/kmod"),
];
/// The Go programs of the image.
const GO: [NodeTool; 3] = [NodeTool::Containerd, NodeTool::ContainerdShim, NodeTool::Kubelet];

/// Adds Debian's programs and the shared libraries that they need; gives the packages that something was taken of.
pub(super) fn add_debian(root: &mut Tree, packages: &[Package], arch: Arch) -> Result<Vec<Package>> {
    let mut used = Vec::new();
    let mut programs = Vec::new();
    for (name, program, path) in DEBIAN {
        let package = packages.iter().find(|package| package.name == name);
        let package = package.with_context(|| format!("apt brought no package {name}"))?;
        // Debian moves them from the one to the other.
        let from = ["bin", "sbin", "usr/bin", "usr/sbin"]
            .map(|folder| package.root.join(folder).join(program))
            .into_iter()
            .find(|path| path.is_file())
            .with_context(|| format!("the package {name} has no {program}"))?;
        root.file(name, path, 0o755, fs::read(&from)?)?;
        programs.push(from);
        if name == "e2fsprogs" {
            root.file(
                name,
                "/etc/mke2fs.conf",
                0o644,
                host::file(package, "etc/mke2fs.conf")?,
            )?;
        }
        if !used.iter().any(|used: &Package| used.name == package.name) {
            used.push(package.clone());
        }
    }
    let libraries = elf::libraries(&programs, |name| host::library(packages, arch, name))?;
    for (name, from) in &libraries {
        if name != arch.loader() {
            let path = format!("/lib/{}/{name}", arch.multiarch());
            root.file("shared libraries", &path, 0o755, fs::read(from)?)?;
        }
    }
    let loader = host::library(packages, arch, arch.loader()).context("no package brings the loader")?;
    root.file(
        "shared libraries",
        &interpreter(&programs)?,
        0o755,
        fs::read(&loader)?,
    )?;
    for package in packages {
        let of_package = |path: &PathBuf| path.starts_with(&package.root);
        if !used.contains(package) && (libraries.values().any(of_package) || of_package(&loader)) {
            used.push(package.clone());
        }
    }
    Ok(used)
}

/// The path at which all of the programs look for their loader.
fn interpreter(programs: &[PathBuf]) -> Result<String> {
    let first = programs.first().context("there are no programs")?;
    let facts = elf::facts(&fs::read(first)?)?;
    facts
        .and_then(|facts| facts.interpreter)
        .with_context(|| format!("{} names no loader", first.display()))
}

/// Adds the Go programs; gives their files, for the bill of materials.
pub(super) fn add_go(root: &mut Tree, options: &Options) -> Result<Vec<PathBuf>> {
    GO.into_iter()
        .map(|tool| {
            let from = match (tool, &options.kubelet) {
                (NodeTool::Kubelet, Some(given)) => given.clone(),
                _ => node_tools::find(tool, options.arch.name())?,
            };
            let path = format!("/usr/bin/{}", tool.name());
            let program = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
            root.file(tool.name(), &path, 0o755, program)?;
            Ok(from)
        })
        .collect()
}

/// Builds the boot program.
///
/// # Errors
/// It does not compile.
pub(super) fn boot(workspace: &Workspace, profile: Profile, arch: Arch) -> Result<Vec<u8>> {
    let program = workspace.build(BOOT_PACKAGE, profile, arch.rust_target())?;
    fs::read(&program).with_context(|| format!("reading {}", program.display()))
}
