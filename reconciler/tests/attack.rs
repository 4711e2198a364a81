//! The program under attack on its plain port: it goes on answering, within the memory that the chart gives it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use maroonedpods_testing::{Attack, Program, free_address, until};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Three quarters of the chart's limit: the rest is for the program's own work.
const MEMORY_KIB: usize = 192 << 10;
const LASTS: Duration = Duration::from_secs(8);
/// When the kubelet gives up on a liveness probe.
const SOON: Duration = Duration::from_secs(5);
/// The kubelet's address is another one.
const ATTACKERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// 64 connections and 16 that drain. Each socket is held twice: once to linger.
const SOCKETS: usize = 2 * (64 + 16);
/// What the program has besides: its listener, its runtime's, its calls to the API server.
const OTHER_SOCKETS: usize = 16;
/// What hyper holds of one request's headers by default.
const LARGE: usize = 400 << 10;
/// Headers that any server waits for the end of.
const SMALL: usize = 32 << 10;

struct Reconciler {
    program: Program,
    _kubeconfig: NamedTempFile,
}

impl Reconciler {
    /// A reconciler whose API server does not exist, so that it only waits for its lease.
    async fn start() -> Self {
        let address = free_address();
        let kubeconfig = NamedTempFile::new().unwrap();
        let content = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", free_address())}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        std::fs::write(kubeconfig.path(), content.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_maroonedpods-reconciler"));
        command.args(["run", "--log-level=error"]);
        command.arg(format!("--metrics-bind={address}"));
        command.arg(format!("--kubeconfig={}", kubeconfig.path().display()));
        Self {
            program: Program::start(&mut command, address).await,
            _kubeconfig: kubeconfig,
        }
    }

    fn attack(&self) -> Attack {
        Attack::on_plain(self.program.address(), ATTACKERS)
    }

    async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.program.address()).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn metric(&self, series: &str) -> f64 {
        let metrics = self.get("/metrics").await.unwrap();
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(series));
        value.unwrap().trim().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_headers_do_not_fill_it() {
    let reconciler = Reconciler::start().await;
    let large = reconciler.attack().with_unfinished_headers(700, LARGE);
    let small = reconciler.attack().with_unfinished_headers(200, SMALL);
    until("all have been there", async || {
        large.connected() >= 700 && small.connected() >= 200
    })
    .await;
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    while start.elapsed() < LASTS {
        let asked = Instant::now();
        let answer = timeout(SOON, reconciler.get("/livez")).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    println!("{slowest:?} at worst");
    reconciler.program.assert_memory_below(MEMORY_KIB);
    // Drained connections keep their sockets for a moment more.
    until("few sockets are open", async || {
        reconciler.program.sockets() <= SOCKETS + OTHER_SOCKETS
    })
    .await;
    assert!(reconciler.metric("maroonedpods_shed_connections_total").await > 0.5);
}
