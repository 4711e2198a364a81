//! The second stage: from the root's first process to a kubelet, and in the end to power off.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use maroonedpods_common::api::JoinMode;
use maroonedpods_common::join_info::JoinInfo;
use nix::mount::umount;
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;

use crate::console::{self, Phase};
use crate::seed::{self, Network};
use crate::{device_nodes, disks, files, join_info, machine, modules, mounts, programs, uplink};

/// Where the seed is while it is read.
const SEED: &str = "/run/seed";

/// From the root's init to the end of the node's life.
pub fn run() -> Result<()> {
    console::reached(Phase::Init);
    mounts::late()?;
    modules::load()?;
    device_nodes::make()?;
    machine::settings()?;
    let (info, network) = read_seed()?;
    ensure!(
        info.mode == JoinMode::Kubelet,
        "join-info.yaml asks for mode K3s, and this image has no k3s: use one made from Containerfile.node"
    );
    console::reached(Phase::Seed);
    machine::identity(&info.node_name)?;
    uplink::configure(network, &info)?;
    console::reached(Phase::Network);
    mounts::scratch()?;
    files::write(Path::new("/"), &files::to_join(&info)?)?;
    programs::run(&info)
}

/// Says what went wrong, if anything, and switches the machine off. The first process must not end.
pub fn power_off(outcome: Result<()>) -> ! {
    if let Err(error) = outcome {
        console::error(&error);
        console::reached(Phase::PowerOff);
    }
    sync();
    loop {
        // Comes back only when it failed.
        let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
        console::error(&Error::from(errno).context("cannot switch the machine off"));
        thread::sleep(Duration::from_secs(1));
    }
}

fn read_seed() -> Result<(JoinInfo, Network)> {
    let disk = disks::device(&disks::wait_for_seed()?);
    fs::create_dir(SEED)?;
    mounts::read_only(&disk, SEED, "iso9660")?;
    let user_data = read("user-data", "the join info is in it")?;
    let network = read(
        "network-config",
        "this image has no DHCP client, and takes its address from there",
    )?;
    umount(SEED)?;
    let info = join_info::parse(&seed::join_info(&user_data)?)?;
    Ok((info, seed::network(&network)?))
}

/// Reads no more of a file than tells that it is too long.
fn read(name: &str, why: &str) -> Result<String> {
    let file = match File::open(Path::new(SEED).join(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(error).with_context(|| format!("the seed has no {name}: {why}"))
        }
        other => other.with_context(|| format!("cannot open the seed's {name}")),
    };
    let mut text = String::new();
    let most = u64::try_from(seed::LONGEST + 1)?;
    file?
        .take(most)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read the seed's {name}"))?;
    Ok(text)
}
