//! What virt-operator and virt-handler make of a cluster's nodes.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::super::launcher::SCHEDULABLE;
use super::pod::DEVICES_CLASS;
use crate::api::apply::apply_yaml;
use crate::cluster::{DEVICES_HANDLER, REAL_LABEL};

/// Lets the real nodes that there are run launchers: `admin` makes what virt-operator and device plugins do, and `handler`
/// labels the nodes as virt-handler does.
pub(in super::super) async fn serve_nodes(admin: &Client, handler: &Client) -> Result<()> {
    let class = json!({
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": DEVICES_CLASS},
        "handler": DEVICES_HANDLER,
    });
    apply_yaml(admin, &class.to_string())
        .await
        .context("making a RuntimeClass")?;
    let nodes: Api<Node> = Api::all(handler.clone());
    let served = Patch::Merge(json!({"metadata": {"labels": {SCHEDULABLE: "true"}}}));
    let real = ListParams::default().labels(&format!("{REAL_LABEL}=true"));
    for node in nodes.list(&real).await? {
        nodes
            .patch(&node.name_any(), &PatchParams::default(), &served)
            .await
            .with_context(|| format!("labelling {}", node.name_any()))?;
    }
    Ok(())
}
