//! The guest's link to the launcher.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use maroonedpods_common::join_info::JoinInfo;

use crate::netlink::{Link, Netlink, Route};
use crate::seed::Network;
use crate::{nft, paths};

/// How long the link may take to appear after its driver was loaded.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Puts the guest on the network; what guards it is there first.
pub fn configure(network: Network, info: &JoinInfo) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let loopback = netlink.link("lo")?.context("there is no link lo")?;
    netlink.set_up(loopback.index)?;
    let uplink = wait_for_link(&mut netlink)?;
    guard(info)?;
    netlink.add_address(uplink.index, network.address, network.prefix, false)?;
    netlink.set_up(uplink.index)?;
    netlink.add_route(uplink.index, Route::Default(network.gateway))
}

/// Closes the guest but for the kubelet's port. On the guest's own network, every port is the pod's.
pub fn guard(info: &JoinInfo) -> Result<()> {
    if info.host_network {
        return Ok(());
    }
    nft::apply(&nft::base(paths::UPLINK, info.kubelet.port))
}

fn wait_for_link(netlink: &mut Netlink) -> Result<Link> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(link) = netlink.link(paths::UPLINK)? {
            return Ok(link);
        }
        if Instant::now() > deadline {
            bail!(
                "there is no link {}: the VM needs a virtio network interface",
                paths::UPLINK
            );
        }
        thread::sleep(POLL);
    }
}
