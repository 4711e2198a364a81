//! The checks of a running reconciler: repeated for ever, reported in the log and in the configuration's status.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use maroonedpods_common::api::{ClusterReadyReason, ConfigCondition, MaroonedPodsConfigStatus};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Decision, Finding, decide, observe};
use crate::api::{CallError, Cluster};
use crate::conditions::ConditionUpdate;
use crate::settings::Settings;
use crate::status;

/// How many times longer the pause is after a check without findings.
const RARER_WHEN_GOOD: u32 = 10;

/// Checks for ever: at once, when the configuration changes, `recheck` after a check with findings or a failed one,
/// and ten times as long after a check without findings. Calls `changed` after each change of the decision.
///
/// A check for which the API server could not be queried leaves the decision unchanged.
pub async fn follow(
    cluster: &Cluster,
    mut settings: watch::Receiver<Option<Arc<Settings>>>,
    cluster_check: &watch::Sender<Decision>,
    recheck: Duration,
    changed: impl Fn(),
) {
    loop {
        let in_force = settings.borrow_and_update().clone();
        let is_good = match observe(cluster, in_force.as_deref()).await {
            Ok(observed) => {
                let new = decide(&observed).or_as_formerly(&cluster_check.borrow());
                if *cluster_check.borrow() != new {
                    log(new.findings());
                    cluster_check.send_replace(new.clone());
                    changed();
                }
                // On every check: the configuration may have been created since the last one.
                if let Err(error) = report(cluster, new.findings()).await {
                    tracing::warn!(%error, "cannot write the configuration's status");
                }
                new.findings().is_empty()
            }
            Err(error) => {
                tracing::warn!(%error, "the cluster could not be checked, will try again");
                false
            }
        };
        let pause = if is_good {
            recheck * RARER_WHEN_GOOD
        } else {
            recheck
        };
        let another_config = async {
            if settings.changed().await.is_err() {
                // The configuration came from a file, which does not change.
                pending::<()>().await;
            }
        };
        let _: Result<(), _> = timeout(pause, another_config).await;
    }
}

fn log(findings: &[Finding]) {
    if findings.is_empty() {
        tracing::info!("the cluster is as it should be");
    }
    for Finding {
        reason,
        blocks,
        message,
    } in findings
    {
        if *blocks {
            tracing::error!(%reason, "{message}; no VM is started until this is fixed");
        } else {
            tracing::warn!(%reason, "{message}");
        }
    }
}

async fn report(cluster: &Cluster, findings: &[Finding]) -> Result<(), CallError> {
    status::edit(cluster, |_, status| {
        set_condition(status, findings, Timestamp::now());
    })
    .await
}

/// Sets one condition: its reason is that of the first finding, its message lists all of them.
fn set_condition(status: &mut MaroonedPodsConfigStatus, findings: &[Finding], now: Timestamp) {
    let sentences: Vec<_> = findings.iter().map(|f| f.message.as_str()).collect();
    let message = if findings.is_empty() {
        "the cluster is as it should be".to_owned()
    } else {
        sentences.join("; ")
    };
    let reason = findings
        .first()
        .map_or(ClusterReadyReason::Checked, |finding| finding.reason);
    let update = ConditionUpdate {
        holds: !findings.iter().any(|finding| finding.blocks),
        reason: reason.into(),
        message: &message,
    };
    status::set_condition(status, ConfigCondition::ClusterReady, update, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_is_false_for_what_blocks_and_lists_everything() {
        let finding = |reason, blocks, message: &str| Finding {
            reason,
            blocks,
            message: message.to_owned(),
        };
        let condition_of = |findings: &[Finding]| {
            let mut status = MaroonedPodsConfigStatus::default();
            set_condition(&mut status, findings, Timestamp::UNIX_EPOCH);
            let condition = status.conditions.remove(0);
            (condition.status, condition.reason, condition.message)
        };
        let owned = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(
            condition_of(&[]),
            owned("True", "Checked", "the cluster is as it should be")
        );
        let warning = finding(ClusterReadyReason::PoliciesUnknown, false, "a");
        assert_eq!(
            condition_of(std::slice::from_ref(&warning)),
            owned("True", "PoliciesUnknown", "a")
        );
        let both = [finding(ClusterReadyReason::KubeVirtTooOld, true, "b"), warning];
        assert_eq!(condition_of(&both), owned("False", "KubeVirtTooOld", "b; a"));
    }
}
