//! Control groups: each node gets a group of its own below ours, and sees it as the root.
//!
//! Version 1 is a tree per controller; version 2 is one tree. A machine may mount both: version 1 it is where
//! memory is controlled by it. Version 2 has not been run: the machines that this was written on have version 1.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::system::work_folder::Janitor;

/// Joins the groups whose `cgroup.procs` files come before `--`, then becomes the program after it.
pub(super) const JOIN: &str =
    r#"while [ "$1" != -- ]; do echo $$ >"$1" || exit; shift; done; shift; exec "$@""#;
/// Where programs look for control groups.
const MOUNT_POINT: &str = "/sys/fs/cgroup";
/// Groups go when they hold no process any more, which takes a dying one a moment. A minute is never needed.
const REMOVE: &str = r#"for try in $(seq 600); do
    left=
    for group; do
        [ ! -e "$group" ] || find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ ! -e "$group" ] || left=1
    done
    [ -n "$left" ] || exit 0
    sleep 0.1
done"#;
/// Version 2 keeps processes and controllers apart, so a node's own processes sit in a group below the node's.
const LEAF: &str = "processes";
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// A tree of control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tree {
    /// One of version 1, with our own group in it.
    V1 { options: String, own: PathBuf },
    /// That of version 2.
    V2 { root: PathBuf },
}

/// The groups of one node. They are removed when this is dropped, and also when this process is killed.
#[derive(Debug)]
pub(super) struct Groups {
    /// Each with its path on the machine.
    made: Vec<(Tree, PathBuf)>,
    _janitor: Janitor,
}

/// A mount of control groups that a node needs: file system, folder, options.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupMount {
    pub(super) kind: &'static str,
    pub(super) target: PathBuf,
    pub(super) options: Option<String>,
}

impl Groups {
    /// Makes groups called `name`, one in each tree.
    pub(super) fn new(name: &str) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let made: Vec<(Tree, PathBuf)> = trees(&own, &mounts)
            .into_iter()
            .map(|tree| {
                let (Tree::V1 { own: parent, .. } | Tree::V2 { root: parent }) = &tree;
                let group = parent.join(name);
                (tree, group)
            })
            .collect();
        anyhow::ensure!(!made.is_empty(), "no control groups are mounted on this machine");
        let paths: Vec<PathBuf> = made.iter().map(|(_, group)| group.clone()).collect();
        let groups = Self {
            made,
            _janitor: Janitor::new(REMOVE, &paths)?,
        };
        for (tree, group) in &groups.made {
            make(tree, group).with_context(|| format!("making the control group {}", group.display()))?;
        }
        Ok(groups)
    }

    /// What a process of the machine writes its id to, to be in these groups.
    pub(super) fn joined_from_outside(&self) -> Vec<PathBuf> {
        self.made
            .iter()
            .map(|(_, group)| group.join("cgroup.procs"))
            .collect()
    }

    /// The same for a process that sees [`Groups::mounts`].
    pub(super) fn joined_from_inside(&self) -> Vec<PathBuf> {
        let folder = |tree: &Tree| match tree {
            Tree::V1 { options, .. } => folder_of(options),
            Tree::V2 { .. } => Path::new(MOUNT_POINT).join(LEAF),
        };
        self.made
            .iter()
            .map(|(tree, _)| folder(tree).join("cgroup.procs"))
            .collect()
    }

    /// What to mount where these groups are to be the roots.
    pub(super) fn mounts(&self) -> Vec<GroupMount> {
        self.made.iter().map(|(tree, _)| mount_of(tree)).collect()
    }

    /// Lets the node make groups with limits of their own, once its first process is in.
    pub(super) fn delegate(&self) -> Result<()> {
        for (_, group) in self
            .made
            .iter()
            .filter(|(tree, _)| matches!(tree, Tree::V2 { .. }))
        {
            let leaf = group.join(LEAF);
            fs::create_dir(&leaf)?;
            for process in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
                fs::write(leaf.join("cgroup.procs"), process)?;
            }
            enable_controllers(group)?;
        }
        Ok(())
    }
}

fn make(tree: &Tree, group: &Path) -> Result<()> {
    match tree {
        Tree::V1 { own, .. } => {
            fs::create_dir(group)?;
            // A new cpuset is empty, and takes no process before it has processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if group.join(file).exists() {
                    fs::write(group.join(file), fs::read(own.join(file))?)?;
                }
            }
        }
        // Below the root, because a group that holds processes, as ours does, cannot hand controllers on.
        Tree::V2 { root } => {
            enable_controllers(root)?;
            fs::create_dir(group)?;
        }
    }
    Ok(())
}

fn enable_controllers(group: &Path) -> Result<()> {
    for controller in CONTROLLERS {
        fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("handing the controller {controller} on to groups below"))?;
    }
    Ok(())
}

fn folder_of(options: &str) -> PathBuf {
    Path::new(MOUNT_POINT).join(options.trim_start_matches("none,name="))
}

fn mount_of(tree: &Tree) -> GroupMount {
    match tree {
        Tree::V1 { options, .. } => GroupMount {
            kind: "cgroup",
            target: folder_of(options),
            options: Some(options.clone()),
        },
        Tree::V2 { .. } => GroupMount {
            kind: "cgroup2",
            target: PathBuf::from(MOUNT_POINT),
            options: None,
        },
    }
}

/// The trees to use, from `/proc/self/cgroup` and `/proc/self/mountinfo` (cgroups(7), `proc_pid_mountinfo(5)`).
fn trees(own: &str, mounts: &str) -> Vec<Tree> {
    let mounts: Vec<Mounted> = mounts.lines().filter_map(Mounted::parse).collect();
    let first_version: Vec<Tree> = own
        .lines()
        .filter_map(|line| first_version(line, &mounts))
        .collect();
    let controls_memory = |tree: &Tree| matches!(tree, Tree::V1 { options, .. } if options.split(',').any(|word| word == "memory"));
    if first_version.iter().any(controls_memory) {
        return first_version;
    }
    let root = mounts.iter().find(|mount| mount.kind == "cgroup2");
    root.map(|mount| Tree::V2 {
        root: PathBuf::from(mount.point),
    })
    .into_iter()
    .collect()
}

/// A line such as `4:memory:/a/b`.
fn first_version(line: &str, mounts: &[Mounted<'_>]) -> Option<Tree> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    if controllers.is_empty() {
        return None;
    }
    let mount = mounts.iter().find(|mount| {
        mount.kind == "cgroup"
            && controllers
                .split(',')
                .all(|word| mount.options.split(',').any(|option| option == word))
    })?;
    let below = Path::new(path).strip_prefix(mount.root).ok()?;
    let options = match controllers.strip_prefix("name=") {
        Some(_) => format!("none,{controllers}"),
        None => controllers.to_owned(),
    };
    Some(Tree::V1 {
        options,
        own: Path::new(mount.point).join(below),
    })
}

struct Mounted<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mounted<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (place, what) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut what = what.split(' ');
        Some(Self {
            root: place.next()?,
            point: place.next()?,
            kind: what.next()?,
            options: what.nth(1)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(options: &str, own: &str) -> Tree {
        Tree::V1 {
            options: options.to_owned(),
            own: PathBuf::from(own),
        }
    }

    #[test]
    fn version_1_is_a_tree_per_controller() {
        let own = "9:name=systemd:/\n4:memory:/box/a\n1:cpu,cpuacct:/box\n7:rdma:/\n0::/\n";
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 /box /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(
            trees(own, mounts),
            [
                v1("none,name=systemd", "/sys/fs/cgroup/systemd"),
                v1("memory", "/sys/fs/cgroup/memory/box/a"),
                v1("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/"),
            ]
        );
        let systemd = mount_of(&trees(own, mounts)[0]);
        assert_eq!(systemd.target, Path::new("/sys/fs/cgroup/systemd"));
    }

    #[test]
    fn version_2_is_one_tree() {
        let mounts = "41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";
        let root = PathBuf::from("/sys/fs/cgroup");
        assert_eq!(trees("0::/user.slice/x.scope\n", mounts), [Tree::V2 { root }]);
        assert_eq!(trees("0::/\n", ""), []);
    }
}
