//! Accepts connections and speaks HTTP on them, within bounds that no layer above or below sets: how many there are,
//! how long one may stay silent, what all of them may make us hold.
//!
//! Memory is bounded by what a peer may send before we have agreed to hold it: a TLS record, the header lists and the
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

use crate::connections::{Connection, Connections, Place, Told};

/// How long a connection may take to shake hands (TLS), and to answer a ping: each of them.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long requests in flight may take once nothing new is accepted.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the socket of a connection that was told to go stays open once nothing is left to say on it. A client may
/// still write before it has read that we go; a socket that is closed by then answers with a reset, which Go's HTTP
/// client takes for a failed request, where it would have sent it again elsewhere.
const LINGER: Duration = Duration::from_secs(3);
/// What a peer may send of one request's body before the ledger is asked, and what is charged for it at once.
pub const WINDOW: usize = 64 << 10;
/// What a request costs beside its body: headers, task, answer.
const OVERHEAD: usize = 8 << 10;
/// Requests at a time on one HTTP/2 connection. Go's client opens another connection for more.
const STREAMS: u32 = 100;
/// The largest header list that is read; the API server's is below 1 KiB.
const HEADERS: u32 = 16 << 10;
/// A peer that does not answer an HTTP/2 ping for [`PATIENCE`] is gone; asked this often.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// After a failure to accept, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How a port is spoken to.
#[derive(Clone)]
pub enum Security {
    /// As it is.
    Plain,
    /// In TLS, with what is in force when a connection comes.
    Tls(watch::Receiver<Arc<ServerConfig>>),
}

/// A port that is bound, and what answers there.
pub struct Port {
    /// Where clients come in.
    pub listener: TcpListener,
    /// How they are spoken to.
    pub security: Security,
    /// What answers. It finds the request's [`Charge`](crate::Charge) among its extensions, in an `Arc`.
    pub routes: Router,
    /// Who is there, and what they hold.
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
        // Clients that are told to go connect again, and as long as their network has not heard of it, to us.
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
                        let conversation = Conversation {
                            routes: self.routes.clone(),
                            builder: builder.clone(),
                            idle_timeout: self.idle_timeout,
                            connection: self.connections.open(peer.ip()),
                        };
                        tasks.spawn(conversation.meet(tcp, self.security.clone()));
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
        // Nobody speaks HTTP/2 without TLS, and a hundred answers at once on each connection, unread, would be too much:
        // metrics grow with the cluster.
        builder = builder.http1_only();
    }
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_buf_size(WINDOW);
    // A connection's window is never the narrower one: a stream that waits for room must not hold up another that has
    // been given it.
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PATIENCE)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(u32::try_from(WINDOW).unwrap_or(u32::MAX))
        .initial_connection_window_size(u32::try_from(WINDOW).unwrap_or(u32::MAX).saturating_mul(STREAMS));
    builder
}

/// One connection, and what is said on it.
struct Conversation {
    routes: Router,
    builder: Arc<Builder<TokioExecutor>>,
    idle_timeout: Duration,
    connection: Connection,
}

impl Conversation {
    async fn meet(mut self, tcp: TcpStream, security: Security) {
        // Fails on a connection that is gone already.
        _ = tcp.set_nodelay(true);
        let socket = tcp.as_fd().try_clone_to_owned();
        let told = match security {
            Security::Plain => self.converse(tcp).await,
            Security::Tls(config) => {
                let acceptor = TlsAcceptor::from(config.borrow().clone());
                let shaken = tokio::select! {
                    shaken = timeout(PATIENCE, acceptor.accept(tcp)) => shaken,
                    () = self.connection.closed() => return,
                };
                let Ok(Ok(tls)) = shaken else { return };
                self.converse(tls).await
            }
        };
        if told == Told::Drain && socket.is_ok() {
            tokio::select! {
                () = sleep(LINGER) => {}
                () = self.connection.closed() => {}
            }
        }
    }

    /// Speaks HTTP until the peer has gone or must go; what it was told.
    async fn converse(&mut self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Told {
        let (place, routes) = (self.connection.place(), self.routes.clone());
        let service = service_fn(move |request| admitted(place.clone(), routes.clone(), request));
        let service = TowerToHyperService::new(service);
        let mut http = pin!(self.builder.serve_connection(TokioIo::new(io), service));
        let mut first_request = pin!(sleep(self.idle_timeout));
        let mut unheard = true;
        let told = loop {
            tokio::select! {
                _ = http.as_mut() => return Told::Stay,
                told = self.connection.told() => break told,
                () = &mut first_request, if unheard => {
                    if !self.connection.has_begun() {
                        return Told::Close;
                    }
                    unheard = false;
                }
            }
        };
        if told == Told::Close {
            return told;
        }
        if !self.connection.speaks_http2() {
            // HTTP/1 can tell a client to go in an answer alone (RFC 9112, section 9.6). A connection that is closed
            // between two answers takes the request with it that is on its way.
            self.connection.leave();
            tokio::select! {
                _ = http.as_mut() => return told,
                () = self.connection.closed() => return Told::Close,
                () = sleep(LINGER) => {}
            }
        }
        http.as_mut().graceful_shutdown();
        tokio::select! {
            _ = http.as_mut() => {}
            () = self.connection.closed() => return Told::Close,
            () = sleep(DRAIN) => {}
        }
        told
    }
}

/// Enters a request in the ledger for as long as it, or its answer, is on the way.
async fn admitted<B>(place: Place, mut routes: Router, request: Request<B>) -> Result<Response, Infallible>
where
    B: HttpBody<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let http2 = request.version() == Version::HTTP_2;
    if http2 {
        place.note_http2();
    }
    let size = request.body().size_hint().exact();
    let first = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(WINDOW);
    let Some(charge) = place.begin(OVERHEAD + first.min(WINDOW)).map(Arc::new) else {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "too many requests at once\n").into_response());
    };
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(charge.clone());
    let mut response = routes.call(request).await?;
    if place.is_leaving() && !http2 {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| {
        // Held by the body: a peer that does not read its answer makes us keep it.
        Body::new(body.map_err(move |error| {
            let _held = &charge;
            error
        }))
    }))
}
