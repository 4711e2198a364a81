//! The cluster's network: the control plane and the nodes on one bridge, a range of pod addresses behind each node.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Address of the control plane, as nodes and pods reach it.
pub(super) const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
/// The bridge in the control plane's network that every node's veth pair is attached to.
const BRIDGE: &str = "nodes";
/// A node's end of its veth pair.
const UPLINK: &str = "uplink";

/// Address of the node with this number, from 1 on.
pub(super) fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, 1, number)
}

/// Range of the addresses of this node's pods, for `node_address`'s number.
pub(super) fn pod_range(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

/// The [`ip`] commands that prepare the control plane's network for a number of nodes.
pub(super) fn of_control_plane(nodes: u8) -> String {
    let mut commands = format!(
        "link set lo up\nlink add {BRIDGE} type bridge\naddress add {CONTROL_PLANE}/16 dev {BRIDGE}\nlink set {BRIDGE} up\n"
    );
    commands.extend((1..=nodes).map(route_to_pods));
    commands
}

/// The [`ip`] commands that make a node's veth pair, in the control plane's network; `process` is any process in the
/// node's network.
pub(super) fn veth(number: u8, process: u32) -> String {
    format!(
        "link add node-{number} type veth peer name {UPLINK} netns {process}\n\
         link set node-{number} master {BRIDGE} up\n"
    )
}

/// The [`ip`] commands that configure a node's network, once its veth pair exists. `nodes` is the number of all nodes.
pub(super) fn of_node(number: u8, nodes: u8) -> String {
    let mut commands = format!(
        "link set lo up\naddress add {}/16 dev {UPLINK}\nlink set {UPLINK} up\nroute add default via {CONTROL_PLANE}\n",
        node_address(number)
    );
    commands.extend((1..=nodes).filter(|&other| other != number).map(route_to_pods));
    commands
}

fn route_to_pods(number: u8) -> String {
    format!("route add {} via {}\n", pod_range(number), node_address(number))
}

/// Runs ip(8) commands in the calling thread's network; the first that fails ends it. Blocks.
pub(super) fn ip(commands: &str) -> Result<()> {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip(8)")?;
    if let Some(mut input) = ip.stdin.take() {
        input.write_all(commands.as_bytes())?;
    }
    let output = ip.wait_with_output()?;
    ensure!(
        output.status.success(),
        "ip(8): {}\nof:\n{commands}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_the_way_to_the_others_pods() {
        let commands = of_node(2, 3);
        assert!(
            commands.contains("address add 10.98.1.2/16 dev uplink\n"),
            "{commands}"
        );
        assert!(
            commands.contains("route add 10.244.1.0/24 via 10.98.1.1\n"),
            "{commands}"
        );
        assert!(
            commands.contains("route add 10.244.3.0/24 via 10.98.1.3\n"),
            "{commands}"
        );
        assert!(!commands.contains("10.244.2.0"), "{commands}");
        assert!(of_control_plane(3).contains("10.244.2.0/24 via 10.98.1.2\n"));
    }
}
