//! The load generator: requests over TLS, so many in flight, each sent as soon as the one before it is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Connections over which HTTP/2 requests spread: kube-apiserver keeps one to a webhook, and a control plane has
/// three of them.
const H2_CONNECTIONS: usize = 3;

/// Which HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// HTTP/1.1, one connection for each request in flight.
    H1,
    /// HTTP/2.
    H2,
}

/// What is asked, and of whom.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    protocol: Protocol,
    method: Method,
    path: &'static str,
    body: Bytes,
}

impl Target {
    /// POSTs `body` to the server at `address`, whose certificate `ca` (PEM) has signed. No session is resumed: a
    /// new connection costs a whole handshake.
    pub fn new(address: SocketAddr, ca: &str, protocol: Protocol, body: Bytes) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.resumption = Resumption::disabled();
        let protocol_name: &[u8] = match protocol {
            Protocol::H1 => b"http/1.1",
            Protocol::H2 => b"h2",
        };
        tls.alpn_protocols = vec![protocol_name.to_vec()];
        Ok(Self {
            address,
            tls: Arc::new(tls),
            protocol,
            method: Method::POST,
            path: "/mutate",
            body,
        })
    }

    /// GETs the health page instead.
    #[must_use]
    pub fn health(mut self) -> Self {
        self.method = Method::GET;
        self.path = "/livez";
        self.body = Bytes::new();
        self
    }

    /// One request on a connection of its own; gives the answer's body.
    pub async fn ask_once(&self) -> Result<Bytes> {
        self.connect().await?.ask(self).await
    }

    async fn connect(&self) -> Result<Connection> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let tls = connector
            .connect(ServerName::IpAddress(self.address.ip().into()), tcp)
            .await?;
        let io = TokioIo::new(tls);
        // A connection that breaks is an error of the request that is on it.
        Ok(match self.protocol {
            Protocol::H1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Connection::H1(sender)
            }
            Protocol::H2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Connection::H2(sender)
            }
        })
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let request = Request::builder()
            .method(&self.method)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*");
        let request = match self.protocol {
            Protocol::H1 => request
                .uri(self.path)
                .header(header::HOST, self.address.to_string()),
            Protocol::H2 => request.uri(format!("https://{}{}", self.address, self.path)),
        };
        Ok(request.body(Full::new(self.body.clone()))?)
    }
}

enum Connection {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn ask(&mut self, target: &Target) -> Result<Bytes> {
        let request = target.request()?;
        let response = match self {
            Self::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::H2(sender) => sender.send_request(request).await?,
        };
        body_of(response).await
    }
}

async fn body_of(response: Response<Incoming>) -> Result<Bytes> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status != StatusCode::OK {
        bail!("answered {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(body)
}

/// Connections that are kept between runs, or none where each request makes its own.
pub struct Load {
    target: Arc<Target>,
    in_flight: usize,
    /// The connection of each request in flight; those of HTTP/2 share a few.
    kept: Option<Vec<Connection>>,
    /// Length of the one right answer.
    answer: usize,
}

impl Load {
    /// Makes the connections, and sees one good answer.
    pub async fn new(target: Target, in_flight: usize, keep_alive: bool) -> Result<Self> {
        let answer = target.ask_once().await.context("the first request")?.len();
        let kept = if keep_alive {
            Some(connections(&target, in_flight).await?)
        } else {
            None
        };
        Ok(Self {
            target: Arc::new(target),
            in_flight,
            kept,
            answer,
        })
    }

    /// Asks until `duration` has passed. Gives how long each request took; any wrong answer is an error.
    pub async fn run(&mut self, duration: Duration) -> Result<Vec<Duration>> {
        let until = Instant::now() + duration;
        let mut kept = self.kept.take().map(Vec::into_iter);
        let mut lines = JoinSet::new();
        for _ in 0..self.in_flight {
            let connection = kept.as_mut().and_then(Iterator::next);
            lines.spawn(ask_until(
                Arc::clone(&self.target),
                connection,
                self.answer,
                until,
            ));
        }
        let mut took = Vec::new();
        let mut connections = Vec::new();
        while let Some(line) = lines.join_next().await {
            let (connection, times) = line??;
            connections.extend(connection);
            took.extend(times);
        }
        self.kept = kept.map(|_| connections);
        Ok(took)
    }
}

async fn connections(target: &Target, in_flight: usize) -> Result<Vec<Connection>> {
    let mut made = Vec::new();
    for index in 0..in_flight {
        let shared = match index
            .checked_sub(H2_CONNECTIONS)
            .and_then(|first| made.get(first))
        {
            Some(Connection::H2(sender)) => Some(Connection::H2(sender.clone())),
            _ => None,
        };
        let connection = match shared {
            Some(connection) => connection,
            None => target.connect().await?,
        };
        made.push(connection);
    }
    Ok(made)
}

async fn ask_until(
    target: Arc<Target>,
    mut kept: Option<Connection>,
    answer: usize,
    until: Instant,
) -> Result<(Option<Connection>, Vec<Duration>)> {
    let mut times = Vec::new();
    loop {
        let start = Instant::now();
        if start >= until {
            return Ok((kept, times));
        }
        let body = match &mut kept {
            Some(connection) => connection.ask(&target).await?,
            None => target.ask_once().await?,
        };
        ensure!(body.len() == answer, "an answer of another length: {body:?}");
        times.push(start.elapsed());
    }
}
