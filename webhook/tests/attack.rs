//! The program under attack: it goes on answering, within the memory that the chart gives it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustls::version::TLS13;
use tokio::net::TcpStream;

mod support;
use support::UID;
use support::attack::Attack;
use support::server::{Identity, SecretVolume, connect, exchange, mutate, post, until};

/// Three quarters of the chart's limit: the rest is for a machine whose pages are larger.
const MEMORY_KIB: usize = 96 << 10;
const LASTS: Duration = Duration::from_secs(8);

/// The program itself, since memory is a process's.
struct Program {
    child: Child,
    address: SocketAddr,
    identity: Identity,
    _volume: SecretVolume,
}

impl Program {
    async fn start(flags: &[&str]) -> Self {
        let identity = Identity::new();
        let volume = SecretVolume::of(&identity);
        let free = || {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .unwrap()
                .local_addr()
                .unwrap()
        };
        let (address, metrics) = (free(), free());
        let mut command = Command::new(env!("CARGO_BIN_EXE_maroonedpods-webhook"));
        command.arg(format!("--bind={address}"));
        command.arg(format!("--metrics-bind={metrics}"));
        command.arg(format!("--tls-dir={}", volume.args().tls_dir.display()));
        let child = command.arg("--log-level=error").args(flags).spawn().unwrap();
        until("the program serves", async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self {
            child,
            address,
            identity,
            _volume: volume,
        }
    }

    fn attack(&self) -> Attack {
        Attack::on(self.address, "localhost", self.identity.certificate.clone())
    }

    /// The most memory that it has had.
    fn memory_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Asks from the attackers' own address until the time is over; every answer must be right.
    async fn answers_throughout(&self) {
        let start = Instant::now();
        while start.elapsed() < LASTS {
            let answer = mutate(self.address, &self.identity).await;
            assert!(answer.contains(UID), "{answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.fits();
    }

    fn fits(&self) {
        let memory = self.memory_kib();
        assert!(memory < MEMORY_KIB, "{} MiB", memory >> 10);
        println!("at most {} MiB", memory >> 10);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_shut_it() {
    let program = Program::start(&[]).await;
    let attack = program.attack().with_idle(1100);
    until("all have been there", async || attack.connected() >= 1100).await;
    program.answers_throughout().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_bodies_do_not_fill_it() {
    let program = Program::start(&[]).await;
    let _attack = program
        .attack()
        .with_unfinished_bodies(40)
        .with_unfinished_old_bodies(40)
        .with_unfinished_headers(100);
    program.answers_throughout().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_passes_among_unfinished_ones() {
    let program = Program::start(&[]).await;
    let _attack = program.attack().with_unfinished_bodies(40);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut review = support::creation(&support::ordinary_pod());
    review["request"]["object"]["status"] = "x".repeat(3_000_000).into();
    let request = post(&support::written(&review));
    for _ in 0..5 {
        let stream = connect(program.address, &[&program.identity], &[&TLS13], &[]).await;
        let answer = exchange(stream, &request).await;
        assert!(answer.contains(UID) && answer.contains("JSONPatch"), "{answer}");
    }
}

/// Each `{}` of three bytes would be a hundred in memory.
#[tokio::test(flavor = "multi_thread")]
async fn endless_lists_do_not_fill_it() {
    let program = Program::start(&[]).await;
    let items = vec!["{}"; 2_500_000].join(",");
    for (part, field) in [
        ("metadata", "ownerReferences"),
        ("spec", "tolerations"),
        ("spec", "schedulingGates"),
    ] {
        let mut review = support::creation(&support::ordinary_pod());
        review["request"]["object"][part][field] = "items".into();
        let review = support::written(&review).replace("\"items\"", &format!("[{items}]"));
        let stream = connect(program.address, &[&program.identity], &[&TLS13], &[]).await;
        let answer = exchange(stream, &post(&review)).await;
        assert!(answer.contains(UID) && answer.contains("JSONPatch"), "{answer}");
    }
    program.fits();
}
