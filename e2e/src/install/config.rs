//! The one MaroonedPodsConfig of a running release.

use std::time::Duration;

use anyhow::Result;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use maroonedpods_common::api::MaroonedPodsConfig;
use maroonedpods_common::names;
use serde_json::{Value, json};

use crate::api::check::becomes;

const LIMIT: Duration = Duration::from_secs(30);

/// The configurations.
#[must_use]
pub fn configs(admin: &Client) -> Api<MaroonedPodsConfig> {
    Api::all(admin.clone())
}

/// Merges `spec` into the configuration, and returns the result.
///
/// # Errors
/// The API server's refusal.
pub async fn change(admin: &Client, spec: &Value) -> kube::Result<MaroonedPodsConfig> {
    let patch = Patch::Merge(json!({ "spec": spec }));
    configs(admin)
        .patch(names::CONFIG_NAME, &PatchParams::default(), &patch)
        .await
}

/// Waits until the reconciler has seen the result of [`change`].
///
/// # Errors
/// It did not, for half a minute.
pub async fn seen(admin: &Client, changed: &MaroonedPodsConfig) -> Result<()> {
    let has_seen = |config: &MaroonedPodsConfig| {
        let seen = config
            .status
            .as_ref()
            .and_then(|status| status.observed_generation);
        seen >= changed.metadata.generation
    };
    let what = "a configuration that the reconciler has seen";
    becomes(&configs(admin), names::CONFIG_NAME, what, LIMIT, has_seen)
        .await
        .map(drop)
}
