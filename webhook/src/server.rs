//! The server: what is bound, what runs, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{future::Future, io, pin::pin};

use axum::Router;
use axum_server::accept::{DefaultAcceptor, NoDelayAcceptor};
use axum_server::tls_rustls::RustlsAcceptor;
use axum_server::{Handle, Server as HttpServer};
use hyper_util::rt::TokioTimer;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::TcpListener;

use crate::args::Args;
use crate::connection::{Bounded, PATIENCE};
use crate::http::{State, metrics_router, router};
use crate::metrics::Metrics;
use crate::tls::{Reloader, TlsError};

/// How long requests in flight may take once nothing new is accepted.
const DRAIN: Duration = Duration::from_secs(10);
/// A peer that does not answer an HTTP/2 ping for [`PATIENCE`] is gone; asked this often.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// The kubelet, a scraper or two, and somebody debugging.
const METRICS_CONNECTIONS: usize = 64;

/// Why the webhook does not start, or ended by itself.
#[derive(Debug, Error)]
pub enum Error {
    /// The certificate cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; choose another by {flag}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The flag that it came from.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// One of the servers ended though nobody asked it to.
    #[error("the {server} server ended unasked{}", .source.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    Ended {
        /// Which.
        server: &'static str,
        /// Why, if it said so.
        source: Option<io::Error>,
    },
}

/// A webhook that is bound, and not running yet.
pub struct Server {
    addr: SocketAddr,
    metrics_addr: SocketAddr,
    admission: HttpServer<SocketAddr, Bounded<RustlsAcceptor<NoDelayAcceptor>>>,
    admission_routes: Router,
    plain: HttpServer<SocketAddr, Bounded<DefaultAcceptor>>,
    plain_routes: Router,
    state: Arc<State>,
    reloader: Reloader,
    reload_interval: Duration,
    shutdown_delay: Duration,
}

/// Binds and runs the webhook until `stop` resolves and everything in flight is answered.
///
/// Dropping the returned future ends everything at once: no task outlives it.
pub async fn run(args: Args, stop: impl Future<Output = ()> + Send) -> Result<(), Error> {
    Server::bind(args).await?.run(stop).await
}

impl Server {
    /// Validates the certificate, then binds both ports.
    pub async fn bind(args: Args) -> Result<Self, Error> {
        let Args {
            bind,
            metrics_bind,
            tls_dir,
            reload_interval,
            max_connections,
            shutdown_delay,
        } = args;
        let reloader = Reloader::load(tls_dir)?;
        let (listener, addr) = listen(bind, "--bind").await?;
        let (metrics_listener, metrics_addr) = listen(metrics_bind, "--metrics-bind").await?;

        let mut registry = Registry::default();
        let state = Arc::new(State::new(Metrics::register(&mut registry)));
        let tls = RustlsAcceptor::new(reloader.config())
            .handshake_timeout(PATIENCE)
            .acceptor(NoDelayAcceptor);
        let connections = usize::try_from(max_connections).unwrap_or(usize::MAX);
        Ok(Self {
            addr,
            metrics_addr,
            admission: http_server(listener).acceptor(Bounded::new(tls, connections)),
            admission_routes: router(Arc::clone(&state)),
            plain: http_server(metrics_listener).acceptor(Bounded::new(DefaultAcceptor, METRICS_CONNECTIONS)),
            plain_routes: metrics_router(Arc::clone(&state), registry),
            state,
            reloader,
            reload_interval,
            shutdown_delay,
        })
    }

    /// Where the TLS port is.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the plain port is.
    #[must_use]
    pub fn metrics_addr(&self) -> SocketAddr {
        self.metrics_addr
    }

    /// Serves until `stop` resolves; then unready, serving on for the shutdown delay, then draining.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), Error> {
        tracing::info!(addr = %self.addr, metrics = %self.metrics_addr, "serving");
        let admission_handle = ShutdownOnDrop(Handle::new());
        let plain_handle = ShutdownOnDrop(Handle::new());
        let admission = self.admission.handle(admission_handle.0.clone());
        let plain = self.plain.handle(plain_handle.0.clone());

        let mut admission = pin!(admission.serve(self.admission_routes.into_make_service()));
        let mut background = pin!(async {
            tokio::select! {
                ended = plain.serve(self.plain_routes.into_make_service()) => ended,
                () = self.reloader.follow(self.reload_interval, self.state.metrics()) => Ok(()),
            }
        });
        let stopped = async {
            stop.await;
            tracing::info!("stopping: unready from now on");
            self.state.set_unready();
            tokio::time::sleep(self.shutdown_delay).await;
        };
        tokio::select! {
            ended = &mut admission => return Err(Error::ended("admission", ended)),
            ended = &mut background => return Err(Error::ended("metrics", ended)),
            () = stopped => {}
        }
        tracing::info!("draining");
        admission_handle.0.graceful_shutdown(Some(DRAIN));
        tokio::select! {
            drained = &mut admission => drained.map_err(|error| Error::ended("admission", Err(error))),
            ended = &mut background => Err(Error::ended("metrics", ended)),
        }
    }
}

impl Error {
    fn ended(server: &'static str, result: io::Result<()>) -> Self {
        Self::Ended {
            server,
            source: result.err(),
        }
    }
}

/// Connections live on tasks of their own, which the server's handle alone can end.
struct ShutdownOnDrop(Handle<SocketAddr>);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Bind {
        address,
        flag,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn http_server(listener: TcpListener) -> HttpServer<SocketAddr> {
    let mut server = HttpServer::from_listener(listener);
    let builder = server.http_builder();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PATIENCE);
    server
}
