//! Clients that mean harm: each holds on to what it can get, and connects again when it is thrown out.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
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
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// The most that one review may have.
const BODY: usize = 8 << 20;
const CHUNK: usize = 64 << 10;
/// The preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const COMES_BACK: Duration = Duration::from_secs(2);

/// An attack that goes on until it is dropped.
#[derive(Debug)]
pub struct Attack {
    target: Target,
    clients: JoinSet<()>,
}

#[derive(Clone, Debug)]
struct Target {
    address: SocketAddr,
    /// The attackers' own address.
    from: Ipv4Addr,
    tls: Option<Tls>,
    connected: Arc<AtomicUsize>,
}

#[derive(Clone, Debug)]
struct Tls {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Attack {
    /// On the plain port at `address`, from another address than its other clients have.
    #[must_use]
    pub fn on_plain(address: SocketAddr, from: Ipv4Addr) -> Self {
        Self::new(address, from, None)
    }

    /// On the TLS port at `address`, which the certificate `trusted` vouches for under this name. The attackers have the
    /// address that the port's other clients have.
    #[must_use]
    pub fn on_tls(address: SocketAddr, name: &str, trusted: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = Tls {
            name: ServerName::try_from(name.to_owned()).unwrap(),
            config: Arc::new(config),
        };
        Self::new(address, Ipv4Addr::UNSPECIFIED, Some(tls))
    }

    fn new(address: SocketAddr, from: Ipv4Addr, tls: Option<Tls>) -> Self {
        let target = Target {
            address,
            from,
            tls,
            connected: Arc::default(),
        };
        let clients = JoinSet::new();
        Self { target, clients }
    }

    /// How often a client has connected, its TLS handshake included.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.target.connected.load(Ordering::Relaxed)
    }

    /// HTTP/2 connections without a request.
    #[must_use]
    pub fn with_idle(self, clients: usize) -> Self {
        let target = self.target.clone();
        self.with(clients, move || send(target.clone(), Bytes::from_static(HELLO)))
    }

    /// Bodies that lack their last bytes, each in an HTTP/2 connection.
    #[must_use]
    pub fn with_unfinished_bodies(self, clients: usize) -> Self {
        let target = self.target.clone();
        self.with(clients, move || unfinished_body(target.clone()))
    }

    /// Bodies that lack their last byte, each in an HTTP/1.1 connection.
    #[must_use]
    pub fn with_unfinished_http1_bodies(self, clients: usize) -> Self {
        let head = format!("POST /mutate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\n\r\n");
        self.with_text(clients, head + &"x".repeat(BODY - 1))
    }

    /// One HTTP/1.1 header of so many bytes that does not end, in each connection. (Of more than a hundred headers, a
    /// server refuses the request without waiting for the end.)
    #[must_use]
    pub fn with_unfinished_headers(self, clients: usize, bytes: usize) -> Self {
        self.with_text(
            clients,
            "GET /livez HTTP/1.1\r\na: ".to_owned() + &"b".repeat(bytes),
        )
    }

    fn with_text(self, clients: usize, text: String) -> Self {
        let (target, text) = (self.target.speaking_http1(), Bytes::from(text));
        self.with(clients, move || send(target.clone(), text.clone()))
    }

    fn with<F>(mut self, clients: usize, attempt: impl Fn() -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send,
    {
        for _ in 0..clients {
            let attempt = attempt.clone();
            self.clients.spawn(async move {
                loop {
                    _ = attempt().await;
                    tokio::time::sleep(COMES_BACK).await;
                }
            });
        }
        self
    }
}

impl Target {
    fn speaking_http1(&self) -> Self {
        let mut target = self.clone();
        if let Some(tls) = &mut target.tls {
            Arc::make_mut(&mut tls.config).alpn_protocols.clear();
        }
        target
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((self.from, 0)))?;
        let tcp = socket.connect(self.address).await?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(Tls { name, config }) => {
                let connector = TlsConnector::from(config.clone());
                Box::new(connector.connect(name.clone(), tcp).await?)
            }
        };
        self.connected.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }
}

/// Sends the text, then reads to the end.
async fn send(target: Target, text: Bytes) -> io::Result<()> {
    let mut stream = target.connect().await?;
    stream.write_all(&text).await?;
    let mut read = [0; 1024];
    while stream.read(&mut read).await? > 0 {}
    Ok(())
}

async fn unfinished_body(target: Target) -> io::Result<()> {
    let uri: Uri = format!("https://{}/mutate", target.address).parse().unwrap();
    let stream = TokioIo::new(target.connect().await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .map_err(io::Error::other)?;
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let chunks = stream::iter(vec![chunk; BODY / CHUNK - 1]).chain(stream::pending());
    let body = StreamBody::new(chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))));
    let request = Request::post(uri)
        .header("content-length", BODY)
        .body(body)
        .unwrap();
    tokio::select! {
        ended = connection => ended.map_err(io::Error::other),
        answer = sender.send_request(request) => answer.map(drop).map_err(io::Error::other),
    }
}
