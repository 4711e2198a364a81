//! Reports the certificate's state: in the log when it changes, and on the configuration.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use maroonedpods_common::api::{CertificatesReadyReason as Reason, ConfigCondition};

use crate::api::{CallError, Cluster};
use crate::conditions::ConditionUpdate;
use crate::status;

/// How often an unchanged report is written again: the configuration may have been created since.
const REPEAT: Duration = Duration::from_secs(60);

/// The result of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Nothing to do.
    Resting {
        /// When the certificate ends.
        until: Timestamp,
    },
    /// A rotation is under way; the text says what it waits for.
    Rotating(String),
    /// A step failed; the text says why.
    Failed(String),
}

/// Remembers the last report.
#[derive(Default)]
pub(super) struct Reporter {
    last: Option<(Report, Instant)>,
}

impl Reporter {
    /// Writes the report, unless the same was written a moment ago.
    pub(super) async fn report(&mut self, cluster: &Cluster, report: &Report) {
        let changed = self.last.as_ref().is_none_or(|(last, _)| last != report);
        if changed && let Report::Failed(error) = report {
            tracing::warn!(error, "the webhook's certificate cannot be kept, will try again");
        }
        let is_due = |(_, when): &(Report, Instant)| when.elapsed() >= REPEAT;
        if !changed && !self.last.as_ref().is_some_and(is_due) {
            return;
        }
        self.last = Some((report.clone(), Instant::now()));
        if let Err(error) = write(cluster, report).await {
            tracing::warn!(%error, "cannot write the configuration's status");
        }
    }
}

async fn write(cluster: &Cluster, report: &Report) -> Result<(), CallError> {
    let (holds, reason, message) = match report {
        Report::Resting { until } => (
            true,
            Reason::Issued,
            format!("the webhook's certificate is valid until {until}"),
        ),
        Report::Rotating(message) => (true, Reason::Rotating, message.clone()),
        Report::Failed(error) => (false, Reason::Failed, format!("{error}; it is tried again")),
    };
    let update = ConditionUpdate {
        holds,
        reason: reason.into(),
        message: &message,
    };
    status::edit(cluster, |_, status| {
        status::set_condition(
            status,
            ConfigCondition::CertificatesReady,
            update,
            Timestamp::now(),
        );
    })
    .await
}

/// Another program makes the certificates now: removes the condition that an earlier leader wrote.
pub async fn forget(cluster: &Cluster) {
    let forgotten = status::edit(cluster, |_, status| {
        let ours = <&str>::from(ConfigCondition::CertificatesReady);
        status.conditions.retain(|condition| condition.type_ != ours);
    });
    if let Err(error) = forgotten.await {
        tracing::warn!(%error, "cannot write the configuration's status");
    }
}
