//! Joining under systemd: cloud-init wrote the join info, and units run the kubelet or the k3s agent.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use maroonedpods_common::api::JoinMode;
use maroonedpods_common::names::JOIN_INFO_PATH;

use crate::console::{self, Phase};
use crate::{cni, files, join_info, machine, paths, programs, uplink};

/// How often something is looked for that a unit makes.
const POLL: Duration = Duration::from_millis(200);

/// Writes the files, starts the unit, and takes the token away when the node has joined. Waits for that without end:
/// the reconciler knows how long it may take.
pub fn run() -> Result<()> {
    let root = Path::new("/");
    let yaml = fs::read_to_string(JOIN_INFO_PATH)
        .with_context(|| format!("cannot read {JOIN_INFO_PATH}, which cloud-init writes"))?;
    let info = join_info::parse(&yaml)?;
    console::reached(Phase::Seed);
    files::write(root, &files::to_join(&info)?)?;
    match info.mode {
        JoinMode::Kubelet => {
            // The rules first: nft has the kernel load the modules that the settings are for.
            uplink::guard(&info)?;
            machine::settings()?;
            start("kubelet.service")?;
            wait_until(programs::containerd_answers);
            console::reached(Phase::Containerd);
            wait_for(paths::CLIENT_CERTIFICATE);
            files::forget_token(root, &info)?;
            console::reached(Phase::Certificate);
            wait_for(paths::SERVING_CERTIFICATE);
            if info.host_network {
                cni::put_on_loopback()?;
            }
            console::reached(Phase::Serving);
            Ok(())
        }
        // k3s brings its own pod network.
        JoinMode::K3s => {
            start("k3s-agent.service")?;
            wait_for(paths::K3S_CLIENT_CERTIFICATE);
            files::forget_token(root, &info)?;
            console::reached(Phase::Certificate);
            Ok(())
        }
    }
}

fn wait_for(path: &str) {
    wait_until(|| Path::new(path).exists());
}

fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        thread::sleep(POLL);
    }
}

fn start(unit: &str) -> Result<()> {
    let status = Command::new("systemctl")
        .args(["start", "--no-block", unit])
        .status()
        .context("cannot run systemctl: join is for images with systemd")?;
    ensure!(status.success(), "systemctl start {unit} failed ({status})");
    Ok(())
}
