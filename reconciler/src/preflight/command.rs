//! `preflight`: the checks once, for people and for `helm test`.

use std::path::Path;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{Api, ListParams};
use maroonedpods_common::api::MaroonedPodsConfig;
use maroonedpods_common::names;
use thiserror::Error;

use super::daemon_sets::followers;
use super::{Finding, judge, observe};
use crate::api::{CallError, Cluster, call};
use crate::config;
use crate::settings::{Settings, SettingsError};

/// Why the checks could not be made.
#[derive(Debug, Error)]
pub enum Error {
    /// The API server could not be asked.
    #[error("the cluster could not be checked: {0}")]
    Call(#[from] CallError),
    /// The file of `--config` cannot be used.
    #[error(transparent)]
    File(#[from] config::FileError),
}

/// Checks once. What the reconciler looks at, and what only a person can mend: `DaemonSets` that would follow us.
///
/// # Errors
/// The API server could not be asked, or the file of `--config` cannot be used.
pub async fn preflight(cluster: &Cluster, file: Option<&Path>) -> Result<Report, Error> {
    let mut findings = Vec::new();
    let settings = match file {
        Some(file) => Some(config::from_file(file)?),
        None => match installed(cluster).await? {
            Ok(settings) => settings,
            Err(error) => {
                findings.push(invalid(&error));
                None
            }
        },
    };
    findings.extend(judge(&observe(cluster, settings.as_ref()).await?));
    findings.extend(daemon_sets(cluster).await?);
    Ok(Report { findings })
}

/// What was found. Shown as a line each, `fail` or `warn`, and `ok` where VMs may be started.
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing keeps VMs from being started.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.findings.iter().any(|finding| finding.blocks)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for finding in &self.findings {
            let word = if finding.blocks { "fail" } else { "warn" };
            writeln!(f, "{word}  {}: {}", finding.reason, finding.message)?;
        }
        if self.passed() {
            writeln!(f, "ok    nothing keeps VMs from being started")?;
        }
        Ok(())
    }
}

/// The cluster's own configuration, if CRD and object are there.
async fn installed(cluster: &Cluster) -> Result<Result<Option<Settings>, SettingsError>, CallError> {
    match call(cluster.all::<MaroonedPodsConfig>().get(names::CONFIG_NAME)).await {
        Ok(config) => Ok(Settings::parse(config.spec).map(Some)),
        Err(error) if error.is_gone() || error.is_unserved() || error.is_forbidden() => Ok(Ok(None)),
        Err(error) => Err(error),
    }
}

fn invalid(error: &SettingsError) -> Finding {
    Finding {
        reason: "Invalid",
        blocks: true,
        message: format!("the MaroonedPodsConfig named \"default\" cannot come into force: {error}"),
    }
}

async fn daemon_sets(cluster: &Cluster) -> Result<Vec<Finding>, CallError> {
    let sets = Api::<DaemonSet>::all(cluster.client.clone());
    let warns = |message| Finding {
        reason: "DaemonSet",
        blocks: false,
        message,
    };
    match call(sets.list(&ListParams::default())).await {
        Ok(sets) => Ok(followers(&sets.items)
            .into_iter()
            .map(|follower| {
                warns(format!(
                    "{} tolerates every taint, so each VM's node gives it one pod that stays Pending: keep it off with\n      {}",
                    follower.name, follower.remedy
                ))
            })
            .collect()),
        Err(error) if error.is_forbidden() => Ok(vec![warns(format!("DaemonSets cannot be listed: {error}"))]),
        Err(error) => Err(error),
    }
}
