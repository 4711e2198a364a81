//! Which ports of a guest are open: to others, and to the pod in it.

use futures::future::join_all;
use maroonedpods_common::names;

use crate::network::Pods;

const ALL: &str = "1-65535";
/// TCP: ssh, DNS, portmapper, etcd, read-only and healthy kubelets, the kubelet's usual port and a marooned node's,
/// controller manager, scheduler, kube-proxy, cAdvisor, containerd's metrics, Docker.
const TCP: &str = "22,53,111,1338,2375,2379,4194,6443,10248,10250,10255-10257,10259,65250";
/// UDP: DNS, DHCP, TFTP, portmapper, NTP, `NetBIOS`, SNMP, chrony, IKE, syslog, `DHCPv6`, SSDP, VXLAN (two), mDNS, LLMNR,
/// the kubelet's usual port, `WireGuard`, and a marooned node's kubelet.
const UDP: &str = "53,67-69,111,123,137,161,323,500,514,546,1900,4789,5353,5355,8472,10250,51820,65250";
/// Where the test server listens, by TCP and by UDP.
const SERVER: &str = "8080";

/// Nothing of the guest itself is reachable but its kubelet, and that asks for credentials.
pub async fn the_guest_is_closed(pods: &Pods<'_>) {
    let target = pods.address("marooned-a");
    let kubelet = names::KUBELET_PORT;
    let url = format!("https://{target}:{kubelet}/pods");
    let stranger = pods.test("plain-2", &["ask", &url]).await.unwrap();
    assert!(stranger.starts_with("401 Unauthorized"), "{stranger}");

    // Every port is the pod's, in which only the test server listens, but the kubelet's.
    let seen = pods.scan("plain-2", "tcp", target, ALL).await;
    assert_eq!(
        seen,
        ports("8080,65250", "1-8079,8081-65249,65251-65535", ""),
        "of {target}, by TCP"
    );
    let seen = pods.scan("plain-2", "udp", target, &with_server(UDP)).await;
    assert_eq!(seen, ports(SERVER, UDP, ""), "of {target}, by UDP");
    println!("of the guest, others reach nothing but TCP port {kubelet}");
    its_own_pod_does_not_reach_it(pods).await;
}

async fn its_own_pod_does_not_reach_it(pods: &Pods<'_>) {
    // The same scan finds what is open: in the pod, and far from it.
    for own in ["127.0.0.1", pods.address("marooned-a")] {
        for (protocol, closed) in [("tcp", TCP), ("udp", UDP)] {
            let seen = pods.scan("marooned-a", protocol, own, &with_server(closed)).await;
            assert_eq!(seen, ports(SERVER, closed, ""), "of {own} by {protocol}");
        }
    }
    let others = pods.address("plain-1");
    let seen = pods.scan("marooned-a", "tcp", others, &with_server(TCP)).await;
    assert_eq!(seen, ports(SERVER, TCP, ""), "of {others}, an ordinary pod");
    // The guest drops what its pod sends to it: at its address behind the launcher, and as the pod's gateway.
    let at_once = ["10.0.2.2", "169.254.1.1"].map(|guest| async move {
        for (protocol, closed) in [("tcp", TCP), ("udp", UDP)] {
            let all = with_server(closed);
            let seen = pods.scan("marooned-a", protocol, guest, &all).await;
            assert_eq!(seen, ports("", "", &all), "of the guest at {guest} by {protocol}");
        }
    });
    join_all(at_once).await;
    // Of its launcher's end of the link, nothing but that it is there.
    let seen = pods.scan("marooned-a", "tcp", "10.0.2.1", TCP).await;
    assert_eq!(seen, ports("", TCP, ""), "of the launcher");
    println!("the pod reaches its own ports and other pods', and nothing of its guest");
}

/// Whose pod uses its network: every port is the pod's, and the kubelet listens beside it.
pub async fn a_guest_on_whose_network_its_pod_is(pods: &Pods<'_>, address: &str) {
    let seen = pods.scan("plain-1", "tcp", address, ALL).await;
    assert_eq!(
        seen,
        ports("8080,65250", "1-8079,8081-65249,65251-65535", ""),
        "of {address}, by TCP"
    );
}

/// The list and the server's port, as a scan prints them.
fn with_server(list: &str) -> String {
    let port = |part: &str| part.split('-').next().and_then(|port| port.parse::<u16>().ok());
    let mut parts: Vec<_> = list.split(',').chain([SERVER]).collect();
    parts.sort_by_key(|part| port(part));
    parts.join(",")
}

/// What a scan prints.
fn ports(open: &str, refused: &str, timed_out: &str) -> String {
    format!("open: {open}\nrefused: {refused}\ntimed out: {timed_out}\n")
}
