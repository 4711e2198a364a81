//! `/metrics`, `/livez` and `/readyz`, plain HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What the endpoints speak of.
#[derive(Clone)]
pub struct Health {
    /// The registry.
    pub metrics: Arc<Metrics>,
    /// What still keeps this replica from its work; `None` when nothing does.
    pub waiting_for: watch::Receiver<Option<String>>,
}

/// The routes. `/livez` answers as long as the runtime turns; `/readyz` names what is waited for.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    match &*health.waiting_for.borrow() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")),
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, openmetrics)], health.metrics.text())
}
