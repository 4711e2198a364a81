//! File systems of the guest, and the scratch disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::{disks, paths};

/// Serial of the disk that `/var` is on.
const SCRATCH_SERIAL: &str = "scratch";
/// The image's containerd folder, with the pause image in it.
const PRELOADED: &str = "/usr/share/marooned/containerd";
/// Where containerd wants it, where it can write.
const CONTAINERD_FOLDER: &str = "/var/lib/containerd";
const CGROUPS: &str = "/sys/fs/cgroup";

/// A file system of the kernel's own.
struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MsFlags,
    options: &'static str,
}

const QUIET: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NODEV);

/// What the initrd mounts; the root gets them handed over.
const EARLY: [Mount; 3] = [
    Mount {
        kind: "proc",
        at: "/proc",
        flags: QUIET,
        options: "",
    },
    Mount {
        kind: "sysfs",
        at: "/sys",
        flags: QUIET,
        options: "",
    },
    Mount {
        kind: "devtmpfs",
        at: "/dev",
        flags: MsFlags::MS_NOSUID,
        options: "mode=0755",
    },
];

/// What the root's init adds.
const LATE: [Mount; 6] = [
    Mount {
        kind: "devpts",
        at: "/dev/pts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        options: "mode=0620,ptmxmode=0666",
    },
    Mount {
        kind: "tmpfs",
        at: "/dev/shm",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        options: "mode=1777",
    },
    Mount {
        kind: "tmpfs",
        at: "/run",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        options: "mode=0755",
    },
    Mount {
        kind: "tmpfs",
        at: "/tmp",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        options: "mode=1777",
    },
    Mount {
        kind: "tmpfs",
        at: paths::CONFIG_FOLDER,
        flags: QUIET,
        options: "mode=0755,size=4m",
    },
    Mount {
        kind: "cgroup2",
        at: CGROUPS,
        flags: QUIET,
        options: "",
    },
];

/// Mounts what the initrd needs, which brings no folders for it.
pub fn early() -> Result<()> {
    for folder in early_folders() {
        fs::create_dir_all(folder)?;
    }
    mount_all(&EARLY)
}

/// Where the early ones are, to be handed over to the root.
pub fn early_folders() -> impl Iterator<Item = &'static str> {
    EARLY.iter().map(|mount| mount.at)
}

/// Mounts what the root's init needs, and passes the controllers on that a kubelet limits pods by.
pub fn late() -> Result<()> {
    for folder in ["/dev/pts", "/dev/shm"] {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    mount_all(&LATE)?;
    // Mounts of the guest show up in pods that ask for it, and back.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        None::<&str>,
    )
    .context("cannot share mounts")?;
    let controllers = fs::read_to_string(Path::new(CGROUPS).join("cgroup.controllers"))?;
    let all: Vec<String> = controllers
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    fs::write(Path::new(CGROUPS).join("cgroup.subtree_control"), all.join(" "))
        .context("cannot pass the cgroup controllers on")
}

/// Makes `/var` of the scratch disk, and fills it with what the image brings.
pub fn scratch() -> Result<()> {
    let device = disks::device(&disks::wait_for_serial(SCRATCH_SERIAL)?);
    if disks::is_blank(File::open(&device)?)? {
        make_file_system(&device)?;
    }
    mount(
        Some(&device),
        "/var",
        Some("ext4"),
        MsFlags::MS_NOATIME,
        None::<&str>,
    )
    .with_context(|| {
        format!(
            "cannot mount {} on /var: the scratch disk must be blank or an ext4",
            device.display()
        )
    })?;
    for folder in ["/var/lib", "/var/log", "/var/tmp", paths::KUBELET_FOLDER] {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    if !Path::new("/var/run").exists() {
        symlink("/run", "/var/run")?;
    }
    if !Path::new(CONTAINERD_FOLDER).exists() {
        copy_folder(Path::new(PRELOADED), Path::new(CONTAINERD_FOLDER))
            .context("cannot copy the preloaded images to the scratch disk")?;
    }
    Ok(())
}

/// Mounts a disk's file system so that nothing can change it.
pub fn read_only(device: &Path, at: &str, kind: &str) -> Result<()> {
    mount(Some(device), at, Some(kind), MsFlags::MS_RDONLY, None::<&str>)
        .with_context(|| format!("cannot mount {} ({kind}) on {at}", device.display()))
}

fn mount_all(mounts: &[Mount]) -> Result<()> {
    for Mount {
        kind,
        at,
        flags,
        options,
    } in mounts
    {
        mount(Some(*kind), *at, Some(*kind), *flags, Some(*options))
            .with_context(|| format!("cannot mount {kind} on {at}: does the image have the folder?"))?;
    }
    Ok(())
}

/// Without a journal: this file system is never used again after a crash. And with as little to write as can be.
fn make_file_system(device: &Path) -> Result<()> {
    let status = Command::new("mkfs.ext4")
        .args([
            "-q",
            "-F",
            "-m",
            "0",
            "-O",
            "^has_journal,^resize_inode",
            "-E",
            "lazy_itable_init=1,nodiscard,packed_meta_blocks=1",
        ])
        .arg(device)
        .env("PATH", paths::PROGRAM_FOLDERS)
        .status()
        .context("cannot run mkfs.ext4, which the image must have")?;
    ensure!(
        status.success(),
        "mkfs.ext4 {} failed ({status})",
        device.display()
    );
    Ok(())
}

/// Files, folders and links with their permissions; all of them are the superuser's.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_is_copied_with_permissions_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("a")).unwrap();
        fs::write(from.join("a/program"), "x").unwrap();
        fs::set_permissions(from.join("a/program"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o711)).unwrap();
        symlink("program", from.join("a/link")).unwrap();

        copy_folder(&from, &to).unwrap();

        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("a"), mode("a/program")), (0o711, 0o755));
        assert_eq!(fs::read_link(to.join("a/link")).unwrap(), Path::new("program"));
        assert_eq!(fs::read_to_string(to.join("a/link")).unwrap(), "x");
    }
}
