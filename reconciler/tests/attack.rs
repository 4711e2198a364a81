//! The program under attack on its plain port: it goes on answering, within the memory that the chart gives it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Three quarters of the chart's limit: the rest is for the program's own work.
const MEMORY_KIB: usize = 192 << 10;
const LASTS: Duration = Duration::from_secs(8);
const COMES_BACK: Duration = Duration::from_secs(2);
/// When the kubelet gives up on a probe of whether we live.
const SOON: Duration = Duration::from_secs(5);
/// The kubelet's address is not theirs.
const ATTACKERS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 0));
/// 64 connections and 16 on their way out. Each socket is held twice: once to linger.
const SOCKETS: usize = 2 * (64 + 16);
/// What the program has besides: its listener, its runtime's, its calls to the API server.
const OTHER_SOCKETS: usize = 16;
/// Long enough that only a defect takes longer.
const GIVE_UP: Duration = Duration::from_secs(60);
/// What hyper holds of one request's headers where nobody tells it to hold less.
const LARGE: usize = 400 << 10;
/// Headers that any server waits for the end of.
const SMALL: usize = 32 << 10;

/// The program itself, since memory is a process's. Its API server is never there, so it only waits for its lease.
struct Program {
    child: Child,
    address: SocketAddr,
    _kubeconfig: NamedTempFile,
}

impl Program {
    async fn start() -> Self {
        let free = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap()
        };
        let (address, nobody) = (free(), free());
        let kubeconfig = NamedTempFile::new().unwrap();
        let content = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{nobody}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        std::fs::write(kubeconfig.path(), content.to_string()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_maroonedpods-reconciler"))
            .args(["run", "--log-level=error"])
            .arg(format!("--metrics-bind={address}"))
            .arg(format!("--kubeconfig={}", kubeconfig.path().display()))
            .spawn()
            .unwrap();
        let program = Self {
            child,
            address,
            _kubeconfig: kubeconfig,
        };
        until("the program serves", async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        program
    }

    async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
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

    /// The most memory that it has had.
    fn memory_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn sockets(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let names = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
        names
            .filter(|name| name.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Clients whose headers never end; each comes back when it is thrown out.
fn unfinished_headers(
    clients: &mut JoinSet<()>,
    program: &Program,
    count: usize,
    size: usize,
) -> Arc<AtomicUsize> {
    let address = program.address;
    let connected = Arc::new(AtomicUsize::new(0));
    // In one header: after a hundred, the server needs no end to refuse them.
    let text = Arc::new("GET /livez HTTP/1.1\r\na: ".to_owned() + &"b".repeat(size));
    for _ in 0..count {
        let (connected, text) = (connected.clone(), text.clone());
        clients.spawn(async move {
            loop {
                if let Ok(mut stream) = connect_from(ATTACKERS, address).await {
                    connected.fetch_add(1, Ordering::Relaxed);
                    _ = stream.write_all(text.as_bytes()).await;
                    _ = stream.read_to_end(&mut Vec::new()).await;
                }
                sleep(COMES_BACK).await;
            }
        });
    }
    connected
}

async fn connect_from(here: SocketAddr, there: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(here)?;
    socket.connect(there).await
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waiting = async {
        while !condition().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(GIVE_UP, waiting).await;
    waited.unwrap_or_else(|_| panic!("still waiting: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_headers_do_not_fill_it() {
    let program = Program::start().await;
    let mut clients = JoinSet::new();
    let large = unfinished_headers(&mut clients, &program, 700, LARGE);
    let small = unfinished_headers(&mut clients, &program, 200, SMALL);
    until("all have been there", async || {
        large.load(Ordering::Relaxed) >= 700 && small.load(Ordering::Relaxed) >= 200
    })
    .await;
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    while start.elapsed() < LASTS {
        let asked = Instant::now();
        let answer = timeout(SOON, program.get("/livez")).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    let memory = program.memory_kib();
    println!("at most {} MiB, {slowest:?} at worst", memory >> 10);
    assert!(memory < MEMORY_KIB, "{} MiB", memory >> 10);
    // Those that were just told to go have theirs for a moment more.
    until("few sockets are open", async || {
        program.sockets() <= SOCKETS + OTHER_SOCKETS
    })
    .await;
    assert!(program.metric("maroonedpods_shed_connections_total").await > 0.5);
}
