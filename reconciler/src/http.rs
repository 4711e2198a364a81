//! `/metrics`, `/livez` and `/readyz`, plain HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::preflight::{self, Finding};

/// What the endpoints speak of.
#[derive(Clone)]
pub struct Health {
    /// The registry.
    pub metrics: Arc<Metrics>,
    /// What still keeps this replica from its work; `None` when nothing does.
    pub waiting_for: watch::Receiver<Option<String>>,
    /// What the cluster lacks, as far as this replica has looked: only the leader does.
    pub cluster_check: watch::Receiver<preflight::Decision>,
}

/// The routes. `/livez` answers as long as the runtime turns; `/readyz` names what is waited for, and what is wrong
/// with the cluster.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    answer(
        health.waiting_for.borrow().as_deref(),
        health.cluster_check.borrow().findings(),
    )
}

fn answer(waiting_for: Option<&str>, findings: &[Finding]) -> (StatusCode, String) {
    let line = |finding: &Finding| {
        let word = if finding.blocks {
            "no VM is started"
        } else {
            "warning"
        };
        format!("{word}: {}\n", finding.message)
    };
    let lines: String = findings.iter().map(line).collect();
    if let Some(what) = waiting_for {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("waiting for {what}\n{lines}"),
        );
    }
    if findings.iter().any(|finding| finding.blocks) {
        return (StatusCode::SERVICE_UNAVAILABLE, lines);
    }
    (StatusCode::OK, format!("ok\n{lines}"))
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, openmetrics)], health.metrics.text())
}

#[cfg(test)]
mod tests {
    use maroonedpods_common::api::ClusterReadyReason;

    use super::*;

    #[test]
    fn readiness_names_what_is_missing_and_only_warns_of_what_does_not_block() {
        let finding = |blocks| Finding {
            reason: ClusterReadyReason::PoliciesUnknown,
            blocks,
            message: "a sentence".to_owned(),
        };
        assert_eq!(answer(None, &[]), (StatusCode::OK, "ok\n".to_owned()));
        let (code, text) = answer(None, &[finding(false)]);
        assert_eq!(
            (code, text.as_str()),
            (StatusCode::OK, "ok\nwarning: a sentence\n")
        );
        let (code, text) = answer(None, &[finding(true)]);
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "no VM is started: a sentence\n");
        let (code, text) = answer(Some("pods"), &[finding(true)]);
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "waiting for pods\nno VM is started: a sentence\n");
    }
}
