//! Linux namespaces, entered by threads: what a thread spawns, threads and processes alike, is where the thread is.

use std::fs::File;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

/// Kinds of namespaces, and their names below `/proc/<pid>/ns`.
const KINDS: [(&str, CloneFlags); 6] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// A private network for the calling thread and what it spawns from now on: no links, no routes, no rules. It goes
/// with the last of them.
pub(super) fn new_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a private network")
}

/// The network of the calling thread.
pub(super) fn network() -> Result<File> {
    Ok(File::open("/proc/thread-self/ns/net")?)
}

/// Moves the calling thread to another network.
pub(super) fn enter_network(network: &File) -> Result<()> {
    setns(network, CloneFlags::CLONE_NEWNET).context("entering a private network")
}

/// The next process that the calling thread spawns is the first of a new set of process ids, and all further ones
/// are in it, too. When the first ends, the kernel kills the rest.
pub(super) fn new_process_ids() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWPID).context("making private process ids")
}

/// Whether this process may make private namespaces; if not, what the kernel says. Blocks for a moment.
pub(super) fn are_allowed() -> Result<()> {
    let wanted = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    on_a_thread(move || Ok(unshare(wanted)?))
}

/// The namespaces of a process.
#[derive(Debug)]
pub(super) struct Namespaces(Vec<(CloneFlags, File)>);

impl Namespaces {
    /// Those of process `id`.
    pub(super) fn of(id: u32) -> Result<Self> {
        let open = |(name, kind)| anyhow::Ok((kind, File::open(format!("/proc/{id}/ns/{name}"))?));
        KINDS.into_iter().map(open).collect::<Result<_>>().map(Self)
    }

    /// Moves the calling thread into them, for good: all but the process ids, which its children get. It can spawn no
    /// more threads.
    pub(super) fn enter(&self) -> Result<()> {
        // The kernel lets no thread change its mounts that shares its working folder with others.
        unshare(CloneFlags::CLONE_FS)?;
        for (kind, namespace) in &self.0 {
            setns(namespace, *kind).with_context(|| format!("entering {kind:?}"))?;
        }
        Ok(())
    }

    /// Runs `work` inside of them, on a thread of its own. Blocks.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            self.enter()?;
            work()
        })
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("it ended in a panic"))?
}
