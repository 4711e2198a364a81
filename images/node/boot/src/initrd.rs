//! The first stage: finds the root file system, switches to it, and goes on there.

use std::convert::Infallible;
use std::env;
use std::ffi::CString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chroot, execv};

use crate::console::{self, Phase};
use crate::{disks, modules, mounts};

/// Where the root is while the initrd still is one.
const ROOT: &str = "/mnt";
/// What the image's root is.
const ROOT_KIND: &str = "squashfs";

/// From the kernel's first process to the root's init.
pub fn run() -> Result<Infallible> {
    mounts::early()?;
    console::reached(Phase::Initrd);
    modules::load()?;
    let command_line = fs::read_to_string("/proc/cmdline")?;
    let root = disks::last_partition(&disks::wait_for_serial(disks::root_serial(&command_line)?)?)?;
    fs::create_dir_all(ROOT)?;
    mounts::read_only(&root, ROOT, ROOT_KIND)?;
    for folder in mounts::early_folders() {
        let target = Path::new(ROOT).join(folder.trim_start_matches('/'));
        move_mount(folder, &target)
            .with_context(|| format!("cannot hand {folder} over: does the root have the folder?"))?;
    }
    // An initrd is memory, and nothing else gives it back.
    fs::remove_dir_all(modules::FOLDER)?;
    fs::remove_file("/init")?;
    env::set_current_dir(ROOT)?;
    move_mount(".", Path::new("/")).context("cannot put the root in the initrd's place")?;
    chroot(".")?;
    env::set_current_dir("/")?;
    let init = CString::new("/sbin/init")?;
    execv(&init, &[&init]).context("cannot run /sbin/init of the root")
}

fn move_mount(from: &str, to: &Path) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
}
