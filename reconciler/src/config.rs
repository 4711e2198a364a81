//! Follows the `MaroonedPodsConfig` named `default`: what is valid comes into force, what is not is reported on it
//! while the last good one stays.

use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use maroonedpods_common::api::MaroonedPodsConfig;
use maroonedpods_common::names;
use serde_json::json;
use thiserror::Error;
use tokio::sync::watch;

use crate::api::{Cluster, call};
use crate::settings::{Settings, SettingsError};

/// The config accepted condition.
const ACCEPTED: &str = "Accepted";

/// A configuration file that cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read --config {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// It is not a `MaroonedPodsConfig`.
    #[error("--config {path} is not a MaroonedPodsConfig: {error}")]
    Parse {
        /// The file.
        path: String,
        /// Why.
        error: serde_yaml_ng::Error,
    },
    /// A field in it does not hold what it must.
    #[error("--config {path}: {error}")]
    Settings {
        /// The file.
        path: String,
        /// Which, and why.
        error: SettingsError,
    },
}

/// Reads a configuration from a file.
///
/// # Errors
/// With the file's name in it: it cannot be read, is not a `MaroonedPodsConfig`, or holds a bad field.
pub fn from_file(file: &Path) -> Result<Settings, FileError> {
    let path = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| FileError::Read {
        path: path.clone(),
        error,
    })?;
    let config: MaroonedPodsConfig = serde_yaml_ng::from_str(&text).map_err(|error| FileError::Parse {
        path: path.clone(),
        error,
    })?;
    Settings::parse(config.spec).map_err(|error| FileError::Settings { path, error })
}

/// Follows the configuration for ever. `changed` is called after each change of what is in force.
pub async fn follow(cluster: &Cluster, settings: &watch::Sender<Option<Arc<Settings>>>, changed: impl Fn()) {
    let selector = watcher::Config::default().fields(&format!("metadata.name={}", names::CONFIG_NAME));
    let mut events = watch_objects(cluster.all::<MaroonedPodsConfig>(), selector)
        .default_backoff()
        .boxed();
    loop {
        match events.try_next().await {
            Ok(Some(Event::Apply(config) | Event::InitApply(config))) => {
                take(cluster, settings, &config).await;
                changed();
            }
            // A deleted configuration stays in force: pods that run by it must be cleaned up by it.
            Ok(Some(Event::Delete(_))) => {
                tracing::warn!("MaroonedPodsConfig deleted; the last one stays in force");
            }
            Ok(Some(Event::Init | Event::InitDone)) => {}
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "cannot watch MaroonedPodsConfigs, will try again"),
        }
    }
}

async fn take(
    cluster: &Cluster,
    settings: &watch::Sender<Option<Arc<Settings>>>,
    config: &MaroonedPodsConfig,
) {
    let parsed = Settings::parse(config.spec.clone());
    let verdict = match &parsed {
        Ok(_) => (true, "Valid", "the configuration is in force".to_owned()),
        Err(error) => (
            false,
            "Invalid",
            format!("{error}; the last valid configuration stays in force"),
        ),
    };
    if let Ok(parsed) = parsed {
        settings.send_replace(Some(Arc::new(parsed)));
    } else {
        tracing::warn!(message = verdict.2, "MaroonedPodsConfig not accepted");
    }
    report(cluster, config, verdict).await;
}

/// Writes the verdict to the configuration's status, where it does not stand there already.
async fn report(
    cluster: &Cluster,
    config: &MaroonedPodsConfig,
    (holds, reason, message): (bool, &str, String),
) {
    let status = config.status.clone().unwrap_or_default();
    let value = if holds { "True" } else { "False" };
    let said = status.conditions.iter().find(|c| c.type_ == ACCEPTED);
    let same = said.is_some_and(|c| c.status == value && c.message == message);
    if same && status.observed_generation == config.metadata.generation {
        return;
    }
    let since = said
        .filter(|c| c.status == value)
        .map_or(Time(Timestamp::now()), |c| c.last_transition_time.clone());
    let mut conditions: Vec<_> = status
        .conditions
        .iter()
        .filter(|c| c.type_ != ACCEPTED)
        .cloned()
        .collect();
    conditions.push(Condition {
        type_: ACCEPTED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since,
        observed_generation: config.metadata.generation,
    });
    let patch = Patch::Merge(
        json!({"status": {"observedGeneration": config.metadata.generation, "conditions": conditions}}),
    );
    let params = PatchParams::default();
    let configs = cluster.all::<MaroonedPodsConfig>();
    if let Err(error) = call(configs.patch_status(names::CONFIG_NAME, &params, &patch)).await {
        tracing::warn!(%error, "cannot write the configuration's status");
    }
}
