//! Writes to the Node after its creation.

use std::collections::BTreeMap;

use maroonedpods_common::names;
use serde_json::json;

use super::{gone_is_fine, json_patch, patch_object, test_uid};
use crate::api::{CallError, Cluster, call};
use crate::objects::{lift, node};
use crate::own_writes::OwnWrites;
use crate::params;

/// One patch of the status: the API server takes labels with it, as kubelets send theirs. A Node that is gone says nothing
/// wrong.
pub(super) async fn place(
    cluster: &Cluster,
    (name, uid): (&str, &str),
    address: Option<&str>,
    labels: &BTreeMap<String, Option<String>>,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let mut patch = vec![test_uid(uid)];
    if let Some(address) = address {
        let addresses = node::addresses(name, address);
        patch.push(json!({"op": "add", "path": "/status/addresses", "value": addresses}));
    }
    for (label, value) in labels {
        let path = format!("/metadata/labels/{}", lift::escape(label));
        patch.push(match value {
            Some(value) => json!({"op": "add", "path": path, "value": value}),
            None => json!({"op": "remove", "path": path}),
        });
    }
    let nodes = cluster.nodes();
    match call(nodes.patch_status(name, &params::patch(), &json_patch(&patch)?)).await {
        Err(error) if error.is_gone() => Ok(()),
        patched => {
            own_writes.note(&patched?);
            Ok(())
        }
    }
}

pub(super) async fn open(
    cluster: &Cluster,
    (name, uid): (&str, &str),
    index: usize,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let path = format!("/spec/taints/{index}");
    let patch = [
        test_uid(uid),
        json!({"op": "test", "path": format!("{path}/key"), "value": names::STARTUP_TAINT}),
        json!({"op": "remove", "path": path}),
    ];
    patch_object(&cluster.nodes(), name, &json_patch(&patch)?, own_writes).await
}

pub(super) async fn strip_finalizers(
    cluster: &Cluster,
    name: &str,
    uid: &str,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let patch = [
        test_uid(uid),
        json!({"op": "remove", "path": "/metadata/finalizers"}),
    ];
    gone_is_fine(patch_object(&cluster.nodes(), name, &json_patch(&patch)?, own_writes).await)
}
