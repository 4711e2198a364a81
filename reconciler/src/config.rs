//! Follows the `MaroonedPodsConfig` named `default`: a valid one comes into force; an invalid one is reported in its
//! status while the last valid one stays in force.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::ListParams;
use maroonedpods_common::api::{AcceptedReason, ConfigCondition, MaroonedPodsConfig};
use maroonedpods_common::names;
use thiserror::Error;
use tokio::sync::watch;

use crate::api::Cluster;
use crate::conditions::ConditionUpdate;
use crate::metrics::Metrics;
use crate::read::watch::{News, Watch};
use crate::read::{Cache, Keep, Kind, View, sieve};
use crate::settings::{Settings, SettingsError};
use crate::status;

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
    const KIND: Kind = Kind::MaroonedPodsConfigs;
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
    let (holds, reason, message) = match &parsed {
        Ok(_) => (
            true,
            AcceptedReason::Valid,
            "the configuration is in force".to_owned(),
        ),
        Err(error) => (
            false,
            AcceptedReason::Invalid,
            format!("{error}; the last valid configuration stays in force"),
        ),
    };
    if let Ok(parsed) = parsed {
        settings.send_replace(Some(Arc::new(parsed)));
    } else {
        tracing::warn!(message, "MaroonedPodsConfig not accepted");
    }
    let says = ConditionUpdate {
        holds,
        reason: reason.into(),
        message: &message,
    };
    let generation = config.metadata.generation;
    let written = status::edit(cluster, |stored, status| {
        // A newer generation has, or gets, a condition of its own.
        if stored.metadata.generation == generation {
            status.observed_generation = generation;
            status::set_condition(status, ConfigCondition::Accepted, says, Timestamp::now());
        }
    });
    if let Err(error) = written.await {
        tracing::warn!(%error, "cannot write the configuration's status");
    }
}
