//! What users' programs ask of a node's kernel: rules of service meshes, networks of container engines, tunnels, file systems
//! of programs. The guest's kernel has most of it as modules, and loads them when they are needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use maroonedpods_e2e::harness::real_env::TOOLBOX;
use maroonedpods_e2e::system::debian;
use maroonedpods_image_build::apt::Apt;
use maroonedpods_image_build::command::run;
use serde_json::{Value, json};

use crate::sizes::Size;
use crate::user::{Setup, User, shell_with};

/// What the programs below are in.
const PACKAGES: [&str; 8] = [
    "busybox-static",
    "e2fsprogs",
    "fuse-overlayfs",
    "iproute2",
    "iptables",
    "libc-bin",
    "nftables",
    "wireguard-tools",
];
const POD: &str = "kernel";
/// The container that may only change the pod's network.
const MESH: &str = "mesh";
/// Where the address of the pod's node answers for port 8080 of the pod.
const HOST_PORT: u16 = 18080;
/// Where the containers find the programs.
const PROGRAMS: &str = "/programs";

/// As the init container of a mesh whose proxy is injected: all that the pod's user 0 sends to port 15999 goes to 8080.
const REDIRECT: &str = "
-N PROXY_REDIRECT
-A PROXY_REDIRECT -p tcp -j REDIRECT --to-ports 8080
-N PROXY_OUTPUT
-A OUTPUT -p tcp -j PROXY_OUTPUT
-A PROXY_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A PROXY_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A PROXY_OUTPUT -o lo ! -d 127.0.0.1/32 -j RETURN
-A PROXY_OUTPUT -p tcp --dport 15999 -j PROXY_REDIRECT
-A PREROUTING -p tcp --dport 15006 -j PROXY_REDIRECT
";

/// Rules that others add: each of a module of its own.
const RULES: [&str; 12] = [
    "-t mangle -A PREROUTING -p tcp -m socket -j MARK --set-mark 1",
    "-t mangle -A PREROUTING -p tcp --dport 9 -j TPROXY --on-port 15006 --tproxy-mark 1",
    "-t mangle -A POSTROUTING -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "-t mangle -A PREROUTING -j CONNMARK --restore-mark",
    "-t raw -A PREROUTING -p udp --dport 9 -j CT --notrack",
    "-A INPUT -m conntrack --ctstate INVALID -j DROP",
    "-A INPUT -p tcp -m multiport --dports 9,10 -j ACCEPT",
    "-A INPUT -p tcp --dport 9 -m limit --limit 5/min -j ACCEPT",
    "-A INPUT -p tcp --dport 9 -m recent --name seen --set",
    "-A INPUT -p tcp --dport 9 -m statistic --mode random --probability 0.5 -j DROP",
    "-A INPUT -p tcp --dport 9 -m string --string x --algo bm -m comment --comment word -j REJECT --reject-with tcp-reset",
    "-A INPUT -p udp --dport 9 -j NFQUEUE --queue-num 1",
];

/// Two namespaces, a bridge between them, and a way out for the inner one by masquerade, as container engines make them.
const ENGINE: &str = "
ip link add br0 type bridge
ip addr add 172.30.0.1/24 dev br0
ip link set br0 up
ip netns add inner
ip link add outer type veth peer name eth0 netns inner
ip link set outer master br0 up
ip -n inner addr add 172.30.0.2/24 dev eth0
ip -n inner link set eth0 up
ip -n inner route add default via 172.30.0.1
echo 1 > /proc/sys/net/ipv4/ip_forward
iptables-nft -t nat -A POSTROUTING -s 172.30.0.0/24 ! -o br0 -j MASQUERADE
iptables-nft -t filter -A FORWARD -i br0 -m physdev --physdev-in outer -j ACCEPT
";

/// Two ends of a tunnel in this pod, one of them in the inner namespace; their packets go by the loopback link.
const WIREGUARD: &str = "
wg genkey > /tmp/a && wg genkey > /tmp/b
ip link add wg-a type wireguard
ip link add wg-b type wireguard
wg set wg-a listen-port 51820 private-key /tmp/a peer $(wg pubkey < /tmp/b) allowed-ips 10.9.0.2/32 endpoint 127.0.0.1:51821
wg set wg-b listen-port 51821 private-key /tmp/b peer $(wg pubkey < /tmp/a) allowed-ips 10.9.0.1/32 endpoint 127.0.0.1:51820
ip link set wg-b netns inner
ip addr add 10.9.0.1/24 dev wg-a && ip link set wg-a up
ip -n inner addr add 10.9.0.2/24 dev wg-b && ip -n inner link set wg-b up
";

/// Kinds of links, and what each is made with.
const LINKS: [&str; 13] = [
    "d0 type dummy",
    "v0 type vxlan id 7 dstport 4789 local 127.0.0.1",
    "g0 type geneve id 7 remote 127.0.0.1",
    "m0 link d0 type macvlan",
    "d1 type dummy",
    "i0 link d1 type ipvlan",
    "q0 link d0 type vlan id 7",
    "r0 type vrf table 7",
    "b0 type bond",
    "f0 type ifb",
    "t0 type ipip local 127.0.0.1",
    "t1 type gre local 127.0.0.1 remote 127.0.0.2",
    "t2 type sit local 127.0.0.1",
];

/// A file system of a program's, one of two others, and one in a file.
const FILE_SYSTEMS: &str = "
mkdir -p /tmp/lower /tmp/upper /tmp/work /tmp/merged /lower /upper /work /merged /image
echo fuse > /tmp/lower/file
fuse-overlayfs -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work /tmp/merged
cat /tmp/merged/file
echo overlay > /lower/file
mount -t overlay -o lowerdir=/lower,upperdir=/upper,workdir=/work overlay /merged
cat /merged/file
dd if=/dev/zero of=/disk bs=1M count=16 2> /dev/null
mkfs.ext4 -q /disk
mknod /dev/loop0 b 7 0 2> /dev/null || true
mount -o loop /disk /image
echo loop > /image/file
cat /image/file
grep -E '/tmp/merged|/merged|/image' /proc/mounts | cut -d ' ' -f 3
";

/// Makes the programs' file system, in an archive in `folder`. Call it outside of a cluster's network. Blocks.
pub fn programs(apt: &Apt, folder: &Path) -> PathBuf {
    let root = folder.join("root");
    debian::lay_out(&root).unwrap();
    debian::unpack(apt, &PACKAGES, &["./etc/*"], &root).unwrap();
    for mounted in ["dev", "proc", "sys", "tmp", "run", "etc"] {
        fs::create_dir_all(root.join(mounted)).unwrap();
    }
    debian::find_libraries(&root).unwrap();
    let archive = folder.join("programs.tar");
    let arguments = ["--create", "--directory"];
    run(Command::new("tar")
        .args(arguments)
        .arg(&root)
        .arg("--file")
        .arg(&archive)
        .arg("."))
    .unwrap();
    archive
}

/// A pod with a container that may do all, and one that may only change the pod's network.
pub async fn offers_what_users_need(setup: &Setup<'_>, programs: &Path) {
    let _room = setup.room_for(1).await;
    let user = User::new(setup, POD).await;
    let with = |security: Value| {
        json!({
            "securityContext": security,
            "volumeMounts": [
                {"name": "programs", "mountPath": PROGRAMS},
                {"name": "image", "mountPath": "/image"},
                {"name": "modules", "mountPath": "/modules", "readOnly": true},
            ],
        })
    };
    let mut may_do_all = with(json!({"privileged": true}));
    may_do_all["ports"] = json!([{"containerPort": 8080, "hostPort": HOST_PORT}]);
    let may_change_the_network = with(json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}));
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "containers": [
            shell_with("main", "/testserver serve", may_do_all),
            shell_with(MESH, "sleep 3600", may_change_the_network),
        ],
        "volumes": [
            {"name": "programs", "emptyDir": {}},
            {"name": "modules", "hostPath": {"path": "/lib/modules", "type": "Directory"}},
            // One that the node image brings.
            {"name": "image", "image": {"reference": TOOLBOX, "pullPolicy": "IfNotPresent"}},
        ],
    });
    let pod = user.runs(POD, Size("300m", "250Mi"), spec).await;
    let path = format!(
        "/api/v1/namespaces/{}/pods/{POD}:{HOST_PORT}/proxy/",
        user.namespace
    );
    assert_eq!(user.kubectl(&["get", "--raw", &path]).await, "this is kernel");
    user.shell(POD, "cmp /testserver /image/testserver").await;
    brings(&user, programs).await;
    for iptables in ["iptables-nft", "iptables-legacy"] {
        redirects(&user, iptables).await;
    }
    user.shell(POD, &format!("mount -o bind /dev {PROGRAMS}/dev"))
        .await;
    let mounts = "mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs run /run; mount -t tmpfs tmp /tmp";
    runs(&user, "main", mounts).await;
    runs(&user, "main", ENGINE).await;
    let links = LINKS.map(|link| format!("ip link add {link}\n"));
    runs(&user, "main", &links.concat()).await;
    runs(&user, "main", WIREGUARD).await;
    let pinged = runs(
        &user,
        "main",
        "ip netns exec inner busybox ping -c 1 -W 20 10.9.0.1",
    )
    .await;
    assert!(pinged.contains("1 packets received"), "{pinged}");
    runs(
        &user,
        "main",
        "ip tuntap add mode tun name tun7; ip link show tun7",
    )
    .await;
    let seen = runs(&user, "main", FILE_SYSTEMS).await;
    let expected = [
        "fuse",
        "overlay",
        "loop",
        "fuse.fuse-overlayfs",
        "overlay",
        "ext4",
    ];
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
    // As containers do that load modules themselves.
    user.shell(POD, "test -s /modules/$(uname -r)/modules.dep").await;
    runs(&user, "main", "nft add table inet mine; nft list table inet mine").await;
    pod.ends().await.unwrap();
    user.leaves().await;
}

/// Unpacks the programs in the pod, as `kubectl cp` does.
async fn brings(user: &User<'_>, programs: &Path) {
    let status = user
        .command(&[
            "exec",
            "--stdin",
            POD,
            "--",
            "/bin/busybox",
            "tar",
            "x",
            "-C",
            PROGRAMS,
        ])
        .stdin(Stdio::from(File::open(programs).unwrap()))
        .status()
        .await
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Runs a script with the programs, in a container, which must succeed.
async fn runs(user: &User<'_>, container: &str, script: &str) -> String {
    // busybox takes its own ip before the one that PATH finds.
    let script = format!("set -ex\nip() {{ /sbin/ip \"$@\"; }}\n{script}");
    let chroot = [
        "/bin/busybox",
        "chroot",
        PROGRAMS,
        "/bin/busybox",
        "sh",
        "-c",
        &script,
    ];
    let exec = ["exec", POD, "-c", container, "--"];
    user.kubectl(&[exec.as_slice(), &chroot].concat()).await
}

/// By one of the two ways in which iptables speaks with the kernel.
async fn redirects(user: &User<'_>, iptables: &str) {
    let rules = REDIRECT
        .trim()
        .lines()
        .map(|rule| format!("{iptables} -t nat {rule}\n"));
    runs(user, MESH, &rules.collect::<String>()).await;
    let elsewhere = "/testserver get http://192.0.2.1:15999/own";
    let answer = user.shell(POD, elsewhere).await;
    assert!(answer.contains(POD), "redirected by {iptables}: {answer}");
    runs(user, MESH, &format!("{iptables} -t nat -F; {iptables} -t nat -X")).await;
    let others = RULES.map(|rule| format!("{iptables} {rule}\n"));
    runs(user, MESH, &others.concat()).await;
    let flushed = ["filter", "mangle", "raw"].map(|table| format!("{iptables} -t {table} -F\n"));
    runs(user, MESH, &flushed.concat()).await;
}
