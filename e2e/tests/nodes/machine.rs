//! Does a cluster leave the machine as it was, stopped or killed?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::cluster::{Cluster, ClusterOptions, provide, with_cluster};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{SOON, import_image, pod, runs};

/// What of the machine's a node could change: mounts, links, packet rules, the kernel's settings, and folders that
/// programs of nodes make.
fn machine() -> BTreeMap<&'static str, BTreeSet<String>> {
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
fn traces_of(folder: &Path) -> Vec<String> {
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

fn one_node() -> ClusterOptions {
    ClusterOptions {
        nodes: 1,
        ..ClusterOptions::default()
    }
}

/// Starts a pod, so that there are containers, mounts and links to be removed.
async fn use_the_node(cluster: &Cluster) {
    import_image(cluster).await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.control_plane().admin().await.unwrap());
    runs(&pods, &pod("server", &["serve"], &json!({"volumeMounts": []}))).await;
}

#[test]
fn stopping_leaves_the_machine_as_it_was() {
    let before = provide().unwrap().then(machine);
    with_cluster(one_node(), async |cluster| {
        use_the_node(&cluster).await;
        let folder = cluster.control_plane().folder().to_owned();
        let traces = traces_of(&folder);
        assert!(traces.len() > 10, "{traces:?}");
        cluster.stop().await.unwrap();
        assert_eq!(traces_of(&folder), [""; 0]);
        assert!(!folder.exists());
    })
    .unwrap();
    assert_eq!(before.is_some().then(machine), before);
}

/// Run by the test below, in a process to be killed.
#[test]
#[ignore = "waits until it is killed"]
fn holds_a_cluster() {
    with_cluster(one_node(), async |cluster| {
        use_the_node(&cluster).await;
        println!("FOLDER={}", cluster.control_plane().folder().display());
        std::future::pending::<()>().await;
    })
    .unwrap();
}

#[test]
fn being_killed_leaves_the_machine_as_it_was() {
    let before = provide().unwrap().then(machine);
    with_cluster(
        ClusterOptions {
            nodes: 0,
            ..ClusterOptions::default()
        },
        async |_| {
            let mut holder = tokio::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "machine::holds_a_cluster", "--ignored", "--nocapture"])
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
            let folder = loop {
                let line = lines.next_line().await.unwrap().expect("it ended early");
                if let Some((_, path)) = line.split_once("FOLDER=") {
                    break PathBuf::from(path);
                }
            };
            assert!(traces_of(&folder).len() > 10);
            holder.kill().await.unwrap();
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
        },
    )
    .unwrap();
    assert_eq!(before.is_some().then(machine), before);
}
