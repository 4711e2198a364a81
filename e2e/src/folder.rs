//! A plane's temporary folder: gone with the plane, kept when something went wrong.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, Once, PoisonError};
use std::{fs, panic};

use anyhow::{Context, Result};

/// In the folder when it is to stay.
const KEEP: &str = "keep";
/// Waits until its standard input ends, which it does when we close it or die, however that comes about.
const JANITOR: &str = r#"cat >/dev/null; [ -e "$1/keep" ] || until rm -rf "$1"; do sleep 0.1; done"#;

static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A temporary folder. A panic anywhere in the process marks it as kept; without one it is removed when this is
/// dropped, and also when the process ends without dropping it or is killed.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    path: PathBuf,
    janitor: Child,
}

impl WorkFolder {
    pub(crate) fn new() -> Result<Self> {
        keep_on_panic();
        let path = tempfile::Builder::new()
            .prefix("maroonedpods-plane-")
            .tempdir()?
            .keep();
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at a terminal is not for it.
            .process_group(0)
            .spawn()
            .context("starting sh")?;
        live(|folders| folders.push(path.clone()));
        Ok(Self { path, janitor })
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
        self.janitor.stdin.take();
        // Only a folder that cannot be removed is left behind by an error here.
        let _ = self.janitor.wait();
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
