//! Child processes that never outlive their owner, however it ends.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::{io, mem};

use anyhow::{Context, Result};

/// A group of child processes. They are killed when it is dropped, and by the kernel when this process dies
/// without dropping it.
///
/// The kernel's part is the parent-death signal, prctl(2) `PR_SET_PDEATHSIG`, set by `setpriv` of util-linux.
/// It is bound to the *thread* that spawned the child, so one thread spawns all of them and lives as long as
/// they do: a thread of an async runtime may end at any time.
#[derive(Debug)]
pub struct Processes {
    children: Mutex<Vec<Running>>,
    requests: Option<mpsc::Sender<Request>>,
    spawner: Option<JoinHandle<()>>,
}

/// A child that has ended without being told to.
#[derive(Debug)]
pub struct Ended {
    /// Name given at start.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub log: PathBuf,
}

#[derive(Debug)]
struct Running {
    name: String,
    log: PathBuf,
    child: Child,
}

struct Request {
    command: Command,
    reply: mpsc::Sender<io::Result<Child>>,
}

impl Processes {
    /// No processes yet.
    pub fn new() -> Result<Self> {
        Self::prepared(|| Ok(()))
    }

    /// No processes yet; `prepare` runs on the thread that will spawn them. What a thread has of its own, such as
    /// its namespaces, its children inherit.
    pub fn prepared(prepare: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Self> {
        let (requests, incoming) = mpsc::channel::<Request>();
        let (report, prepared) = mpsc::channel();
        let spawner = thread::Builder::new()
            .name("process-spawner".to_owned())
            .spawn(move || {
                // The requester waits for this and for each reply; if it is gone, no one needs the answer.
                let _ = report.send(prepare());
                for Request { mut command, reply } in incoming {
                    let _ = reply.send(command.spawn());
                }
            })?;
        prepared.recv().context("the spawning thread is gone")??;
        Ok(Self {
            children: Mutex::default(),
            requests: Some(requests),
            spawner: Some(spawner),
        })
    }

    /// Starts `program` with both outputs in `log`, in a process group of its own: Ctrl-C at a terminal reaches
    /// us alone, and we end the children in order. Returns its process id.
    pub fn start(&self, name: &str, program: &Path, arguments: &[String], log: &Path) -> Result<u32> {
        let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);

        let (reply, answer) = mpsc::channel();
        let requests = self
            .requests
            .as_ref()
            .context("the processes are being stopped")?;
        requests
            .send(Request { command, reply })
            .ok()
            .context("the spawning thread is gone")?;
        let child = answer
            .recv()
            .context("the spawning thread is gone")?
            .with_context(|| format!("starting {name}; `setpriv` of util-linux is needed"))?;
        let id = child.id();
        self.children().push(Running {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
        });
        Ok(id)
    }

    /// The first child that has ended, if one has.
    pub fn ended(&self) -> Result<Option<Ended>> {
        for running in self.children().iter_mut() {
            if let Some(status) = running.child.try_wait()? {
                return Ok(Some(Ended {
                    name: running.name.clone(),
                    status,
                    log: running.log.clone(),
                }));
            }
        }
        Ok(None)
    }

    /// Kills the children of this name, and waits until they are gone.
    pub fn end(&self, name: &str) -> Result<()> {
        let mut children = self.children();
        for running in children.iter_mut().filter(|running| running.name == name) {
            // Fails only for a child that has ended.
            let _ = running.child.kill();
            running.child.wait()?;
        }
        children.retain(|running| running.name != name);
        Ok(())
    }

    /// Process ids, in order of start.
    pub fn ids(&self) -> Vec<u32> {
        self.children().iter().map(|running| running.child.id()).collect()
    }

    fn children(&self) -> MutexGuard<'_, Vec<Running>> {
        // Every change of the list is complete at once, so a panic elsewhere does not leave it inconsistent.
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Processes {
    /// Kills and reaps every child, the last one first.
    fn drop(&mut self) {
        let mut children = mem::take(&mut *self.children());
        for running in children.iter_mut().rev() {
            // Fails only for a child that has ended.
            let _ = running.child.kill();
        }
        for running in &mut children {
            let _ = running.child.wait();
        }
        self.requests.take();
        if let Some(spawner) = self.spawner.take() {
            let _ = spawner.join();
        }
    }
}
