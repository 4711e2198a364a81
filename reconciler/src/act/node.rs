//! Writes to the Node after its creation.

use std::collections::BTreeMap;

use maroonedpods_common::names;
use serde_json::json;

use super::{gone_is_fine, json_patch, patch_object, test_uid};
use crate::api::{CallError, Cluster, call};
use crate::lift;
use crate::params;
use crate::seen::Seen;

pub(super) async fn address(
    cluster: &Cluster,
    name: &str,
    uid: &str,
    address: &str,
    seen: &mut Seen,
) -> Result<(), CallError> {
    let addresses =
        json!([{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]);
    let patch = [
        test_uid(uid),
        json!({"op": "add", "path": "/status/addresses", "value": addresses}),
    ];
    let nodes = cluster.nodes();
    seen.note(&call(nodes.patch_status(name, &params::patch(), &json_patch(&patch)?)).await?);
    Ok(())
}

/// The startup taint goes and the host's topology comes, in one patch.
pub(super) async fn open(
    cluster: &Cluster,
    (name, uid): (&str, &str),
    index: usize,
    topology: &BTreeMap<String, String>,
    seen: &mut Seen,
) -> Result<(), CallError> {
    let path = format!("/spec/taints/{index}");
    let mut patch = vec![
        test_uid(uid),
        json!({"op": "test", "path": format!("{path}/key"), "value": names::STARTUP_TAINT}),
        json!({"op": "remove", "path": path}),
    ];
    for (label, value) in topology {
        let path = format!("/metadata/labels/{}", lift::escape(label));
        patch.push(json!({"op": "add", "path": path, "value": value}));
    }
    patch_object(&cluster.nodes(), name, &json_patch(&patch)?, seen).await
}

pub(super) async fn strip_finalizers(
    cluster: &Cluster,
    name: &str,
    uid: &str,
    seen: &mut Seen,
) -> Result<(), CallError> {
    let patch = [
        test_uid(uid),
        json!({"op": "remove", "path": "/metadata/finalizers"}),
    ];
    gone_is_fine(patch_object(&cluster.nodes(), name, &json_patch(&patch)?, seen).await)
}
