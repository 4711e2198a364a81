//! The routes of both ports. `server` serves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State as Extract};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use maroonedpods_common::admission::OptOut;
use maroonedpods_server::{Charge, program};
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

    fn readiness(&self) -> Result<String, String> {
        if self.ready.load(Ordering::Relaxed) {
            Ok("ok\n".to_owned())
        } else {
            Err("shutting down\n".to_owned())
        }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// The TLS port. The path that an entry of the webhook configuration calls says whether pods may opt out: the API
/// server has matched the namespace's labels, so the webhook need not read them.
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
    Router::new()
        .route("/mutate", post(mutate))
        .route("/mutate/enforced", post(enforced))
        .route("/preemption", post(preemption))
        .with_state(Arc::clone(&state))
        .merge(health(state))
}

/// The plain port.
pub fn metrics_router(state: Arc<State>, registry: Registry) -> Router {
    let registry = Arc::new(registry);
    let metrics = program::metrics(move || {
        let mut text = String::new();
        encode(&mut text, &registry).map(|()| text)
    });
    health(state).merge(metrics)
}

fn health(state: Arc<State>) -> Router {
    program::health(move || state.readiness())
}

async fn admit(state: &State, request: Request, answer: impl Fn(&[u8]) -> Answer) -> Response {
    let in_flight = state.metrics.start();
    let (mut head, body) = request.into_parts();
    let charge = head.extensions.remove::<Arc<Charge>>();
    let received = receive(body, charge.as_deref()).await;
    let answer = match received.fault {
        None => answer(&received.bytes),
        Some(fault) => {
            let (code, message) = fault.describe();
            refuse(&received.bytes, code, message)
        }
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
