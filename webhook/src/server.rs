//! The server: binds both ports, runs, and ends in good order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{
    future::{Future, pending},
    io,
};

use maroonedpods_server::{Connections, Limits, Port, Security};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::TcpListener;

use crate::args::Args;
use crate::http::{State, metrics_router, router};
use crate::metrics::Metrics;
use crate::tls::{Files, Reloader, TlsError};

/// The bytes that all requests on the TLS port may hold together. With the most connections, and what each of them costs,
/// the sum is well below the chart's memory limit.
const BYTES: usize = 40 << 20;

/// Why the webhook does not start.
#[derive(Debug, Error)]
pub enum Error {
    /// The certificate cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address is in use, or does not belong to this machine.
    #[error("cannot listen on {address}: {source}; choose another by {flag}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The flag that it came from.
        flag: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// A webhook that is bound, and not running yet.
pub struct Server {
    addr: SocketAddr,
    metrics_addr: SocketAddr,
    admission: Port,
    plain: Port,
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
            client_ca,
            reload_interval,
            max_connections,
            idle_timeout,
            shutdown_delay,
        } = args;
        let reloader = Reloader::load(Files {
            dir: tls_dir,
            client_ca,
        })?;
        let (listener, addr) = listen(bind, "--bind").await?;
        let (metrics_listener, metrics_addr) = listen(metrics_bind, "--metrics-bind").await?;

        let mut registry = Registry::default();
        let state = Arc::new(State::new(Metrics::register(&mut registry)));
        let limits = Limits {
            connections: usize::try_from(max_connections).unwrap_or(usize::MAX),
            bytes: BYTES,
        };
        let port = |listener, security, routes, limits| Port {
            listener,
            security,
            routes,
            connections: Connections::new(limits, state.metrics().shed_connections()),
            idle_timeout,
        };
        let tls = Security::Tls(reloader.config());
        let admission = port(listener, tls, router(Arc::clone(&state)), limits);
        let routes = metrics_router(Arc::clone(&state), registry);
        let plain = port(metrics_listener, Security::Plain, routes, Limits::for_probes());
        Ok(Self {
            addr,
            metrics_addr,
            admission,
            plain,
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
        let stopped = async {
            stop.await;
            tracing::info!("stopping: unready from now on");
            self.state.set_unready();
            tokio::time::sleep(self.shutdown_delay).await;
            tracing::info!("draining");
        };
        // The plain port serves to the end, so that probes and metrics show the TLS port draining.
        tokio::select! {
            () = self.admission.serve(stopped) => {}
            () = self.plain.serve(pending()) => {}
            () = self.reloader.follow(self.reload_interval, self.state.metrics()) => {}
        }
        Ok(())
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
