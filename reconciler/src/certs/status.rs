//! Reports how the certificate is: in the log when that changes, and on the configuration.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use maroonedpods_common::api::{CertificatesReadyReason as Reason, ConfigCondition};

use crate::api::{CallError, Cluster};
use crate::conditions::ConditionUpdate;
use crate::status;

/// What was said is said again so often: the configuration may be younger.
const REPEAT: Duration = Duration::from_secs(60);

/// What became of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Nothing to do.
    Resting {
        /// When the certificate ends.
        until: Option<Timestamp>,
    },
    /// Under way, and what it waits for.
    Rotating(String),
    /// A step failed, and why.
    Failed(String),
}

/// Remembers what was said last.
#[derive(Default)]
pub(super) struct Reporter {
    said: Option<(Report, Instant)>,
}

impl Reporter {
    /// Reports it, unless it was said a moment ago.
    pub(super) async fn say(&mut self, cluster: &Cluster, report: &Report) {
        let news = self.said.as_ref().is_none_or(|(said, _)| said != report);
        if news && let Report::Failed(error) = report {
            tracing::warn!(error, "the webhook's certificate cannot be kept, will try again");
        }
        let is_due = |(_, when): &(Report, Instant)| when.elapsed() >= REPEAT;
        if !news && !self.said.as_ref().is_some_and(is_due) {
            return;
        }
        self.said = Some((report.clone(), Instant::now()));
        if let Err(error) = write(cluster, report).await {
            tracing::warn!(%error, "cannot write the configuration's status");
        }
    }
}

async fn write(cluster: &Cluster, report: &Report) -> Result<(), CallError> {
    let (holds, reason, message) = match report {
        Report::Resting { until: Some(until) } => (
            true,
            Reason::Issued,
            format!("the webhook's certificate is valid until {until}"),
        ),
        Report::Resting { until: None } => (
            false,
            Reason::Missing,
            "the webhook has no certificate".to_owned(),
        ),
        Report::Rotating(message) => (true, Reason::Rotating, message.clone()),
        Report::Failed(error) => (false, Reason::Failed, format!("{error}; it is tried again")),
    };
    let says = ConditionUpdate {
        holds,
        reason: reason.into(),
        message: &message,
    };
    status::edit(cluster, |_, status| {
        status::set_condition(status, ConfigCondition::CertificatesReady, says, Timestamp::now());
    })
    .await
}

/// Certificates are somebody else's now: what an earlier leader said of them is taken back.
pub async fn forget(cluster: &Cluster) {
    let forgotten = status::edit(cluster, |_, status| {
        let ours = <&str>::from(ConfigCondition::CertificatesReady);
        status.conditions.retain(|said| said.type_ != ours);
    });
    if let Err(error) = forgotten.await {
        tracing::warn!(%error, "cannot write the configuration's status");
    }
}
