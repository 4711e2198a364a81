//! The nft rules of a guest: pure texts, and the one place that hands them to nft(8).
//!
//! Why these, and what breaks without each: the pod owns the launcher's address, so every new connection that comes in
//! is the pod's, but the kubelet's port; and conntrack must have seen the kubelet's own connections before the pod's
//! table is loaded, or their next packet from outside would count as new and go to the pod.

use std::fmt::Write as _;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Where distributions put nft(8).
const PROGRAM_FOLDERS: &str = "/usr/bin:/usr/sbin:/bin:/sbin";
/// Takes away the pod's table, whether it is there or not.
pub const NO_POD: &str = "table ip marooned\ndelete table ip marooned\n";

/// Names and addresses that the pod's table speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRules<'a> {
    /// The guest's link to the launcher.
    pub uplink: &'a str,
    /// The guest's end of the pod's link.
    pub pod_link: &'a str,
    /// The uplink's address, which the launcher translates to and from its own.
    pub guest: Ipv4Addr,
    /// The launcher's address, which is the pod's.
    pub pod: Ipv4Addr,
    /// Where the kubelet listens: the one port that is not the pod's.
    pub kubelet_port: u16,
    /// What is to reach another port of the pod than it is sent to.
    pub host_ports: &'a [HostPort],
}

/// A `hostPort` of the pod: the node's address is the pod's, so only the number changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Of both ports.
    pub protocol: Protocol,
    /// The node's port.
    pub host: u16,
    /// The port that a container listens at.
    pub container: u16,
}

/// What has ports.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What holds from boot on, before the uplink has its address: conntrack runs, and the guest is reached only at
/// the kubelet's port. Not for guests whose pod uses their network: there, every port is the pod's.
#[must_use]
pub fn base(uplink: &str, kubelet_port: u16) -> String {
    format!(
        r#"table ip marooned_base
delete table ip marooned_base
table ip marooned_base {{
  chain input {{
    type filter hook input priority filter
    iifname "{uplink}" ct state established,related accept
    iifname "{uplink}" tcp dport {kubelet_port} accept
    iifname "{uplink}" drop
  }}
}}
"#
    )
}

/// What makes the address the pod's, in place of any earlier pod's rules.
#[must_use]
pub fn pod(rules: PodRules<'_>) -> String {
    let PodRules {
        uplink,
        pod_link,
        guest,
        pod,
        kubelet_port,
        host_ports,
    } = rules;
    let mut mapped = String::new();
    for HostPort {
        protocol,
        host,
        container,
    } in host_ports
    {
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            mapped,
            r#"    iifname "{uplink}" ip daddr {guest} {protocol} dport {host} dnat to {pod}:{container} comment "a hostPort""#
        );
    }
    format!(
        r#"{NO_POD}table ip marooned {{
  chain pre {{
    type nat hook prerouting priority dstnat
    iifname "{uplink}" ip daddr {guest} tcp dport {kubelet_port} accept comment "the kubelet"
{mapped}    iifname "{uplink}" ip daddr {guest} dnat to {pod} comment "everything else is the pod's"
  }}
  chain post {{
    type nat hook postrouting priority srcnat
    oifname "{uplink}" ip saddr {pod} snat to {guest}
  }}
  chain guard {{
    type filter hook input priority filter
    iifname "{pod_link}" ct state established,related accept comment "answers to probes"
    iifname "{pod_link}" drop comment "the pod has no business with the guest's own sockets"
  }}
}}
"#
    )
}

/// Hands a text to nft(8), which takes all of it or nothing. Blocks.
pub fn apply(text: &str) -> Result<()> {
    run(&["-f", "-"], text)
}

/// Whether the pod's table is there. Blocks.
#[must_use]
pub fn has_pod() -> bool {
    run(&["list", "table", "ip", "marooned"], "").is_ok()
}

fn run(arguments: &[&str], input: &str) -> Result<()> {
    let mut nft = Command::new("nft")
        .args(arguments)
        .env("PATH", PROGRAM_FOLDERS)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting nft, which the image must have")?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(input.as_bytes()).context("writing to nft")?;
    }
    let output = nft.wait_with_output().context("waiting for nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "nft refused: {}",
            said.split_whitespace().collect::<Vec<_>>().join(" ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_rules_are_these() {
        assert_eq!(base("eth0", 65250), include_str!("testdata/base.nft"));
    }

    const RULES: PodRules<'_> = PodRules {
        uplink: "eth0",
        pod_link: "mp0",
        guest: Ipv4Addr::new(10, 0, 2, 2),
        pod: Ipv4Addr::new(10, 244, 1, 17),
        kubelet_port: 65250,
        host_ports: &[],
    };

    #[test]
    fn the_pods_rules_are_these() {
        assert_eq!(pod(RULES), include_str!("testdata/pod.nft"));
    }

    #[test]
    fn a_host_port_comes_before_what_reaches_the_pod_as_it_is() {
        let port = |protocol, host, container| HostPort {
            protocol,
            host,
            container,
        };
        let rules = PodRules {
            host_ports: &[port(Protocol::Tcp, 8080, 80), port(Protocol::Udp, 53, 5353)],
            ..RULES
        };
        assert_eq!(pod(rules), include_str!("testdata/host-ports.nft"));
    }
}
