//! Clients that mean harm: each holds on to what it can get, and comes back when it is thrown out.
//!
//! The tests of `e2e` use this file too, against a webhook that a real API server calls at the same time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use hyper::client::conn::http2;
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The most that one review may have.
const BODY: usize = 8 << 20;
const CHUNK: usize = 64 << 10;
/// The preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const COMES_BACK: Duration = Duration::from_secs(2);

/// An attack that goes on until it is dropped.
pub struct Attack {
    target: Target,
    clients: JoinSet<()>,
}

#[derive(Clone)]
struct Target {
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    connected: Arc<AtomicUsize>,
}

impl Attack {
    /// On the server there, which is trusted by this certificate under this name.
    pub fn on(address: SocketAddr, name: &str, trusted: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let target = Target {
            address,
            name: ServerName::try_from(name.to_owned()).unwrap(),
            config: Arc::new(config),
            connected: Arc::default(),
        };
        let clients = JoinSet::new();
        Self { target, clients }
    }

    /// How often a client has shaken hands.
    pub fn connected(&self) -> usize {
        self.target.connected.load(Ordering::Relaxed)
    }

    /// HTTP/2 connections on which nothing is asked.
    pub fn with_idle(mut self, clients: usize) -> Self {
        for _ in 0..clients {
            let target = self.target.clone();
            self.clients.spawn(again_and_again(move || idle(target.clone())));
        }
        self
    }

    /// Bodies that lack their last bytes, in as many HTTP/2 connections.
    pub fn with_unfinished_bodies(mut self, clients: usize) -> Self {
        for _ in 0..clients {
            let target = self.target.clone();
            self.clients
                .spawn(again_and_again(move || unfinished_body(target.clone())));
        }
        self
    }

    /// The same in HTTP/1.1.
    pub fn with_unfinished_old_bodies(mut self, clients: usize) -> Self {
        let mut target = self.target.clone();
        Arc::make_mut(&mut target.config).alpn_protocols.clear();
        let head = format!("POST /mutate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\n\r\n");
        let text = head + &"x".repeat(BODY - 1);
        let text = Bytes::from(text);
        for _ in 0..clients {
            let (target, text) = (target.clone(), text.clone());
            self.clients
                .spawn(again_and_again(move || says(target.clone(), text.clone())));
        }
        self
    }

    /// Headers without end, in HTTP/1.1.
    pub fn with_unfinished_headers(mut self, clients: usize) -> Self {
        let mut target = self.target.clone();
        Arc::make_mut(&mut target.config).alpn_protocols.clear();
        // In one header: after a hundred, the server needs no end to refuse them.
        let text = Bytes::from("GET /livez HTTP/1.1\r\na: ".to_owned() + &"b".repeat(60_000));
        for _ in 0..clients {
            let (target, text) = (target.clone(), text.clone());
            self.clients
                .spawn(again_and_again(move || says(target.clone(), text.clone())));
        }
        self
    }
}

async fn again_and_again<F: Future<Output = std::io::Result<()>>>(attempt: impl Fn() -> F) {
    loop {
        _ = attempt().await;
        tokio::time::sleep(COMES_BACK).await;
    }
}

impl Target {
    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        let connector = TlsConnector::from(self.config.clone());
        let tls = connector.connect(self.name.clone(), tcp).await?;
        self.connected.fetch_add(1, Ordering::Relaxed);
        Ok(tls)
    }
}

async fn idle(target: Target) -> std::io::Result<()> {
    says(target, Bytes::from_static(HELLO)).await
}

/// Says it, then listens to the end without an answer.
async fn says(target: Target, text: Bytes) -> std::io::Result<()> {
    let mut stream = target.connect().await?;
    stream.write_all(&text).await?;
    let mut heard = [0; 1024];
    while stream.read(&mut heard).await? > 0 {}
    Ok(())
}

async fn unfinished_body(target: Target) -> std::io::Result<()> {
    let uri: Uri = format!("https://{}/mutate", target.address).parse().unwrap();
    let io = TokioIo::new(target.connect().await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(std::io::Error::other)?;
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let chunks = stream::iter(vec![chunk; BODY / CHUNK - 1]).chain(stream::pending());
    let body = StreamBody::new(chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))));
    let request = Request::post(uri)
        .header("content-length", BODY)
        .body(body)
        .unwrap();
    tokio::select! {
        ended = connection => ended.map_err(std::io::Error::other),
        answer = sender.send_request(request) => answer.map(drop).map_err(std::io::Error::other),
    }
}
