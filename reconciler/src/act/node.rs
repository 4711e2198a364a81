//! Writes to the Node after its creation.

use std::collections::BTreeMap;

use json_patch::Patch;
use maroonedpods_common::names;
use serde_json::json;

use super::{gone_is_fine, json_patch, patch_object};
use crate::api::{CallError, Cluster, call};
use crate::objects::{node, patch};
use crate::own_writes::OwnWrites;
use crate::params;
use crate::view::ObjectRef;

/// One patch of the status: the API server takes labels with it, as kubelets send theirs. A Node that is gone needs no
/// correction.
pub(super) async fn place(
    cluster: &Cluster,
    node: &ObjectRef,
    address: Option<&str>,
    labels: &BTreeMap<String, Option<String>>,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let mut operations = vec![patch::test_uid(&node.uid)];
    if let Some(address) = address {
        let addresses = json!(node::addresses(&node.name, address));
        operations.push(patch::add(&["status", "addresses"], addresses));
    }
    for (label, value) in labels {
        let path = ["metadata", "labels", label];
        operations.push(match value {
            Some(value) => patch::add(&path, value.as_str()),
            None => patch::remove(&path),
        });
    }
    let patch = json_patch(Patch(operations));
    match call(cluster.nodes().patch_status(&node.name, &params::patch(), &patch)).await {
        Err(error) if error.is_gone() => Ok(()),
        patched => {
            own_writes.note(&patched?);
            Ok(())
        }
    }
}

pub(super) async fn remove_startup_taint(
    cluster: &Cluster,
    node: &ObjectRef,
    index: usize,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let index = index.to_string();
    let patch = Patch(vec![
        patch::test_uid(&node.uid),
        patch::test(&["spec", "taints", &index, "key"], names::STARTUP_TAINT),
        patch::remove(&["spec", "taints", &index]),
    ]);
    patch_object(&cluster.nodes(), &node.name, patch, own_writes).await
}

pub(super) async fn strip_finalizers(
    cluster: &Cluster,
    node: &ObjectRef,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let patch = Patch(vec![
        patch::test_uid(&node.uid),
        patch::remove(&["metadata", "finalizers"]),
    ]);
    gone_is_fine(patch_object(&cluster.nodes(), &node.name, patch, own_writes).await)
}
