//! A control plane's temporary folder: removed with the control plane, kept when something went wrong. A helper process
//! takes care of that even when this process is killed.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, Once, PoisonError};
use std::{fs, panic};

use anyhow::{Context, Result};

/// Name of a file in the folder that says to keep the folder.
const KEEP: &str = "keep";
const REMOVE: &str = r#"[ -e "$1/keep" ] || until rm -rf "$1"; do sleep 0.1; done"#;

static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A temporary folder. A panic anywhere in the process marks it as kept; without one it is removed when this is
/// dropped, and also when the process ends without dropping it or is killed.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    path: PathBuf,
    // Its drop removes the folder.
    _janitor: Janitor,
}

/// A shell command that runs when this is dropped, and also when this process ends without dropping it or is
/// killed.
#[derive(Debug)]
pub(crate) struct Janitor(Child);

impl Janitor {
    /// `script` finds `arguments` as `$1` and so on.
    pub(crate) fn new(script: &str, arguments: &[PathBuf]) -> Result<Self> {
        let waiting = Command::new("sh")
            // Its standard input ends when we close it or die, however that comes about.
            .args(["-c", &format!("cat >/dev/null; {script}"), "janitor"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // In a process group of its own, so that Ctrl-C at a terminal does not reach it.
            .process_group(0)
            .spawn()
            .context("starting sh")?;
        Ok(Self(waiting))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.0.stdin.take();
        // What cannot be removed is left behind: a drop cannot report an error.
        let _ = self.0.wait();
    }
}

impl WorkFolder {
    pub(crate) fn new() -> Result<Self> {
        keep_on_panic();
        let path = tempfile::Builder::new()
            .prefix("maroonedpods-control-plane-")
            .tempdir()?
            .keep();
        let janitor = Janitor::new(REMOVE, std::slice::from_ref(&path))?;
        live(|folders| folders.push(path.clone()));
        Ok(Self {
            path,
            _janitor: janitor,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Keeps the folder and says where it is.
    pub(crate) fn keep(&self) {
        mark(&self.path);
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        live(|folders| folders.retain(|folder| *folder != self.path));
    }
}

fn mark(folder: &Path) {
    let marker = folder.join(KEEP);
    if !marker.exists() && File::create(&marker).is_ok() {
        eprintln!("the control plane's logs are kept in {}", folder.display());
    }
}

fn keep_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            previous(info);
            live(|folders| folders.iter().for_each(|folder| mark(folder)));
        }));
    });
}

fn live(change: impl FnOnce(&mut Vec<PathBuf>)) {
    change(&mut LIVE.lock().unwrap_or_else(PoisonError::into_inner));
}
