//! The routes of both ports, apart from serving them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use maroonedpods_common::admission::OptOut;
use maroonedpods_server::Charge;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::body::receive;
use crate::metrics::Metrics;
use crate::review::{Answer, answer, no_preemption, refuse};

/// What the handlers share.
#[derive(Debug)]
pub struct State {
    metrics: Metrics,
    ready: AtomicBool,
}

impl State {
    /// Ready from the start: a webhook that is bound has all it needs.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            ready: AtomicBool::new(true),
        }
    }

    /// Lets `/readyz` answer 503 from now on.
    pub fn set_unready(&self) {
        self.ready.store(false, Ordering::Relaxed);
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// The TLS port. Which path an entry of the webhook configuration calls says whether pods may opt out; the API
/// server has looked at the namespace, so we need not.
pub fn router(state: Arc<State>) -> Router {
    let mutate = |Extract(state): Extract<Arc<State>>, request| async move {
        admit(&state, request, |review| answer(review, OptOut::Honoured)).await
    };
    let enforced = |Extract(state): Extract<Arc<State>>, request| async move {
        admit(&state, request, |review| answer(review, OptOut::Overruled)).await
    };
    let preemption = |Extract(state): Extract<Arc<State>>, request| async move {
        admit(&state, request, no_preemption).await
    };
    probes()
        .route("/mutate", post(mutate))
        .route("/mutate/enforced", post(enforced))
        .route("/preemption", post(preemption))
        .with_state(state)
}

/// The plain port.
pub fn metrics_router(state: Arc<State>, registry: Registry) -> Router {
    let registry = Arc::new(registry);
    probes()
        .with_state(state)
        .route("/metrics", get(move || async move { scrape(&registry) }))
}

fn probes() -> Router<Arc<State>> {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
}

async fn readyz(Extract(state): Extract<Arc<State>>) -> (StatusCode, &'static str) {
    if state.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
    }
}

async fn admit(state: &State, request: Request, answer: impl Fn(&[u8]) -> Answer) -> Response {
    let in_flight = state.metrics.start();
    let (mut head, body) = request.into_parts();
    let charge = head.extensions.remove::<Arc<Charge>>();
    let received = receive(body, charge.as_deref()).await;
    let answer = match received.fault {
        None => answer(&received.bytes),
        Some(fault) => refuse(&received.bytes, fault.code(), fault.message()),
    };
    drop(received);
    if let Some(charge) = charge {
        charge.release();
    }
    in_flight.finish(answer.result);
    let content_type = if answer.status.is_success() {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    };
    (answer.status, [(header::CONTENT_TYPE, content_type)], answer.body).into_response()
}

fn scrape(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
