//! The root file system and the boot loader, made by their own tools.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::disk::{Grub, grub_configuration};
use super::host::{self, Host};
use super::tree::Tree;
use crate::apt::Package;
use crate::command;

/// The kernel's arguments when it boots from the disk; the boot program finds its root by itself.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 ro panic=5 no_timer_check quiet";
/// What GRUB must know: the BIOS's disks, their partitions, the root file system, and how Linux is started.
const GRUB_MODULES: [&str; 4] = ["biosdisk", "part_msdos", "squash4", "linux"];

/// A read-only file system (squashfs) of the tree, dated `seconds` since 1970. Nothing in it is compressed: reading costs
/// nothing, which counts most where processors are emulated, and registries compress what they store anyway.
pub(super) fn squashfs(host: &Host, tree: &Tree, seconds: u32, work: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir_in(work)?;
    tree.write(folder.path())?;
    let image = tempfile::NamedTempFile::new_in(work)?;
    let seconds = seconds.to_string();
    command::run(
        host.command("mksquashfs")?
            .args([folder.path(), image.path()])
            .args(["-noappend", "-quiet", "-no-progress", "-no-xattrs", "-all-root"])
            .args(["-all-time", &seconds, "-mkfs-time", &seconds])
            .args(["-noI", "-noD", "-noF", "-noX"]),
    )?;
    fs::read(image.path()).context("reading the root file system")
}

/// GRUB, from Debian's package `grub-pc-bin`, which reads kernel and initrd from the root file system.
pub(super) fn grub(host: &Host, package: &Package, work: &Path) -> Result<Grub> {
    let folder = "usr/lib/grub/i386-pc";
    let configuration = tempfile::NamedTempFile::new_in(work)?;
    fs::write(configuration.path(), grub_configuration(KERNEL_ARGUMENTS))?;
    let core = tempfile::NamedTempFile::new_in(work)?;
    command::run(
        host.command("grub-mkimage")?
            .args(["--format=i386-pc", "--prefix=/boot"])
            .arg("--directory")
            .arg(package.root.join(folder))
            .arg("--config")
            .arg(configuration.path())
            .arg("--output")
            .arg(core.path())
            .args(GRUB_MODULES),
    )?;
    Ok(Grub {
        boot: host::file(package, &format!("{folder}/boot.img"))?,
        core: fs::read(core.path())?,
    })
}
