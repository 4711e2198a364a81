//! The program that `hack/demo` builds and starts: to its end, interrupted, and killed. Each time nothing of it is left.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use maroonedpods_e2e::api::check::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);
/// A bound for giving up, on a loaded machine.
const WHOLE_DEMO: Duration = Duration::from_secs(900);
const DONE: &str = "done: each marooned pod had a node of its own, and nothing of it is left";

/// A demo at work, with a folder for its files.
struct Demo {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    files: TempDir,
    seen: Vec<String>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_demo"))
            .args(arguments)
            .env("TMPDIR", files.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            output,
            files,
            seen: Vec::new(),
        }
    }

    /// Reads on until a line contains `text`.
    async fn says(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.output.next_line().await.unwrap() {
                self.seen.push(line.clone());
                if line.contains(text) {
                    return line;
                }
            }
            panic!("the demo never said {text:?}:\n{}", self.seen.join("\n"))
        };
        timeout(WHOLE_DEMO, found).await.unwrap()
    }

    async fn ends(&mut self) -> ExitStatus {
        let end = async {
            while let Some(line) = self.output.next_line().await.unwrap() {
                self.seen.push(line);
            }
            self.child.wait().await.unwrap()
        };
        timeout(WHOLE_DEMO, end).await.unwrap()
    }

    /// Nothing that belongs to it is on the machine any more.
    async fn leaves_nothing(&self) {
        eventually("no process, mount or file of the demo", SOON, || async {
            let folder = self.files.path();
            let processes = processes_of(folder);
            anyhow::ensure!(processes.is_empty(), "processes {processes:?}");
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            anyhow::ensure!(!mounts.contains(&*folder.to_string_lossy()), "{mounts}");
            let files: Vec<_> = fs::read_dir(folder)?.collect();
            anyhow::ensure!(files.is_empty(), "{files:?}");
            Ok(Some(()))
        })
        .await
        .unwrap();
    }
}

/// Processes whose command line names `folder`, as those of a control plane do.
fn processes_of(folder: &Path) -> Vec<u32> {
    let folder = folder.to_string_lossy().into_owned();
    let process = |entry: std::io::Result<fs::DirEntry>| -> Option<u32> {
        let entry = entry.ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let named = String::from_utf8_lossy(&command).contains(&folder);
        named.then(|| entry.file_name().to_str()?.parse().ok())?
    };
    fs::read_dir("/proc").unwrap().filter_map(process).collect()
}

async fn runs_to_its_end(guests: &str) {
    let mut demo = Demo::start(&["--guests", guests]);
    demo.says(DONE).await;
    let status = demo.ends().await;
    assert_eq!(status.code(), Some(0), "{}", demo.seen.join("\n"));
    let mut stages = vec!["Gated", "Launched", "Registered", "Ready", "Lifted", "Running"];
    if guests == "real" {
        // Its console says so.
        stages.push("its own Linux runs");
    }
    for stage in stages {
        let seen = demo.seen.iter().any(|line| line.contains(stage));
        assert!(seen, "{stage} is missing:\n{}", demo.seen.join("\n"));
    }
    demo.leaves_nothing().await;
}

/// As by Ctrl-C, when it has said `stage`.
async fn is_interrupted(guests: &str, stage: &str) {
    let mut demo = Demo::start(&["--guests", guests]);
    demo.says(stage).await;
    assert!(!processes_of(demo.files.path()).is_empty());
    let process = Pid::from_raw(demo.child.id().unwrap().try_into().unwrap());
    kill(process, Signal::SIGINT).unwrap();
    let status = demo.ends().await;
    assert_eq!(status.code(), Some(130), "{}", demo.seen.join("\n"));
    demo.leaves_nothing().await;
}

#[tokio::test]
async fn with_simulated_guests_it_runs_to_its_end() {
    runs_to_its_end("simulated").await;
}

#[tokio::test]
async fn with_simulated_guests_it_can_be_interrupted() {
    is_interrupted("simulated", "Launched").await;
}

#[tokio::test]
async fn being_killed_leaves_no_process_and_no_folder() {
    let mut demo = Demo::start(&["--keep", "--guests", "simulated"]);
    let line = demo.says("export KUBECONFIG=").await;
    let (_, kubeconfig) = line.split_once("export KUBECONFIG=").unwrap();
    assert!(PathBuf::from(kubeconfig).starts_with(demo.files.path()));
    let processes = processes_of(demo.files.path());
    assert!(processes.len() >= 4, "{processes:?}");

    // SIGKILL: nothing of ours runs in the dying process.
    demo.child.kill().await.unwrap();
    demo.leaves_nothing().await;
}

#[tokio::test]
#[ignore = "minutes of guests: hack/test --real"]
async fn with_real_guests_it_runs_to_its_end() {
    runs_to_its_end("real").await;
}

/// While guests boot: their processes, mounts, namespaces and control groups are most of what could be left.
#[tokio::test]
#[ignore = "minutes of guests: hack/test --real"]
async fn with_real_guests_it_can_be_interrupted() {
    is_interrupted("real", "console").await;
}
