//! The servers that the webhook is measured against.
//!
//! All are the webhook's stack (axum, axum-server, hyper, rustls with ring, one thread) with its settings. On the way of
//! a request they share nothing with it but the rule, which decides over a typed pod here.

mod designs;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use clap::{Parser, ValueEnum};
use http_body_util::BodyExt;
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;

#[derive(Parser)]
struct Args {
    design: Design,
    /// The answer that the floor always gives: a file.
    #[arg(long, required_if_eq("design", "floor"))]
    answer: Option<PathBuf>,
    #[arg(long)]
    bind: SocketAddr,
    #[arg(long)]
    tls_dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Design {
    /// The body is read and not looked at; the answer is always the same.
    Floor,
    /// kube's typed review; the patch's operations are written by hand.
    Typed,
    /// kube's typed review; the pod is cloned, changed, and both are compared as JSON.
    Diff,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Args {
        design,
        answer,
        bind,
        tls_dir,
    } = Args::parse();
    let mutate = match design {
        Design::Floor => {
            let answer = Bytes::from(fs::read(answer.context("the floor needs --answer")?)?);
            post(move |body: Body| ignore(body, answer.clone()))
        }
        Design::Typed => post(async |body: Bytes| answered(designs::review(&body, designs::typed))),
        Design::Diff => post(async |body: Bytes| answered(designs::review(&body, designs::diff))),
    };
    let routes = Router::new()
        .route("/mutate", mutate)
        .route("/livez", get(async || "ok\n"));
    serve(bind, &tls_dir, routes).await
}

async fn ignore(mut body: Body, answer: Bytes) -> Response {
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return StatusCode::BAD_REQUEST.into_response();
        }
    }
    ([(header::CONTENT_TYPE, "application/json")], answer).into_response()
}

fn answered(review: Result<Vec<u8>>) -> Response {
    match review {
        Ok(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}")).into_response(),
    }
}

/// As the webhook's own `server` and `tls` do, without its bounds on connections.
async fn serve(bind: SocketAddr, tls_dir: &Path, routes: Router) -> Result<()> {
    let chain = CertificateDer::pem_file_iter(tls_dir.join("tls.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(tls_dir.join("tls.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(Arc::new(tls))).acceptor(NoDelayAcceptor);

    let mut server = axum_server::Server::<SocketAddr>::from_listener(TcpListener::bind(bind).await?);
    let builder = server.http_builder();
    let patience = Duration::from_secs(5);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(patience);
    server
        .acceptor(acceptor)
        .serve(routes.into_make_service())
        .await?;
    Ok(())
}
