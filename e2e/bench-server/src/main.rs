//! The servers that the webhook is measured against.
//!
//! Both are the webhook's stack (axum, axum-server, hyper, rustls with ring, one thread) with its settings, and
//! none of its code on the way of a request.

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
use k8s_openapi::api::core::v1::{Pod, PodSchedulingGate, Toleration};
use kube::ResourceExt;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use maroonedpods_common::admission::{Addition, OptOut, Outcome, PodView, decide};
use maroonedpods_common::names;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;

/// Length of the patch in our answer to the typical body, in base64.
const PATCH_LENGTH: usize = 700;

#[derive(Parser)]
struct Args {
    design: Design,
    #[arg(long)]
    bind: SocketAddr,
    #[arg(long)]
    tls_dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Design {
    /// The body is read and not looked at; the answer is always the same, as long as ours.
    Floor,
    /// kube's typed review; the pod is cloned, changed, and both are compared as JSON.
    Usual,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Args {
        design,
        bind,
        tls_dir,
    } = Args::parse();
    let mutate = match design {
        Design::Floor => {
            let answer = Bytes::from(constant_answer());
            post(move |body: Body| ignore(body, answer.clone()))
        }
        Design::Usual => post(async |body: Bytes| usual(&body)),
    };
    let routes = Router::new()
        .route("/mutate", mutate)
        .route("/livez", get(async || "ok\n"));
    serve(bind, &tls_dir, routes).await
}

fn constant_answer() -> String {
    let patch = "A".repeat(PATCH_LENGTH);
    let response = json!({"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "allowed": true,
        "patchType": "JSONPatch", "patch": patch});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).to_string()
}

async fn ignore(mut body: Body, answer: Bytes) -> Response {
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return StatusCode::BAD_REQUEST.into_response();
        }
    }
    ([(header::CONTENT_TYPE, "application/json")], answer).into_response()
}

fn usual(body: &[u8]) -> Response {
    match review(body) {
        Ok(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}")).into_response(),
    }
}

fn review(body: &[u8]) -> Result<Vec<u8>> {
    let review: AdmissionReview<Pod> = serde_json::from_slice(body)?;
    let request: AdmissionRequest<Pod> = review.try_into()?;
    let mut response = AdmissionResponse::from(&request);
    let pod = request.object.context("no pod")?;
    let changed = maroon(pod.clone());
    let patch = json_patch::diff(&serde_json::to_value(&pod)?, &serde_json::to_value(&changed)?);
    response = response.with_patch(patch)?;
    Ok(serde_json::to_vec(&response.into_review())?)
}

fn maroon(mut pod: Pod) -> Pod {
    let Outcome::Add(additions) = decide(&PodView::from(&pod), OptOut::Honoured) else {
        return pod;
    };
    for addition in additions {
        let mut spec = pod.spec.take().unwrap_or_default();
        match addition {
            Addition::Label => {
                let labels = pod.labels_mut();
                labels.insert(names::MAROON_LABEL.to_owned(), names::MAROON_TRUE.to_owned());
            }
            Addition::Gate => spec
                .scheduling_gates
                .get_or_insert_default()
                .push(PodSchedulingGate {
                    name: names::GATE.to_owned(),
                }),
            Addition::ClassSelector => {
                let selector = spec.node_selector.get_or_insert_default();
                selector.insert(names::CLASS_LABEL.to_owned(), names::CLASS_LABEL_VALUE.to_owned());
            }
            Addition::Toleration(ours) => spec.tolerations.get_or_insert_default().push(Toleration {
                key: Some(ours.key.to_owned()),
                operator: Some(ours.operator.to_owned()),
                value: Some(ours.value.to_owned()).filter(|value| !value.is_empty()),
                effect: Some(ours.effect.to_owned()),
                toleration_seconds: ours.toleration_seconds,
            }),
        }
        pod.spec = Some(spec);
    }
    pod
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
