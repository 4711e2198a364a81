//! Accepts connections and speaks HTTP on them, within bounds that no layer above or below sets: how many there are,
//! how long one may stay silent, what all of them may make the program hold.
//!
//! Memory is bounded by what a peer may send before the ledger has admitted it: a TLS record, the header lists and the
//! window of each HTTP/2 stream, an HTTP/1 read buffer. All beyond is read only once the ledger has room.

use std::convert::Infallible;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::{Service, service_fn};

use crate::connections::{Connection, Connections, Handle, Instruction};

/// How long a connection may ask nothing unless a program's user says otherwise. The API server keeps an idle connection
/// for 90 s, and scrapers ask again within a minute: the longer of the two does not find its connection closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a connection may take for the TLS handshake, and as long again to answer a ping.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long requests in flight may take once nothing new is accepted.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the socket of a drained connection stays open after its last answer. A client may still write before it has
/// read that the server closes; a socket that is closed by then answers with a reset, which Go's HTTP client takes for a
/// failed request, where it would otherwise have sent the request again on another connection.
const LINGER: Duration = Duration::from_secs(3);
/// How much of one request's body a peer may send before the ledger is asked; charged for each body at once.
pub const WINDOW: usize = 64 << 10;
/// What a request costs beside its body: headers, task, answer.
const OVERHEAD: usize = 8 << 10;
/// Requests at a time on one HTTP/2 connection. Go's client opens another connection for more.
const STREAMS: u32 = 100;
/// The largest header list that is read; the API server's is below 1 KiB.
const HEADERS: u32 = 16 << 10;
/// A peer that does not answer an HTTP/2 ping for [`PEER_TIMEOUT`] is gone; asked this often.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// The pause after a failure to accept, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Whether clients speak TLS to a port.
#[derive(Clone)]
pub enum Security {
    /// Plain HTTP.
    Plain,
    /// TLS, with the configuration that is in force when a connection is accepted.
    Tls(watch::Receiver<Arc<ServerConfig>>),
}

/// A port that is bound, and the routes that it serves.
pub struct Port {
    /// The socket that accepts connections.
    pub listener: TcpListener,
    /// Whether clients speak TLS.
    pub security: Security,
    /// The routes. A handler finds the request's [`Charge`](crate::Charge) among its extensions, in an `Arc`.
    pub routes: Router,
    /// The connections that are open, and what they hold.
    pub connections: Connections,
    /// How long a connection may take until a request's headers are there, from its beginning or the last answer. An
    /// HTTP/2 connection must only begin so soon.
    pub idle_timeout: Duration,
}

impl Port {
    /// Accepts until `stop` resolves, then lets requests in flight finish, for a while.
    ///
    /// Dropping the returned future ends every connection at once.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let builder = Arc::new(builder(&self.security, self.idle_timeout));
        let mut tasks = JoinSet::new();
        self.accept_until(stop, &builder, &mut tasks).await;
        self.connections.drain();
        // Clients that were told to close connect again, and until their network has learnt that this endpoint goes,
        // they connect to it.
        self.accept_until(sleep(LINGER), &builder, &mut tasks).await;
        drop(self.listener);
        self.connections.drain();
        _ = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    }

    async fn accept_until(
        &self,
        stop: impl Future<Output = ()>,
        builder: &Arc<Builder<TokioExecutor>>,
        tasks: &mut JoinSet<()>,
    ) {
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return,
                Some(_ended) = tasks.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((tcp, peer)) => {
                        let session = Session {
                            routes: self.routes.clone(),
                            builder: builder.clone(),
                            idle_timeout: self.idle_timeout,
                            connection: self.connections.open(peer.ip()),
                        };
                        tasks.spawn(session.run(tcp, self.security.clone()));
                    }
                    Err(_) => sleep(ACCEPT_AGAIN).await,
                },
            }
        }
    }
}

fn builder(security: &Security, idle_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    if matches!(security, Security::Plain) {
        // No client of a plain port needs HTTP/2, and a hundred unread answers on each connection would be too much
        // memory: the metrics page grows with the cluster.
        builder = builder.http1_only();
    }
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_buf_size(WINDOW);
    // A connection's window is never the narrower one: a stream that waits for room must not hold up another that has
    // room already.
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PEER_TIMEOUT)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(u32::try_from(WINDOW).unwrap_or(u32::MAX))
        .initial_connection_window_size(u32::try_from(WINDOW).unwrap_or(u32::MAX).saturating_mul(STREAMS));
    builder
}

/// One connection, from its handshake to its end.
struct Session {
    routes: Router,
    builder: Arc<Builder<TokioExecutor>>,
    idle_timeout: Duration,
    connection: Connection,
}

impl Session {
    async fn run(mut self, tcp: TcpStream, security: Security) {
        // Fails only on a connection that has ended already.
        _ = tcp.set_nodelay(true);
        let socket = tcp.as_fd().try_clone_to_owned();
        let instruction = match security {
            Security::Plain => self.serve(tcp).await,
            Security::Tls(config) => {
                let acceptor = TlsAcceptor::from(config.borrow().clone());
                let handshake = tokio::select! {
                    handshake = timeout(PEER_TIMEOUT, acceptor.accept(tcp)) => handshake,
                    () = self.connection.closed() => return,
                };
                let Ok(Ok(tls)) = handshake else { return };
                self.serve(tls).await
            }
        };
        if instruction == Instruction::Drain && socket.is_ok() {
            tokio::select! {
                () = sleep(LINGER) => {}
                () = self.connection.closed() => {}
            }
        }
    }

    /// Serves HTTP until the peer has closed the connection, or the connection must end. Returns the instruction that it
    /// ended by.
    async fn serve(&mut self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Instruction {
        let (handle, routes) = (self.connection.handle(), self.routes.clone());
        let service = service_fn(move |request| admitted(handle.clone(), routes.clone(), request));
        let service = TowerToHyperService::new(service);
        let mut http = pin!(self.builder.serve_connection(TokioIo::new(io), service));
        let mut first_request = pin!(sleep(self.idle_timeout));
        let mut may_be_silent = true;
        let instruction = loop {
            tokio::select! {
                _ = http.as_mut() => return Instruction::Stay,
                instruction = self.connection.instructed() => break instruction,
                () = &mut first_request, if may_be_silent => {
                    if !self.connection.has_begun() {
                        return Instruction::Close;
                    }
                    may_be_silent = false;
                }
            }
        };
        if instruction == Instruction::Close {
            return instruction;
        }
        if !self.connection.speaks_http2() {
            // In HTTP/1, only an answer can tell the client to close (RFC 9112, section 9.6). Closing a connection between
            // two answers would lose the request that is on its way.
            self.connection.leave();
            tokio::select! {
                _ = http.as_mut() => return instruction,
                () = self.connection.closed() => return Instruction::Close,
                () = sleep(LINGER) => {}
            }
        }
        http.as_mut().graceful_shutdown();
        tokio::select! {
            _ = http.as_mut() => {}
            () = self.connection.closed() => return Instruction::Close,
            () = sleep(DRAIN) => {}
        }
        instruction
    }
}

/// Enters a request in the ledger for as long as it, or its answer, is being transferred.
async fn admitted<B>(handle: Handle, mut routes: Router, request: Request<B>) -> Result<Response, Infallible>
where
    B: HttpBody<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let http2 = request.version() == Version::HTTP_2;
    if http2 {
        handle.note_http2();
    }
    let size = request.body().size_hint().exact();
    let first = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(WINDOW);
    let Some(charge) = handle.begin(OVERHEAD + first.min(WINDOW)).map(Arc::new) else {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "too many requests at once\n").into_response());
    };
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(charge.clone());
    let mut response = routes.call(request).await?;
    if handle.is_leaving() && !http2 {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| {
        // The body holds the charge: a peer that does not read its answer makes the program keep it.
        Body::new(body.map_err(move |error| {
            let _held = &charge;
            error
        }))
    }))
}
