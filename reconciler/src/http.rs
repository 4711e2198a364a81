//! The pages of the plain port: `/metrics`, `/livez` and `/readyz`.

use std::sync::Arc;

use axum::Router;
use maroonedpods_server::program;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::preflight::{self, Finding};

/// What the pages show.
#[derive(Clone)]
pub struct Health {
    /// The registry.
    pub metrics: Arc<Metrics>,
    /// What still keeps this replica from its work; `None` when nothing does.
    pub waiting_for: watch::Receiver<Option<String>>,
    /// What the cluster lacks, as far as this replica has looked: only the leader does.
    pub cluster_check: watch::Receiver<preflight::Decision>,
}

/// The routes. `/readyz` names what is waited for, and what is wrong with the cluster.
pub fn router(health: Health) -> Router {
    let Health {
        metrics,
        waiting_for,
        cluster_check,
    } = health;
    let ready = move || readiness(waiting_for.borrow().as_deref(), cluster_check.borrow().findings());
    program::health(ready).merge(program::metrics(move || Ok(metrics.text())))
}

fn readiness(waiting_for: Option<&str>, findings: &[Finding]) -> Result<String, String> {
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
        return Err(format!("waiting for {what}\n{lines}"));
    }
    if findings.iter().any(|finding| finding.blocks) {
        return Err(lines);
    }
    Ok(format!("ok\n{lines}"))
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
        let (ok, err) = (
            |text: &str| Ok(text.to_owned()),
            |text: &str| Err(text.to_owned()),
        );
        assert_eq!(readiness(None, &[]), ok("ok\n"));
        assert_eq!(
            readiness(None, &[finding(false)]),
            ok("ok\nwarning: a sentence\n")
        );
        assert_eq!(
            readiness(None, &[finding(true)]),
            err("no VM is started: a sentence\n")
        );
        assert_eq!(
            readiness(Some("pods"), &[finding(true)]),
            err("waiting for pods\nno VM is started: a sentence\n")
        );
    }
}
