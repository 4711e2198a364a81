//! The pod's veth pair, a link in the guest and one in the pod, routes on both sides, and the nft rules that give the pod
//! the launcher's address.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use super::request::{Attachment, Config};
use crate::netlink::{HOST_PREFIX, Netlink, Route, Veth};
use crate::nft::{self, HostPort, PodRules};

/// The guest's end.
pub(super) const GUEST_LINK: &str = "mp0";
/// The pod's neighbour, through which it reaches everything: an address that means nothing beyond the veth pair.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Fixed, for only these two ends are on the link.
const POD_MAC: [u8; 6] = [0x02, 0x4d, 0x50, 0, 0, 2];

/// The hardware address of the pod's end, as text.
pub(super) fn pod_mac() -> String {
    POD_MAC.map(|byte| format!("{byte:02x}")).join(":")
}

/// Makes the veth pair, in place of what a failed attempt may have left.
pub(super) fn build(
    attachment: &Attachment,
    config: &Config,
    pod: Ipv4Addr,
    host_ports: &[HostPort],
) -> Result<()> {
    let mut guest_side = Netlink::open()?;
    let uplink = guest_side
        .link(&config.uplink)?
        .with_context(|| format!("this guest has no link {}", config.uplink))?;
    let guest = guest_side.addresses(uplink.index)?;
    let guest = *guest
        .first()
        .with_context(|| format!("link {} has no IPv4 address", config.uplink))?;
    remove_link(&mut guest_side)?;

    let namespace = open_namespace(attachment)?;
    guest_side.add_veth(Veth {
        name: GUEST_LINK,
        peer: &attachment.interface,
        peer_namespace: &namespace,
        peer_mac: POD_MAC,
        mtu: uplink.mtu,
    })?;
    without_ipv6()?;
    let link = existing(&mut guest_side, GUEST_LINK)?;
    guest_side.add_address(link, GATEWAY, HOST_PREFIX, true)?;
    guest_side.set_up(link)?;
    guest_side.add_route(link, Route::Neighbour(pod))?;

    let mut pod_side = Netlink::open_in(&namespace)?;
    let link = existing(&mut pod_side, &attachment.interface)?;
    pod_side.add_address(link, pod, HOST_PREFIX, false)?;
    pod_side.set_up(link)?;
    pod_side.add_route(link, Route::Neighbour(GATEWAY))?;
    pod_side.add_route(link, Route::Default(GATEWAY))?;

    // Last: from here on, what comes in is the pod's.
    nft::apply(&nft::pod(PodRules {
        uplink: &config.uplink,
        pod_link: GUEST_LINK,
        guest,
        pod,
        kubelet_port: config.kubelet_port,
        host_ports,
    }))
}

/// Removes the veth pair and its rules, as much of them as there is.
pub(super) fn remove() -> Result<()> {
    nft::apply(nft::NO_POD)?;
    remove_link(&mut Netlink::open()?)
}

/// Whether the veth pair is as it was made; if not, what is wrong with it.
pub(super) fn check(attachment: &Attachment, pod: Ipv4Addr) -> Result<()> {
    let link = Netlink::open()?
        .link(GUEST_LINK)?
        .with_context(|| format!("link {GUEST_LINK} is gone"))?;
    ensure!(link.up, "link {GUEST_LINK} is switched off");
    let mut pod_side = Netlink::open_in(&open_namespace(attachment)?)?;
    let name = &attachment.interface;
    let link = pod_side
        .link(name)?
        .with_context(|| format!("the pod's link {name} is gone"))?;
    ensure!(link.up, "the pod's link {name} is switched off");
    let addresses = pod_side.addresses(link.index)?;
    ensure!(
        addresses.contains(&pod),
        "the pod's link {name} lost the address {pod}"
    );
    ensure!(nft::has_pod(), "the pod's nft rules are gone");
    Ok(())
}

fn open_namespace(attachment: &Attachment) -> Result<File> {
    let path = &attachment.namespace;
    File::open(path).with_context(|| format!("opening the pod's network namespace {path}"))
}

fn existing(netlink: &mut Netlink, name: &str) -> Result<u32> {
    let link = netlink.link(name)?;
    Ok(link
        .with_context(|| format!("link {name} is gone already"))?
        .index)
}

fn remove_link(guest_side: &mut Netlink) -> Result<()> {
    match guest_side.link(GUEST_LINK)? {
        Some(link) => guest_side.delete_link(link.index),
        None => Ok(()),
    }
}

/// The rules are for IPv4: by a link-local IPv6 address, the pod could reach what listens in the guest.
fn without_ipv6() -> Result<()> {
    let file = format!("/proc/sys/net/ipv6/conf/{GUEST_LINK}/disable_ipv6");
    match fs::write(file, "1") {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("switching IPv6 off between guest and pod")
        }
        _ => Ok(()),
    }
}
