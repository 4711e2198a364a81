//! Steps 4 and 6: decisions on certificate signing requests.

use json_patch::Patch;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::json;

use super::{json_patch, now};
use crate::answer::Answer;
use crate::api::{CallError, Cluster, call};
use crate::csr::Refusal;
use crate::objects::patch;
use crate::own_writes::OwnWrites;
use crate::params;

pub(super) async fn decide(
    cluster: &Cluster,
    name: &str,
    resource_version: &str,
    deny: Option<Refusal>,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let (type_, reason, message) = match deny {
        None => (
            "Approved",
            "MaroonedNode",
            "it is the one request expected of this VM",
        ),
        Some(refusal) => ("Denied", refusal.into(), refusal.message()),
    };
    let condition = json!({"type": type_, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now()});
    let patch = Patch(vec![
        patch::test(&["metadata", "resourceVersion"], resource_version),
        patch::add(&["status", "conditions"], json!([condition])),
    ]);
    let csrs = cluster.all::<Answer<CertificateSigningRequest>>();
    let patched =
        call(csrs.patch_subresource("approval", name, &params::patch(), &json_patch(patch))).await?;
    own_writes.note(&patched);
    Ok(())
}
