//! The `NoCloud` seed: which texts it has, and what of them this guest takes. All else in them is an error, because what
//! is not done should not look as if it were.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use maroonedpods_common::names::JOIN_INFO_PATH;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Longest text of a seed that is read, in bytes; a seed of ours has a few thousand.
pub const LONGEST: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudConfig {
    write_files: Vec<WriteFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    path: String,
    permissions: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkConfig {
    version: u8,
    ethernets: BTreeMap<String, Ethernet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ethernet {
    #[serde(default, rename = "match")]
    _match: IgnoredAny,
    #[serde(default, rename = "set-name")]
    _set_name: IgnoredAny,
    addresses: Vec<String>,
    gateway4: Ipv4Addr,
}

/// The uplink's address, and where packets to elsewhere go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The guest's own address.
    pub address: Ipv4Addr,
    /// Leading bits of the address that its neighbours share.
    pub prefix: u8,
    /// The neighbour that forwards.
    pub gateway: Ipv4Addr,
}

/// Content of the one file that the seed's `user-data` writes: `join-info.yaml`.
pub fn join_info(user_data: &str) -> Result<String> {
    check_length(user_data)?;
    ensure!(
        user_data.lines().next() == Some("#cloud-config"),
        "user-data does not begin with #cloud-config"
    );
    let config: CloudConfig = serde_yaml_ng::from_str(user_data).context("user-data cannot be read")?;
    let mut files = config.write_files.into_iter();
    let (Some(file), None) = (files.next(), files.next()) else {
        bail!("user-data must write one file, {JOIN_INFO_PATH}");
    };
    ensure!(
        file.path == JOIN_INFO_PATH,
        "user-data writes {:?}, but this guest takes {JOIN_INFO_PATH} alone",
        file.path
    );
    ensure!(
        file.permissions == "0600",
        "user-data writes {JOIN_INFO_PATH} with permissions {:?}; it holds a token, so they must be \"0600\"",
        file.permissions
    );
    Ok(file.content)
}

/// Address and gateway of the one ethernet of the seed's `network-config`, whatever it is called.
pub fn network(network_config: &str) -> Result<Network> {
    check_length(network_config)?;
    let config: NetworkConfig =
        serde_yaml_ng::from_str(network_config).context("network-config cannot be read")?;
    ensure!(
        config.version == 2,
        "network-config has version {}, but this guest reads 2",
        config.version
    );
    let mut ethernets = config.ethernets.into_values();
    let (Some(ethernet), None) = (ethernets.next(), ethernets.next()) else {
        bail!("network-config must have one ethernet");
    };
    let [address] = ethernet.addresses.as_slice() else {
        bail!("network-config: the ethernet must have one address");
    };
    let wrong =
        || format!("network-config: {address:?} is not an IPv4 address with a prefix, such as 10.0.2.2/24");
    let (own, prefix) = address.split_once('/').with_context(wrong)?;
    let network = Network {
        address: own.parse().with_context(wrong)?,
        prefix: prefix.parse().with_context(wrong)?,
        gateway: ethernet.gateway4,
    };
    ensure!((1..=30).contains(&network.prefix), wrong());
    let shared = u32::MAX << (32 - u32::from(network.prefix));
    let differing = network.address.to_bits() ^ network.gateway.to_bits();
    ensure!(
        differing & shared == 0 && differing != 0,
        "network-config: gateway4 {} is not a neighbour of {address}",
        network.gateway
    );
    Ok(network)
}

fn check_length(text: &str) -> Result<()> {
    ensure!(text.len() <= LONGEST, "the seed has more than {LONGEST} bytes");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER_DATA: &str = "#cloud-config\nwrite_files:\n- path: /etc/marooned/join-info.yaml\n  \
        permissions: '0600'\n  content: |\n    a: b\n";
    const NETWORK: &str = "version: 2\nethernets: {eth0: {match: {name: \"e*\"}, set-name: eth0, \
        addresses: [10.0.2.2/24], gateway4: 10.0.2.1}}\n";

    #[test]
    fn the_reconcilers_texts_are_read() {
        assert_eq!(join_info(USER_DATA).unwrap(), "a: b\n");
        let expected = Network {
            address: Ipv4Addr::new(10, 0, 2, 2),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 1),
        };
        assert_eq!(network(NETWORK).unwrap(), expected);
    }

    #[test]
    fn other_user_data_is_refused_with_a_reason() {
        let cases = [
            ("#cloud-config", "#!/bin/sh", "does not begin with #cloud-config"),
            ("write_files", "runcmd", "unknown field `runcmd`"),
            (
                "/etc/marooned/join-info.yaml",
                "/etc/passwd",
                "takes /etc/marooned/join-info.yaml alone",
            ),
            ("0600", "0644", "holds a token"),
            ("  permissions: '0600'\n", "", "missing field `permissions`"),
            ("  content: |\n    a: b\n", "", "missing field `content`"),
            (
                "write_files:\n",
                "write_files:\n- {path: /a, permissions: '0600', content: ''}\n",
                "one file",
            ),
        ];
        for (from, to, reason) in cases {
            let error = join_info(&USER_DATA.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(reason), "{error:#}");
        }
    }

    #[test]
    fn other_networks_are_refused_with_a_reason() {
        let cases = [
            ("version: 2", "version: 1", "version 1"),
            ("version: 2", "", "missing field `version`"),
            ("gateway4", "gateway6", "unknown field `gateway6`"),
            ("10.0.2.2/24", "10.0.2.2", "not an IPv4 address with a prefix"),
            ("10.0.2.2/24", "'fd00::1/64'", "not an IPv4 address with a prefix"),
            ("10.0.2.2/24", "10.0.2.2/33", "not an IPv4 address with a prefix"),
            ("10.0.2.2/24", "10.0.2.2/0", "not an IPv4 address with a prefix"),
            ("10.0.2.2/24", "10.0.2.2/24, 10.0.2.3/24", "one address"),
            ("10.0.2.1", "10.0.3.1", "not a neighbour"),
            ("10.0.2.1", "10.0.2.2", "not a neighbour"),
            (
                "}}",
                "}, eth1: {addresses: [10.0.3.2/24], gateway4: 10.0.3.1}}",
                "one ethernet",
            ),
        ];
        for (from, to, reason) in cases {
            let error = network(&NETWORK.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(reason), "{from} -> {to}: {error:#}");
        }
    }

    #[test]
    fn a_text_without_end_is_refused() {
        let long = format!("{USER_DATA}#{}", "x".repeat(LONGEST));
        assert!(join_info(&long).is_err());
        assert!(network(&long).is_err());
    }
}
