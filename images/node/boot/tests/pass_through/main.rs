//! The CNI plugin on real packets: private networks stand for launcher, guest and pod, with the machine's own nft.
//!
//! Needs root, ip(8) and nft(8); what is left out without is said by name.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

mod place;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use marooned_node_boot::cni;
use place::{
    CLIENT, FUTILE, GATEWAY, GUEST, KUBELET_PORT, LAUNCHER, PATIENCE, Place, connect, datagrams, in_a_place,
};
use serde_json::json;

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address, port).into()
}

/// The pod's listener answers a client far away, and sees who it is.
fn pod_answers(place: &Place, port: u16) {
    let listener = place.pod(|| TcpListener::bind((LAUNCHER, port)).unwrap());
    let mut client = place.outside(|| connect(GUEST, port));
    let (mut served, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), CLIENT);
    served.write_all(b"pod").unwrap();
    let mut heard = [0; 3];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"pod");
}

/// Nothing of the plugin's is left in the guest.
fn assert_bare(place: &Place) {
    assert_eq!(
        place
            .shown_in_guest(&["-o", "link", "show", "type", "veth"])
            .matches("mp0")
            .count(),
        0
    );
    assert!(
        !place.rules().contains("table ip marooned {"),
        "{}",
        place.rules()
    );
    assert!(!place.shown_in_guest(&["route"]).contains("mp0"));
    assert!(place.guest(|| fs::read_dir("/run/marooned").map_or(0, Iterator::count)) == 0);
}

#[test]
fn what_comes_in_is_the_pods_but_the_kubelets_port() {
    in_a_place("what_comes_in_is_the_pods_but_the_kubelets_port", |place| {
        let result = place.cni("ADD", "c1").unwrap();
        assert_eq!(result["ips"][0]["address"], format!("{LAUNCHER}/32"));
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert!(place.shown_in_pod(&["link", "show", "eth0"]).contains("mtu 1450"));

        pod_answers(place, 8080);

        let pod = place.pod(|| datagrams(LAUNCHER, 5353));
        let client = place.outside(|| datagrams(CLIENT, 0));
        // More than the link takes at once: fragments.
        let question = vec![7; 4000];
        client.send_to(&question, at(GUEST, 5353)).unwrap();
        let mut heard = vec![0; 8000];
        let (length, from) = pod.recv_from(&mut heard).unwrap();
        assert_eq!((length, from), (4000, client.local_addr().unwrap()));
        pod.send_to(b"answer", from).unwrap();
        let (length, from) = client.recv_from(&mut heard).unwrap();
        assert_eq!((&heard[..length], from), (&b"answer"[..], at(GUEST, 5353)));

        let kubelet = place.guest(|| TcpListener::bind(at(GUEST, KUBELET_PORT)).unwrap());
        let _client = place.outside(|| connect(GUEST, KUBELET_PORT));
        assert_eq!(kubelet.accept().unwrap().1.ip(), CLIENT);

        let shell = place.guest(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 22)).unwrap());
        let refused = place
            .outside(|| TcpStream::connect_timeout(&at(GUEST, 22), PATIENCE))
            .unwrap_err();
        assert_eq!(
            refused.kind(),
            ErrorKind::ConnectionRefused,
            "by the pod, which does not listen"
        );
        assert_no_connection(&shell);
    });
}

#[test]
fn a_host_port_leads_to_its_container() {
    in_a_place("a_host_port_leads_to_its_container", |place| {
        let mapping = |host: u16, container: u16, protocol: &str, ip: &str| json!({"HostPort": host, "ContainerPort": container, "Protocol": protocol, "HostIP": ip});
        let mappings = json!([
            mapping(18080, 8080, "tcp", ""),
            mapping(15353, 5353, "udp", "0.0.0.0"),
            mapping(19090, 9090, "tcp", "127.0.0.1"),
        ]);
        let more = json!({"runtimeConfig": {"portMappings": mappings}});
        place.cni_with("ADD", "c1", &more).unwrap();

        let listener = place.pod(|| TcpListener::bind((LAUNCHER, 8080)).unwrap());
        let _client = place.outside(|| connect(GUEST, 18080));
        assert_eq!(listener.accept().unwrap().1.ip(), CLIENT);
        let pod = place.pod(|| datagrams(LAUNCHER, 5353));
        let client = place.outside(|| datagrams(CLIENT, 0));
        client.send_to(b"question", at(GUEST, 15353)).unwrap();
        let mut heard = [0; 16];
        let (length, from) = pod.recv_from(&mut heard).unwrap();
        assert_eq!((length, from), (8, client.local_addr().unwrap()));
        let elsewhere = place.pod(|| TcpListener::bind((LAUNCHER, 9090)).unwrap());
        place
            .outside(|| TcpStream::connect_timeout(&at(GUEST, 19090), PATIENCE))
            .unwrap_err();
        assert_no_connection(&elsewhere);
    });
}

fn assert_no_connection(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_pod_reaches_the_outside_and_nothing_of_the_guest() {
    in_a_place("the_pod_reaches_the_outside_and_nothing_of_the_guest", |place| {
        let everywhere = TcpListener::bind;
        let kubelet = place.guest(|| everywhere("[::]:65250").unwrap());
        let other = place.guest(|| everywhere("0.0.0.0:10248").unwrap());
        place.cni("ADD", "c1").unwrap();

        let outside = place.outside(|| everywhere("0.0.0.0:9000").unwrap());
        let _stream = place.pod(|| connect(GATEWAY, 9000));
        assert_eq!(
            outside.accept().unwrap().1.ip(),
            GUEST,
            "the launcher translates what has this source"
        );

        for address in [GUEST, Ipv4Addr::new(169, 254, 1, 1)] {
            for port in [KUBELET_PORT, 10248] {
                let reached = place.pod(|| TcpStream::connect_timeout(&at(address, port), FUTILE));
                assert!(reached.is_err(), "the pod reached {address}:{port}");
            }
        }
        assert_no_connection(&kubelet);
        assert_no_connection(&other);
        // The rules above are IPv4's.
        assert_eq!(place.shown_in_guest(&["-6", "address", "show", "dev", "mp0"]), "");

        // The kubelet's probes.
        let probed = place.pod(|| everywhere("0.0.0.0:8080").unwrap());
        let _probe = place.guest(|| connect(LAUNCHER, 8080));
        assert_eq!(probed.accept().unwrap().1.ip(), Ipv4Addr::new(169, 254, 1, 1));
    });
}

#[test]
fn a_second_pod_is_refused_and_only_the_owner_undoes() {
    in_a_place("a_second_pod_is_refused_and_only_the_owner_undoes", |place| {
        place.cni("ADD", "c1").unwrap();
        let (code, message) = place.cni("ADD", "c2").unwrap_err();
        assert_eq!(
            (code, message.as_str()),
            (101, "this VM's one pod network is in use by c1")
        );
        place.cni("DEL", "c2").unwrap();
        place.cni("CHECK", "c1").unwrap();
        let (code, message) = place.cni("CHECK", "c2").unwrap_err();
        assert_eq!(code, 102, "{message}");
        pod_answers(place, 8080);

        place.cni("DEL", "c1").unwrap();
        assert_bare(place);
        place.cni("DEL", "c1").unwrap();

        place.cni("ADD", "c2").unwrap();
        pod_answers(place, 8081);
    });
}

#[test]
fn a_failure_in_the_middle_is_undone() {
    in_a_place("a_failure_in_the_middle_is_undone", |place| {
        // The pod's default route is added when nearly all else is done.
        place.ip_in_pod("route add blackhole default");
        let (code, message) = place.cni("ADD", "c1").unwrap_err();
        assert!(code == 100 && message.contains("route"), "{code}: {message}");
        assert_bare(place);

        place.ip_in_pod("route delete blackhole default");
        place.cni("ADD", "c2").unwrap();
        pod_answers(place, 8080);
    });
}

#[test]
fn the_owner_of_a_half_made_veth_pair_may_make_it_again() {
    in_a_place("the_owner_of_a_half_made_veth_pair_may_make_it_again", |place| {
        place.cni("ADD", "c1").unwrap();
        place.guest(|| marooned_node_boot::nft::apply(marooned_node_boot::nft::NO_POD).unwrap());
        let (code, message) = place.cni("CHECK", "c1").unwrap_err();
        assert!(code == 102 && message.contains("nft"), "{code}: {message}");
        place.cni("ADD", "c1").unwrap();
        place.cni("CHECK", "c1").unwrap();
        pod_answers(place, 8080);
    });
}

#[test]
fn an_idle_connection_of_the_kubelet_outlives_the_pods_arrival() {
    in_a_place(
        "an_idle_connection_of_the_kubelet_outlives_the_pods_arrival",
        |place| {
            let server = place.outside(|| TcpListener::bind((GATEWAY, 6443)).unwrap());
            let mut watch = place.guest(|| connect(GATEWAY, 6443));
            let (mut served, _) = server.accept().unwrap();
            place.cni("ADD", "c1").unwrap();
            // The peer speaks first, as in a watch.
            served.write_all(b"event").unwrap();
            let mut heard = [0; 5];
            watch.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"event");
        },
    );
}

#[test]
fn before_the_pod_nothing_but_the_kubelets_port_is_open() {
    in_a_place("before_the_pod_nothing_but_the_kubelets_port_is_open", |place| {
        let shell = place.guest(|| TcpListener::bind("0.0.0.0:22").unwrap());
        let reached = place.outside(|| TcpStream::connect_timeout(&at(GUEST, 22), FUTILE));
        assert!(reached.is_err());
        assert_no_connection(&shell);
        let kubelet = place.guest(|| TcpListener::bind(at(GUEST, KUBELET_PORT)).unwrap());
        let _client = place.outside(|| connect(GUEST, KUBELET_PORT));
        assert_eq!(kubelet.accept().unwrap().1.ip(), CLIENT);
    });
}

#[test]
fn a_runtime_may_ask_for_status_versions_and_collection() {
    in_a_place("a_runtime_may_ask_for_status_versions_and_collection", |place| {
        let versions = place.cni("VERSION", "").unwrap();
        assert_eq!(versions["supportedVersions"], json!(["1.0.0", "1.1.0"]));
        place.cni("STATUS", "").unwrap();
        place.withdraw_certificate();
        assert_eq!(place.cni("STATUS", "").unwrap_err().0, 50);
        place.certify(include_str!("../../src/testdata/serving.pem"));

        place.cni("ADD", "c1").unwrap();
        let keep = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
        place.cni_with("GC", "", &keep).unwrap();
        place.cni("CHECK", "c1").unwrap();
        assert_eq!(place.cni("GC", "").unwrap_err().0, 7, "absent is not empty");
        place.cni("CHECK", "c1").unwrap();
        place
            .cni_with("GC", "", &json!({"cni.dev/valid-attachments": []}))
            .unwrap();
        assert_bare(place);
    });
}

#[test]
fn without_an_ipv4_address_the_pod_is_refused() {
    in_a_place("without_an_ipv4_address_the_pod_is_refused", |place| {
        place.certify(include_str!("../../src/testdata/serving-ipv6.pem"));
        let (code, message) = place.cni("ADD", "c1").unwrap_err();
        assert!(code == 11 && message.contains("IPv4"), "{code}: {message}");
        assert_bare(place);
    });
}

#[test]
fn a_pod_on_the_guests_network_has_it_alone_and_is_probed_at_the_launchers_address() {
    let test = "a_pod_on_the_guests_network_has_it_alone_and_is_probed_at_the_launchers_address";
    in_a_place(test, |place| {
        let config = json!({"hostNetwork": true});
        let (code, message) = place.cni_with("ADD", "c1", &config).unwrap_err();
        assert!(
            code == 101 && message.contains("own network"),
            "{code}: {message}"
        );
        assert_bare(place);

        for _ in 0..2 {
            assert_eq!(place.guest(|| cni::put_on_loopback().unwrap()), LAUNCHER);
        }
        let pod = place.guest(|| TcpListener::bind("0.0.0.0:8080").unwrap());
        let _probe = place.guest(|| connect(LAUNCHER, 8080));
        assert_eq!(pod.accept().unwrap().1.ip(), LAUNCHER);
    });
}
