//! `preflight`: runs the checks once, for people and for `helm test`.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{Api, ListParams};
use maroonedpods_common::api::{AcceptedReason, Architecture, MaroonedPodsConfig};
use maroonedpods_common::names;
use thiserror::Error;

use super::daemon_sets::{Follower, followers};
use super::decide::checks;
use super::{Finding, observe};
use crate::api::{CallError, Cluster, find};
use crate::config;
use crate::read;
use crate::settings::{Settings, SettingsError};

/// Why the checks could not be made.
#[derive(Debug, Error)]
pub enum Error {
    /// The API server could not be queried.
    #[error("the cluster could not be checked: {0}")]
    Call(#[from] CallError),
    /// The file of `--config` cannot be used.
    #[error(transparent)]
    File(#[from] config::FileError),
}

/// Runs all checks once: those that the reconciler repeats, and one for what only a person can fix: `DaemonSets` that
/// would put pods on marooned nodes.
///
/// # Errors
/// The API server could not be queried, or the file of `--config` cannot be used.
pub async fn preflight(cluster: &Cluster, file: Option<&Path>) -> Result<Report, Error> {
    let mut lines: Vec<Line> = Vec::new();
    let settings = match file {
        Some(file) => Some(config::from_file(file)?),
        None => match installed(cluster).await? {
            Ok(settings) => settings,
            Err(error) => {
                lines.push(invalid(&error));
                None
            }
        },
    };
    let observed = observe(cluster, settings.as_ref()).await?;
    lines.extend(checks(&observed).into_iter().map(Line::from));
    let promised = settings.map(|settings| settings.spec.placement.node_labels);
    lines.extend(daemon_sets(cluster, observed.architecture(), &promised.unwrap_or_default()).await?);
    Ok(Report { lines })
}

/// A line for each check: `ok`, `warn`, or `fail` for a finding that prevents the start of VMs.
pub struct Report {
    lines: Vec<Line>,
}

/// One thing that was looked at.
enum Line {
    Good(String),
    Bad {
        reason: &'static str,
        blocks: bool,
        message: String,
    },
}

impl From<Result<String, Finding>> for Line {
    fn from(checked: Result<String, Finding>) -> Self {
        match checked {
            Ok(well) => Self::Good(well),
            Err(finding) => Self::Bad {
                reason: finding.reason.into(),
                blocks: finding.blocks,
                message: finding.message,
            },
        }
    }
}

impl Report {
    /// Whether nothing prevents the start of VMs.
    #[must_use]
    pub fn passed(&self) -> bool {
        let mut lines = self.lines.iter();
        !lines.any(|line| matches!(line, Line::Bad { blocks: true, .. }))
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.lines {
            match line {
                Line::Good(good) => writeln!(f, "ok    {good}")?,
                Line::Bad {
                    reason,
                    blocks,
                    message,
                } => {
                    let word = if *blocks { "fail" } else { "warn" };
                    writeln!(f, "{word}  {reason}: {message}")?;
                }
            }
        }
        Ok(())
    }
}

/// The cluster's own configuration, if the CRD and the object exist.
async fn installed(cluster: &Cluster) -> Result<Result<Option<Settings>, SettingsError>, CallError> {
    match find(&cluster.all::<MaroonedPodsConfig>(), names::CONFIG_NAME).await {
        Ok(config) => Ok(config.map(|config| Settings::parse(config.spec)).transpose()),
        Err(error) if error.is_unserved() || error.is_forbidden() => Ok(Ok(None)),
        Err(error) => Err(error),
    }
}

fn invalid(error: &SettingsError) -> Line {
    Line::Bad {
        reason: AcceptedReason::Invalid.into(),
        blocks: true,
        message: format!("the MaroonedPodsConfig named \"default\" cannot come into force: {error}"),
    }
}

async fn daemon_sets(
    cluster: &Cluster,
    architecture: Architecture,
    promised: &BTreeMap<String, String>,
) -> Result<Vec<Line>, CallError> {
    let sets = Api::<DaemonSet>::all(cluster.client.clone());
    let warns = |message| Line::Bad {
        reason: "DaemonSet",
        blocks: false,
        message,
    };
    let (followers, unreadable) = match read::list::<DaemonSet, _>(&sets, &ListParams::default()).await {
        Ok(listed) => {
            let sets: Vec<_> = listed.items.into_iter().map(|(_, set)| set).collect();
            (followers(&sets, architecture, promised), listed.unreadable)
        }
        Err(error) if error.is_forbidden() => {
            return Ok(vec![warns(format!("DaemonSets cannot be checked: {error}"))]);
        }
        Err(error) => return Err(error),
    };
    if followers.is_empty() && unreadable.is_empty() {
        return Ok(vec![Line::Good(
            "no DaemonSet puts pods on the nodes of VMs".to_owned(),
        )]);
    }
    let line = |Follower { name, remedy }| {
        warns(format!(
            "{name} tolerates every taint, so it puts a pod on each VM's node that stays Pending, whatever its \
             priority (no marooned pod is preempted): keep it off with\n      {remedy}"
        ))
    };
    let unread = unreadable
        .iter()
        .map(|unreadable| warns(format!("a DaemonSet: {unreadable}")));
    Ok(followers.into_iter().map(line).chain(unread).collect())
}
