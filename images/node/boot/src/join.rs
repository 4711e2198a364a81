//! Joining under systemd: cloud-init wrote the join info, and units run the kubelet or the k3s agent.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use maroonedpods_common::api::JoinMode;
use maroonedpods_common::names::JOIN_INFO_PATH;

use crate::{files, join_info, paths};

/// How often the certificate is looked for.
const POLL: Duration = Duration::from_millis(200);

/// Writes the files, starts the unit, and takes the token away when the node has joined. Waits for that without end:
/// the reconciler knows how long it may take.
pub fn run() -> Result<()> {
    let root = Path::new("/");
    let yaml = fs::read_to_string(JOIN_INFO_PATH)
        .with_context(|| format!("cannot read {JOIN_INFO_PATH}, which cloud-init writes"))?;
    let info = join_info::parse(&yaml)?;
    files::write(root, &files::to_join(&info)?)?;
    let (unit, certificate) = match info.mode {
        JoinMode::Kubelet => ("kubelet.service", paths::CLIENT_CERTIFICATE),
        JoinMode::K3s => ("k3s-agent.service", paths::K3S_CLIENT_CERTIFICATE),
    };
    start(unit)?;
    while !Path::new(certificate).exists() {
        thread::sleep(POLL);
    }
    files::forget_token(root, &info)
}

fn start(unit: &str) -> Result<()> {
    let status = Command::new("systemctl")
        .args(["start", "--no-block", unit])
        .status()
        .context("cannot run systemctl: join is for images with systemd")?;
    ensure!(status.success(), "systemctl start {unit} failed ({status})");
    Ok(())
}
