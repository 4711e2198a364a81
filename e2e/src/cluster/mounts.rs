//! What a node sees of the machine's file system: all of it, but for what a node writes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::cgroup::GroupMount;

/// The settings of the kernel that a kubelet insists on (`protectKernelDefaults`). They are the machine's, so the
/// node is shown a file that says what it wants to read.
const KERNEL_SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
/// Folders that the programs of a node take for their own, and where in the node's folder they are.
const OWN_FOLDERS: [(&str, &str); 2] = [("/var/lib", "var-lib"), ("/var/log", "log")];

/// Mounts what a node needs over what the machine has. Call it inside the node's namespaces; `folder` is the
/// node's.
pub(super) fn arrange(folder: &Path, groups: &[GroupMount]) -> Result<()> {
    // Pods may ask that what they mount be seen by the node (mountPropagation: Bidirectional).
    propagate(Path::new("/"), MsFlags::MS_SHARED | MsFlags::MS_REC)?;
    new("tmpfs", Path::new("/run"), Some("mode=755"))?;
    new("sysfs", Path::new("/sys"), None)?;
    arrange_groups(groups)?;
    for (target, name) in OWN_FOLDERS {
        let own = folder.join(name);
        fs::create_dir_all(&own)?;
        bind(&own, Path::new(target))?;
    }
    let settings = folder.join("kernel");
    fs::create_dir_all(&settings)?;
    for (setting, value) in KERNEL_SETTINGS {
        let shown = settings.join(setting.replace('/', "."));
        fs::write(&shown, format!("{value}\n"))?;
        bind(&shown, &Path::new("/proc/sys").join(setting))?;
    }
    Ok(())
}

fn arrange_groups(groups: &[GroupMount]) -> Result<()> {
    if groups.iter().any(|group| group.kind == "cgroup") {
        new("tmpfs", Path::new("/sys/fs/cgroup"), Some("mode=755"))?;
    }
    for group in groups {
        fs::create_dir_all(&group.target)?;
        new(group.kind, &group.target, group.options.as_deref())?;
    }
    Ok(())
}

fn new(kind: &str, target: &Path, options: Option<&str>) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mounting {kind} on {}", target.display()))
}

fn bind(source: &PathBuf, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting {} on {}", source.display(), target.display()))
}

fn propagate(target: &Path, how: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, how, None::<&str>)
        .with_context(|| format!("changing how mounts below {} are seen", target.display()))
}
