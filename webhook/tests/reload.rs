//! The whole server on free ports: certificates that change under it, connections that misbehave, its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use maroonedpods_webhook::{Args, Error, Server, TlsError};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

mod support;
use support::{UID, creation, ordinary_pod, written};

/// Long enough that only a defect takes longer.
const GIVE_UP: Duration = Duration::from_secs(60);

struct Identity {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: String,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Self {
            certificate: made.cert.der().clone(),
            certificate_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
        }
    }
}

/// A mounted Secret, written as the kubelet does (`pkg/volume/util/atomic_writer.go`).
struct SecretVolume {
    dir: TempDir,
    current: Option<PathBuf>,
    writes: u32,
}

impl SecretVolume {
    fn new(certificate: &str, key: &str) -> Self {
        let mut volume = Self {
            dir: tempfile::tempdir().unwrap(),
            current: None,
            writes: 0,
        };
        volume.write(certificate, key);
        for file in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(Path::new("..data").join(file), volume.dir.path().join(file)).unwrap();
        }
        volume
    }

    fn of(identity: &Identity) -> Self {
        Self::new(&identity.certificate_pem, &identity.key_pem)
    }

    fn write(&mut self, certificate: &str, key: &str) {
        self.writes += 1;
        let name = format!("..2026_11_21_10_00_00.{}", self.writes);
        let payload = self.dir.path().join(&name);
        std::fs::create_dir(&payload).unwrap();
        std::fs::write(payload.join("tls.crt"), certificate).unwrap();
        std::fs::write(payload.join("tls.key"), key).unwrap();
        let swap = self.dir.path().join("..data_tmp");
        std::os::unix::fs::symlink(&name, &swap).unwrap();
        std::fs::rename(&swap, self.dir.path().join("..data")).unwrap();
        if let Some(previous) = self.current.replace(payload) {
            std::fs::remove_dir_all(previous).unwrap();
        }
    }

    fn args(&self) -> Args {
        Args {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics_bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_dir: self.dir.path().to_owned(),
            reload_interval: Duration::from_millis(10),
            max_connections: 100,
            shutdown_delay: Duration::ZERO,
        }
    }
}

/// A webhook that runs until it is stopped or dropped.
struct Running {
    addr: SocketAddr,
    metrics_addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn start(args: Args) -> Self {
        let server = Server::bind(args).await.unwrap();
        let (addr, metrics_addr) = (server.addr(), server.metrics_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(async { _ = stopped.await }));
        Self {
            addr,
            metrics_addr,
            stop: Some(stop),
            task,
        }
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn ended(self) -> Result<(), Error> {
        tokio::time::timeout(GIVE_UP, self.task)
            .await
            .expect("the webhook does not end")
            .unwrap()
    }

    async fn metric(&self, series: &str) -> f64 {
        let metrics = get_plain(self.metrics_addr, "/metrics").await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series))
            .expect(series);
        line.trim().parse().unwrap()
    }

    /// The certificate that a new connection is shown.
    async fn certificate(&self, trusted: &[&Identity]) -> CertificateDer<'static> {
        let stream = connect(self.addr, trusted, &[&TLS13], &[]).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

async fn connect(
    addr: SocketAddr,
    trusted: &[&Identity],
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    for identity in trusted {
        roots.add(identity.certificate.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    let tcp = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap()
}

async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A peer that closes TCP without close_notify has answered all the same.
    _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get_plain(addr: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    exchange(TcpStream::connect(addr).await.unwrap(), &request).await
}

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /mutate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

async fn mutate(addr: SocketAddr, identity: &Identity) -> String {
    let stream = connect(addr, &[identity], &[&TLS13], &[]).await;
    exchange(stream, &post(&written(&creation(&ordinary_pod())))).await
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(GIVE_UP, waiting)
        .await
        .unwrap_or_else(|_| panic!("still waiting: {what}"));
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart() {
    let (old, new) = (Identity::new(), Identity::new());
    let mut volume = SecretVolume::of(&old);
    let webhook = Running::start(volume.args()).await;
    assert_eq!(webhook.certificate(&[&old, &new]).await, old.certificate);

    volume.write(&new.certificate_pem, &new.key_pem);
    until("the new certificate is served", async || {
        webhook.certificate(&[&old, &new]).await == new.certificate
    })
    .await;
    assert!(mutate(webhook.addr, &new).await.contains(UID));
}

#[tokio::test]
async fn an_unusable_pair_keeps_the_last_good_one() {
    let (old, new) = (Identity::new(), Identity::new());
    let mut volume = SecretVolume::of(&old);
    let webhook = Running::start(volume.args()).await;
    let errors = "maroonedpods_webhook_tls_reloads_total{result=\"error\"}";
    let successes = "maroonedpods_webhook_tls_reloads_total{result=\"success\"}";

    let bad = [
        ("garbage", "garbage"),
        (new.certificate_pem.as_str(), old.key_pem.as_str()),
        ("", new.key_pem.as_str()),
    ];
    for ((certificate, key), count) in bad.into_iter().zip([1.0, 2.0, 3.0]) {
        volume.write(certificate, key);
        until("the bad pair is counted", async || {
            webhook.metric(errors).await >= count
        })
        .await;
        assert_eq!(webhook.certificate(&[&old, &new]).await, old.certificate);
    }
    volume.write(&new.certificate_pem, &new.key_pem);
    until("the good pair is counted", async || {
        webhook.metric(successes).await >= 1.0
    })
    .await;
    assert_eq!(webhook.certificate(&[&old, &new]).await, new.certificate);
    assert!(
        (webhook.metric(errors).await - 3.0).abs() < 0.5,
        "each bad pair is counted once"
    );
}

#[tokio::test]
async fn an_unusable_certificate_is_refused_before_anything_is_bound() {
    let (one, other) = (Identity::new(), Identity::new());
    // An address that cannot be bound: the certificate must be complained about first.
    let refused = async |volume: &SecretVolume| {
        let args = Args {
            bind: SocketAddr::from(([192, 0, 2, 1], 1)),
            ..volume.args()
        };
        Server::bind(args).await.err().unwrap()
    };
    let mismatch = SecretVolume::new(&one.certificate_pem, &other.key_pem);
    assert!(matches!(
        refused(&mismatch).await,
        Error::Tls(TlsError::Unusable(_))
    ));
    let garbage = SecretVolume::new("garbage", &one.key_pem);
    assert!(matches!(
        refused(&garbage).await,
        Error::Tls(TlsError::NoCertificate)
    ));
    let no_key = SecretVolume::new(&one.certificate_pem, "");
    assert!(matches!(
        refused(&no_key).await,
        Error::Tls(TlsError::Pem { file: "tls.key", .. })
    ));
    let empty = tempfile::tempdir().unwrap();
    let args = Args {
        tls_dir: empty.path().to_owned(),
        ..no_key.args()
    };
    assert!(matches!(
        Server::bind(args).await.err().unwrap(),
        Error::Tls(TlsError::Read { .. })
    ));
    assert!(matches!(
        refused(&SecretVolume::of(&one)).await,
        Error::Bind { flag: "--bind", .. }
    ));
}

#[tokio::test]
async fn a_stopped_webhook_is_unready_and_serves_until_the_delay_is_over() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let mut webhook = Running::start(Args {
        shutdown_delay: Duration::from_secs(5),
        ..volume.args()
    })
    .await;
    let addr = webhook.addr;
    assert!(
        get_plain(webhook.metrics_addr, "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );

    webhook.stop();
    let metrics_addr = webhook.metrics_addr;
    until("/readyz says 503", async || {
        get_plain(metrics_addr, "/readyz")
            .await
            .starts_with("HTTP/1.1 503")
    })
    .await;
    let answer = mutate(addr, &identity).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(UID),
        "{answer}"
    );

    webhook.ended().await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_request_in_flight_is_answered_before_the_end() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let mut webhook = Running::start(volume.args()).await;
    let request = post(&written(&creation(&ordinary_pod())));
    let (first, rest) = request.split_at(request.len() - 10);
    let mut stream = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    stream.write_all(first.as_bytes()).await.unwrap();
    let inflight = "maroonedpods_webhook_admission_inflight";
    until("the request is in flight", async || {
        webhook.metric(inflight).await > 0.5
    })
    .await;

    webhook.stop();
    let addr = webhook.addr;
    until("no connection is accepted", async || {
        TcpStream::connect(addr).await.is_err()
    })
    .await;
    assert!(exchange(stream, rest).await.contains(UID));
    webhook.ended().await.unwrap();
}

#[tokio::test]
async fn dropping_the_future_ends_everything() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(volume.args()).await;
    let mut stream = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();

    webhook.task.abort();
    assert!(webhook.task.await.unwrap_err().is_cancelled());
    let mut rest = Vec::new();
    let read = tokio::time::timeout(GIVE_UP, stream.read_to_end(&mut rest)).await;
    read.expect("the connection outlives the webhook").ok();
    assert!(TcpStream::connect(webhook.addr).await.is_err());
    assert!(TcpStream::connect(webhook.metrics_addr).await.is_err());
}

#[tokio::test]
async fn connections_over_the_cap_wait_for_their_turn() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(Args {
        max_connections: 1,
        ..volume.args()
    })
    .await;
    let first = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    let second = mutate(webhook.addr, &identity);
    let mut second = std::pin::pin!(second);
    // The server has no permit left, so the handshake cannot have been done, however long the probe takes.
    tokio::select! {
        biased;
        answer = &mut second => panic!("served over the cap: {answer}"),
        _ = get_plain(webhook.metrics_addr, "/healthz") => {}
    }
    drop(first);
    assert!(second.await.contains(UID));
}

#[tokio::test]
async fn a_connection_that_stalls_is_closed() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(volume.args()).await;
    let closed = async |start: &'static str| {
        let mut stream = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
        stream.write_all(start.as_bytes()).await.unwrap();
        let read = tokio::time::timeout(GIVE_UP, stream.read_to_end(&mut Vec::new())).await;
        assert!(read.is_ok(), "still open after {start:?}");
    };
    let handshake = async {
        let mut stream = TcpStream::connect(webhook.addr).await.unwrap();
        let read = tokio::time::timeout(GIVE_UP, stream.read_to_end(&mut Vec::new())).await;
        assert!(read.is_ok(), "still open before the handshake");
    };
    // Silence; the beginning of an HTTP/2 preface; half a header.
    tokio::join!(
        handshake,
        closed(""),
        closed("PRI * HTTP"),
        closed("POST /mutate HTTP/1.1\r\nHost: localhost\r\nA:")
    );
}

#[tokio::test]
async fn a_large_body_is_answered_not_reset() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(volume.args()).await;
    let mut review = creation(&ordinary_pod());
    review["request"]["object"]["status"] = "x".repeat(20_000_000).into();
    let stream = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    let answer = exchange(stream, &post(&written(&review))).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(UID) && answer.contains("8 MiB"),
        "{answer}"
    );
}

#[tokio::test]
async fn http_2_and_tls_1_2_are_spoken() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(volume.args()).await;

    let mut stream = connect(webhook.addr, &[&identity], &[&TLS13], &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // The preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5); the server's come back.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 0x04);

    let stream = connect(webhook.addr, &[&identity], &[&TLS12], &[]).await;
    assert!(
        exchange(stream, &post(&written(&creation(&ordinary_pod()))))
            .await
            .contains(UID)
    );
}
