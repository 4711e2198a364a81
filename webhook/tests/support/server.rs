//! The whole server on free ports, and a client that speaks TLS to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use maroonedpods_testing::GIVE_UP;
use maroonedpods_webhook::{Args, Error, Server};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{creation, ordinary_pod, written};

pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Identity {
    pub fn new() -> Self {
        Self::until(2100)
    }

    /// Ends when that year begins.
    pub fn until(year: i32) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }
}

/// A mounted Secret, written as the kubelet does (`pkg/volume/util/atomic_writer.go`).
pub struct SecretVolume {
    dir: TempDir,
    current: Option<PathBuf>,
    writes: u32,
}

impl SecretVolume {
    pub fn new(certificate: &str, key: &str) -> Self {
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

    pub fn of(identity: &Identity) -> Self {
        Self::new(&identity.certificate_pem, &identity.key_pem)
    }

    pub fn write(&mut self, certificate: &str, key: &str) {
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

    pub fn args(&self) -> Args {
        Args {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics_bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_dir: self.dir.path().to_owned(),
            client_ca: None,
            reload_interval: Duration::from_millis(10),
            max_connections: 100,
            idle_timeout: Duration::from_secs(120),
            shutdown_delay: Duration::ZERO,
        }
    }
}

/// A webhook that runs until it is stopped or dropped.
pub struct Running {
    pub addr: SocketAddr,
    pub metrics_addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<Result<(), Error>>,
}

impl Running {
    pub async fn start(args: Args) -> Self {
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

    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub async fn ended(self) -> Result<(), Error> {
        tokio::time::timeout(GIVE_UP, self.task)
            .await
            .expect("the webhook does not end")
            .unwrap()
    }

    pub async fn metric(&self, series: &str) -> f64 {
        let metrics = get_plain(self.metrics_addr, "/metrics").await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series))
            .expect(series);
        line.trim().parse().unwrap()
    }

    /// The certificate that a new connection is shown.
    pub async fn certificate(&self, trusted: &[&Identity]) -> CertificateDer<'static> {
        let stream = connect(self.addr, trusted, &[&TLS13], &[]).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

pub async fn connect(
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

/// What a client shows for itself.
pub struct ClientIdentity {
    pub certificate: CertificateDer<'static>,
    pub key: Vec<u8>,
}

/// The answer to a review by a client with this certificate; empty where it is not served.
pub async fn mutate_as(addr: SocketAddr, trusted: &Identity, client: Option<&ClientIdentity>) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        Some(client) => {
            let key = PrivateKeyDer::try_from(client.key.clone()).unwrap();
            config
                .with_client_auth_cert(vec![client.certificate.clone()], key)
                .unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let tcp = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, tcp).await else {
        return String::new();
    };
    let request = post(&written(&creation(&ordinary_pod())));
    let mut answer = Vec::new();
    // Refused after its side of the handshake: what it writes may or may not be taken.
    _ = stream.write_all(request.as_bytes()).await;
    _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

pub async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A peer that closes TCP without close_notify has answered all the same.
    _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

pub async fn get_plain(addr: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    exchange(TcpStream::connect(addr).await.unwrap(), &request).await
}

pub fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /mutate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

pub async fn mutate(addr: SocketAddr, identity: &Identity) -> String {
    let stream = connect(addr, &[identity], &[&TLS13], &[]).await;
    exchange(stream, &post(&written(&creation(&ordinary_pod())))).await
}
