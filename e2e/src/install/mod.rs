//! Installs the chart the way a cluster's owner does, with helm's own rendering.

pub mod config;
pub mod dns;
pub mod policies;
pub mod rights;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use kube::ResourceExt;
use kube::api::DynamicObject;
use maroonedpods_common::api::MaroonedPodsConfigSpec;
use serde_json::{Value, json};
use tokio::process::Command;

use self::policies::policies_in_force;
use crate::api::apply::{apply, parse};
use crate::control_plane::ControlPlane;
use crate::system::tools::{self, Tool};

/// Namespace of the release: where our programs' service accounts are.
pub const SYSTEM_NAMESPACE: &str = "maroonedpods-system";
/// Service account of the reconciler.
pub const RECONCILER_ACCOUNT: &str = "maroonedpods-reconciler";
/// Service account of the webhook.
pub const WEBHOOK_ACCOUNT: &str = "maroonedpods-webhook";

/// Name of the release.
pub const RELEASE: &str = "maroonedpods";

/// The chart's values, as far as tests and the demo set them.
#[derive(Clone, Debug)]
pub struct InstallValues {
    /// Base URL of the webhook, such as `https://127.0.0.1:8443`.
    pub webhook_url: String,
    /// PEM certificates that the webhook is verified with.
    pub ca_bundle: String,
    /// The configuration; none is installed when absent.
    pub config: Option<MaroonedPodsConfigSpec>,
    /// Further values of the chart, which win over what the fields above set. `null` for none.
    pub more: Value,
}

impl InstallValues {
    /// The values of a chart whose programs run outside the cluster, as the harness runs them.
    fn to_json(&self) -> Result<Value> {
        let mut values = programs_outside(&self.webhook_url, &self.ca_bundle);
        if let Some(spec) = &self.config {
            values["config"] = serde_json::to_value(spec)?;
        }
        merge(&mut values, &self.more);
        Ok(values)
    }
}

/// The values of a chart whose programs run outside the cluster: the webhook at this URL, with certificates that
/// the caller brings.
#[must_use]
pub fn programs_outside(webhook_url: &str, ca_bundle: &str) -> Value {
    json!({
        "webhook": {"external": {"url": webhook_url, "caBundle": ca_bundle}},
        "reconciler": {"enabled": false},
    })
}

/// Merges `more` into `base`, object by object, as helm merges values files.
fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more.clone(),
    }
}

/// Renders the chart with helm, applies it without its hooks, and waits until its admission policies are in force. May
/// be repeated with other values.
pub async fn install(control_plane: &ControlPlane, values: &InstallValues) -> Result<()> {
    let client = control_plane.admin().await?;
    let release_namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE},
    });
    let mut objects = vec![serde_json::from_value(release_namespace)?];
    objects.extend(
        render(&values.to_json()?)
            .await?
            .into_iter()
            .filter(|object| !is_hook(object)),
    );
    apply(&client, objects).await?;
    policies_in_force(&client).await
}

/// Folder of the chart.
#[must_use]
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/maroonedpods")
}

/// The chart's objects, CRDs and hooks among them, as helm renders them without access to a cluster. The
/// error is helm's own message.
pub async fn render(values: &Value) -> Result<Vec<DynamicObject>> {
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(&file, values)?;
    let (chart, file) = (chart().display().to_string(), file.into_temp_path());
    let values = file.display().to_string();
    let arguments = ["template", RELEASE, &chart, "--include-crds", "--values", &values];
    parse(&helm(&arguments).await?)
}

/// Runs helm for the release's namespace and returns its standard output.
pub async fn helm(arguments: &[&str]) -> Result<String> {
    let helm = tokio::task::spawn_blocking(|| tools::find(Tool::Helm)).await??;
    let output = Command::new(helm)
        .args(arguments)
        .args(["--namespace", SYSTEM_NAMESPACE])
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "helm {}: {}",
        arguments.first().copied().unwrap_or_default(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether helm runs the object at an event, and does not count it to the release.
#[must_use]
pub fn is_hook(object: &DynamicObject) -> bool {
    object.annotations().contains_key("helm.sh/hook")
}
