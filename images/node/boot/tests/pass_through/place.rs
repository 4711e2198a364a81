//! Three private networks that stand for the launcher's side, the guest and the pod; they end with the test.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{self, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use marooned_node_boot::{cni, nft};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

/// The address of the launcher's pod, which is to be the guest's pod's; in `src/testdata/serving.pem`.
pub const LAUNCHER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 17);
/// The guest's own address, to which the launcher translates its own.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The launcher's bridge.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
/// A client far away, whose address must reach the pod as it is.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub const KUBELET_PORT: u16 = 65250;
/// Longer than anything here takes that succeeds.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long to try what the rules must prevent. Too short a time can only miss that they do not.
pub const FUTILE: Duration = Duration::from_millis(500);
/// On this machine's path, below the home of no real kubelet: a private file system is mounted there first.
const CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-server-current.pem";

/// The namespaces of a thread that was moved into new ones.
struct Namespaces {
    network: File,
    mounts: File,
}

impl Namespaces {
    /// A new network, and a copy of the machine's mounts that the machine does not see.
    fn new() -> Self {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            for folder in ["/run", "/var/lib"] {
                mount(
                    Some("tmpfs"),
                    folder,
                    Some("tmpfs"),
                    MsFlags::empty(),
                    None::<&str>,
                )
                .unwrap();
            }
            ip("link set lo up");
            Self {
                network: File::open("/proc/thread-self/ns/net").unwrap(),
                mounts: File::open("/proc/thread-self/ns/mnt").unwrap(),
            }
        })
    }

    /// Runs `work` inside, on a thread of its own: sockets that it makes and processes that it starts stay there.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            // The kernel lets no thread change its mounts that shares its working folder with others.
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(&self.network, CloneFlags::CLONE_NEWNET).unwrap();
            setns(&self.mounts, CloneFlags::CLONE_NEWNS).unwrap();
            work()
        })
    }

    /// A path to the network, for this process and those that it starts.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.network.as_raw_fd())
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match thread::scope(|scope| scope.spawn(work).join()) {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs ip(8) in the calling thread's network; one command a line.
fn ip(commands: &str) {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "ip(8) refused one of:\n{commands}");
}

/// Why these tests cannot run here, if they cannot.
fn missing() -> Option<&'static str> {
    let allowed = on_a_thread(|| unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS));
    if allowed.is_err() {
        return Some("needs root, with the right to make namespaces");
    }
    let lacks = |program: &str| {
        let version = Command::new(program).arg("-V").stdout(Stdio::null()).status();
        !version.is_ok_and(|status| status.success())
    };
    if lacks("ip") || lacks("nft") {
        return Some("needs ip and nft (Debian: iproute2 nftables)");
    }
    None
}

/// Launcher side, guest and pod, linked as in a launcher: the guest at [`GUEST`], with the base rules.
pub struct Place {
    outside: Namespaces,
    guest: Namespaces,
    pod: Namespaces,
}

/// Runs a test in a fresh place; without the rights and programs for one, says that `test` was not run.
pub fn in_a_place(test: &str, run: impl FnOnce(&Place)) {
    if let Some(missing) = missing() {
        eprintln!("not run: {test}: {missing}");
        // The convention of this repository's other tests that a machine may not be able to run.
        if let Ok(list) = std::env::var("MAROONEDPODS_NOT_RUN") {
            let mut list = OpenOptions::new().append(true).create(true).open(list).unwrap();
            writeln!(list, "{test}\t{missing}").unwrap();
        }
        return;
    }
    let (outside, guest, pod) = (Namespaces::new(), Namespaces::new(), Namespaces::new());
    let guest_path = guest.path();
    outside.run(|| {
        ip(&format!(
            "link add out mtu 1450 type veth peer name eth0 mtu 1450 netns {guest_path}\n\
             address add {GATEWAY}/24 dev out\naddress add {CLIENT}/32 dev lo\nlink set out up\n\
             route add {GUEST} dev out src {CLIENT}"
        ));
    });
    guest.run(|| {
        nft::apply(&nft::base("eth0", KUBELET_PORT)).unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        ip(&format!(
            "address add {GUEST}/24 dev eth0\nlink set eth0 up\nroute add default via {GATEWAY}"
        ));
    });
    let place = Place { outside, guest, pod };
    place.certify(include_str!("../../src/testdata/serving.pem"));
    run(&place);
}

impl Place {
    pub fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.outside.run(work)
    }

    pub fn guest<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.guest.run(work)
    }

    pub fn pod<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pod.run(work)
    }

    /// Runs ip(8) in the pod's network.
    pub fn ip_in_pod(&self, commands: &str) {
        self.pod.run(|| ip(commands));
    }

    /// What ip(8) says in the guest.
    pub fn shown_in_guest(&self, arguments: &[&str]) -> String {
        shown(&self.guest, "ip", arguments)
    }

    /// What ip(8) says in the pod.
    pub fn shown_in_pod(&self, arguments: &[&str]) -> String {
        shown(&self.pod, "ip", arguments)
    }

    /// The guest's rules.
    pub fn rules(&self) -> String {
        shown(&self.guest, "nft", &["list", "ruleset"])
    }

    /// Puts a file where the kubelet has its serving certificate.
    pub fn certify(&self, pem: &str) {
        self.guest.run(|| {
            fs::create_dir_all("/var/lib/kubelet/pki").unwrap();
            fs::write(CERTIFICATE, pem).unwrap();
        });
    }

    /// Takes that file away.
    pub fn withdraw_certificate(&self) {
        self.guest.run(|| fs::remove_file(CERTIFICATE).unwrap());
    }

    /// Runs the plugin in the guest as a container runtime does.
    pub fn cni(&self, command: &str, container: &str) -> Result<Value, (u64, String)> {
        self.cni_with(command, container, &json!({}))
    }

    /// The same, with more in its configuration.
    pub fn cni_with(&self, command: &str, container: &str, more: &Value) -> Result<Value, (u64, String)> {
        let mut config = cni::conflist("eth0", KUBELET_PORT, false)["plugins"][0].clone();
        config["cniVersion"] = json!("1.1.0");
        config["name"] = json!("marooned");
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let output = self.guest.run(|| self.plugin(command, container, &config));
        let printed = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() {
            return Ok(printed);
        }
        Err((
            printed["code"].as_u64().unwrap(),
            printed["msg"].as_str().unwrap().to_owned(),
        ))
    }

    fn plugin(&self, command: &str, container: &str, config: &Value) -> Output {
        use std::os::unix::process::CommandExt;
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_marooned-node-boot"))
            .arg0(format!("/usr/lib/marooned/cni/{}", cni::PROGRAM))
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", self.pod.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = plugin.stdin.take().unwrap();
        // A plugin that needs no configuration may end before it is written.
        let _ = stdin.write_all(config.to_string().as_bytes());
        drop(stdin);
        plugin.wait_with_output().unwrap()
    }
}

fn shown(place: &Namespaces, program: &str, arguments: &[&str]) -> String {
    let output = place.run(|| Command::new(program).args(arguments).output().unwrap());
    String::from_utf8(output.stdout).unwrap()
}

/// A connection whose reads end. Blocks.
pub fn connect(address: Ipv4Addr, port: u16) -> TcpStream {
    let stream = TcpStream::connect_timeout(&(address, port).into(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A socket for datagrams at `address`, whose reads end.
pub fn datagrams(address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((address, port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}
