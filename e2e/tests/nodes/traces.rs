//! What a cluster changes of the machine, and what is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use maroonedpods_e2e::api::check::eventually;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::SOON;

/// What of the machine's a node could change: mounts, links, packet rules, the kernel's settings, and folders that
/// programs of nodes make.
pub fn machine() -> BTreeMap<&'static str, BTreeSet<String>> {
    let lines = |text: String| text.lines().map(str::to_owned).collect();
    let entries = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| format!("{folder}/{}", entry.unwrap().file_name().display()))
            .collect()
    };
    let output = |program: &str| -> String {
        let output = Command::new(program).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let settings = [
        "vm/overcommit_memory",
        "vm/panic_on_oom",
        "kernel/panic",
        "kernel/panic_on_oops",
    ]
    .into_iter()
    .chain([
        "kernel/hostname",
        "kernel/keys/root_maxkeys",
        "net/ipv4/ip_forward",
    ])
    .map(|name| {
        format!(
            "{name} {}",
            fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap()
        )
    });
    BTreeMap::from([
        (
            "mounts",
            lines(fs::read_to_string("/proc/self/mountinfo").unwrap()),
        ),
        ("links", entries("/sys/class/net")),
        (
            "rules",
            lines(
                output("iptables-save")
                    .lines()
                    .filter(|line| !line.starts_with('#'))
                    .collect(),
            ),
        ),
        ("settings", settings.collect()),
        (
            "folders",
            ["/run", "/opt", "/var/lib"]
                .into_iter()
                .flat_map(entries)
                .collect(),
        ),
    ])
}

/// Processes and control groups of the cluster whose control plane is in `folder`.
pub fn traces_of(folder: &Path) -> Vec<String> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let mut traces: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let process = entry.ok()?.path();
            let text = ["cmdline", "cgroup"].map(|file| fs::read(process.join(file)).unwrap_or_default());
            let named = String::from_utf8_lossy(&text.concat()).contains(name);
            named.then(|| process.display().to_string())
        })
        .collect();
    find_groups(Path::new("/sys/fs/cgroup"), name, &mut traces);
    traces
}

fn find_groups(below: &Path, name: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        if path.is_dir() {
            if entry.file_name().to_string_lossy().contains(name) {
                found.push(path.display().to_string());
            }
            find_groups(&path, name, found);
        }
    }
}

/// Runs the ignored test `holder` of this program in a process of its own until it prints `FOLDER=` and its control plane's
/// folder, kills it, and waits until nothing is left of its cluster. What it printed before.
pub async fn hold_and_kill(holder: &str) -> Vec<String> {
    let mut process = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", holder, "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut printed = Vec::new();
    let folder = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some((_, path)) = line.split_once("FOLDER=") {
            break PathBuf::from(path);
        }
        printed.push(line);
    };
    assert!(traces_of(&folder).len() > 10);
    let killed = Instant::now();
    process.kill().await.unwrap();
    eventually(
        "processes, control groups and folder to be gone",
        SOON,
        || async {
            let traces = traces_of(&folder);
            anyhow::ensure!(traces.is_empty() && !folder.exists(), "left: {traces:?}");
            Ok(Some(()))
        },
    )
    .await
    .unwrap();
    printed.push(format!("gone after {:.1} s", killed.elapsed().as_secs_f64()));
    printed
}
