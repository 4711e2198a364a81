//! Follows the `MaroonedPodsConfig` named `default`: a valid one comes into force; an invalid one is reported in its
//! status while the last valid one stays in force.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::{ListParams, Patch};
use maroonedpods_common::api::{MaroonedPodsConfig, MaroonedPodsConfigStatus};
use maroonedpods_common::names;
use serde_json::json;
use thiserror::Error;
use tokio::sync::watch;

use crate::answer::Answer;
use crate::api::{CallError, Cluster, call, find};
use crate::conditions::{self, ConditionUpdate};
use crate::metrics::Metrics;
use crate::params;
use crate::read::watch::{News, Watch};
use crate::read::{Cache, Keep, View, sieve};
use crate::settings::{Settings, SettingsError};

/// Condition: the configuration is in force.
const ACCEPTED: &str = "Accepted";
const STATUS_TRIES: u32 = 5;

/// A configuration file that cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read --config {path}: {error}")]
    Read {
        /// Path of the file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not a `MaroonedPodsConfig`.
    #[error("--config {path} is not a MaroonedPodsConfig: {error}")]
    Parse {
        /// Path of the file.
        path: String,
        /// Why.
        error: serde_yaml_ng::Error,
    },
    /// A field has an invalid value.
    #[error("--config {path}: {error}")]
    Settings {
        /// Path of the file.
        path: String,
        /// The field, and what is wrong with it.
        error: SettingsError,
    },
}

/// Reads a configuration from a file.
///
/// # Errors
/// The file cannot be read, is not a `MaroonedPodsConfig`, or has an invalid field. The message names the file.
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

impl View for MaroonedPodsConfig {
    const KIND: &'static str = "maroonedpodsconfigs";
    const KEEP: Keep = sieve::WHOLE;
    type Object = Self;

    fn read(config: Self) -> Option<Self> {
        Some(config)
    }
}

/// Follows the configuration for ever. Calls `changed` after each change of the configuration in force.
pub async fn follow(
    cluster: &Cluster,
    settings: &watch::Sender<Option<Arc<Settings>>>,
    metrics: Arc<Metrics>,
    changed: impl Fn(),
) {
    let (seen, mut news) = tokio::sync::mpsc::unbounded_channel();
    let watch = Watch {
        api: cluster.all::<MaroonedPodsConfig>(),
        scope: ListParams::default().fields(&format!("metadata.name={}", names::CONFIG_NAME)),
        cache: Cache::default(),
        metrics,
    };
    let watching = watch.run(move |event: News<'_, MaroonedPodsConfig>| match event {
        News::Found(config) | News::Changed(config) => {
            // The receiver lives below, for as long as this runs.
            let _: Result<(), _> = seen.send(config.clone());
        }
        // A deleted configuration stays in force: the pods that were started by it must be cleaned up by it.
        News::Gone(_) => tracing::warn!("MaroonedPodsConfig deleted; the last one stays in force"),
        News::Listed => {}
    });
    let taking = async {
        while let Some(config) = news.recv().await {
            take(cluster, settings, &config).await;
            changed();
        }
    };
    tokio::join!(watching, taking);
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
    let generation = config.metadata.generation;
    let written = edit_status(cluster, |stored, status| {
        // A newer generation has a verdict of its own, or gets one.
        if stored.metadata.generation == generation {
            status.observed_generation = generation;
            let (holds, reason, message) = (verdict.0, verdict.1, verdict.2.as_str());
            let update = ConditionUpdate {
                holds,
                reason,
                message,
            };
            conditions::set(
                &mut status.conditions,
                ACCEPTED,
                update,
                generation,
                Timestamp::now(),
            );
        }
    });
    if let Err(error) = written.await {
        tracing::warn!(%error, "cannot write the configuration's status");
    }
}

/// Changes the configuration's status, if there is a configuration and `edit` changes anything. When two writers
/// meet, neither change is lost: the later one reads again.
///
/// # Errors
/// The API server's error, except a conflict that the next try does not meet again.
pub async fn edit_status(
    cluster: &Cluster,
    edit: impl Fn(&MaroonedPodsConfig, &mut MaroonedPodsConfigStatus),
) -> Result<(), CallError> {
    let configs = cluster.all::<MaroonedPodsConfig>();
    let mut tries = 0;
    loop {
        let Some(config) = find(&configs, names::CONFIG_NAME).await? else {
            return Ok(());
        };
        let was = config.status.clone().unwrap_or_default();
        let mut status = was.clone();
        edit(&config, &mut status);
        if status == was {
            return Ok(());
        }
        let version = config.metadata.resource_version;
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
        tries += 1;
        let answers = cluster.all::<Answer<MaroonedPodsConfig>>();
        match call(answers.patch_status(names::CONFIG_NAME, &params::patch(), &patch)).await {
            Err(error) if error.is_conflict() && tries < STATUS_TRIES => {}
            patched => return patched.map(drop),
        }
    }
}
