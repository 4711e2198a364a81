//! Writes to the user's pod: what it is told, and how it ends.

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions, Status};
use kube::api::Patch;
use maroonedpods_common::names;
use serde_json::{Value, json};

use super::{json_patch, now};
use crate::api::{CallError, Cluster, call};
use crate::objects::disown::{self, Owners};
use crate::objects::lift::{self, Lift};
use crate::own_writes::OwnWrites;
use crate::params;
use crate::plan::PodReport;
use crate::read;
use crate::view::{ObjectRef, VM_GONE};

/// Others may write to a pod that was just lifted.
const DISOWN_ATTEMPTS: u32 = 3;

pub(super) async fn report(
    cluster: &Cluster,
    report: &PodReport,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let mut condition = json!({
        "type": names::NODE_READY_CONDITION,
        "status": if report.ready { "True" } else { "False" },
        "reason": report.reason.to_string(),
        "message": report.message,
    });
    if report.transition {
        condition["lastTransitionTime"] = json!(now());
    }
    let body = json!({"metadata": {"uid": report.pod.uid}, "status": {"conditions": [condition]}});
    patch_status(cluster, &report.pod, body, own_writes).await
}

pub(super) async fn lift(
    cluster: &Cluster,
    lift: &Lift,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let (namespace, name) = (&lift.pod.namespace, &lift.pod.name);
    let pods = cluster.pods(namespace);
    let patch = json_patch(lift::patch(lift));
    let (written, mut owners) = read::patch::<Owners, _>(&pods, name, &params::patch(), &patch).await?;
    own_writes.note(&written);
    // The pod is lifted, whatever becomes of this: without it, a server-side apply must force conflicts.
    for _ in 0..DISOWN_ATTEMPTS {
        let Some(patch) = owners.as_ref().and_then(disown::patch) else {
            break;
        };
        let patch = json_patch(patch);
        match call(pods.patch(name, &params::patch(), &patch)).await {
            Ok(disowned) => {
                own_writes.note(&disowned);
                break;
            }
            // Another writer came between.
            Err(error) if error.is_invalid() || error.is_conflict() => {
                let now = read::find::<Owners, _>(&pods, name).await;
                owners = now.ok().flatten().map(|(_, owners)| owners);
            }
            Err(error) => {
                tracing::info!(namespace, name, %error, "cannot give up ownership of the pod's nodeSelector and tolerations; the next server-side apply may conflict");
                break;
            }
        }
    }
    Ok(())
}

/// Endpoints follow these conditions.
pub(super) async fn not_ready(
    cluster: &Cluster,
    pod: &ObjectRef,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let conditions = ["Ready", "ContainersReady"].map(
        |type_| json!({"type": type_, "status": "False", "reason": VM_GONE, "lastTransitionTime": now()}),
    );
    let body = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": conditions}});
    patch_status(cluster, pod, body, own_writes).await
}

pub(super) async fn fail(
    cluster: &Cluster,
    pod: &ObjectRef,
    reason: &str,
    message: &str,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let disrupted = json!({"type": "DisruptionTarget", "status": "True", "reason": reason,
        "message": message, "lastTransitionTime": now()});
    let body = json!({"metadata": {"uid": pod.uid}, "status": {
        "phase": "Failed", "reason": reason, "message": message, "conditions": [disrupted]}});
    patch_status(cluster, pod, body, own_writes).await
}

/// The UID is a precondition. A pod that is bound already, or gated, is a conflict.
pub(super) async fn bind(cluster: &Cluster, pod: &ObjectRef) -> Result<(), CallError> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(names::node_name(&pod.uid.as_str().into())),
            ..ObjectReference::default()
        },
    };
    let pods = cluster.within::<Pod>(&pod.namespace);
    match call(pods.create_subresource::<_, Value>("binding", &pod.name, &params::create(), &binding)).await {
        Err(error) if error.is_gone() => Ok(()),
        bound => bound.map(drop),
    }
}

/// 429 is a disruption budget that holds: asked again at the next pass.
///
/// Not by kube's own `evict`, which sends `delete_options`: no API server knows that field, and the condition is lost.
pub(super) async fn evict(cluster: &Cluster, pod: &ObjectRef) -> Result<(), CallError> {
    let this_one = Preconditions {
        uid: Some(pod.uid.clone()),
        ..Preconditions::default()
    };
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(this_one),
            ..DeleteOptions::default()
        }),
    };
    let pods = cluster.within::<Pod>(&pod.namespace);
    let params = params::create();
    let asked = pods.create_subresource::<_, Status>("eviction", &pod.name, &params, &eviction);
    match call(asked).await {
        Err(error) if error.is_gone() || error.is_too_many_requests() => Ok(()),
        evicted => evicted.map(drop),
    }
}

/// A strategic merge patch: pod conditions merge by type, so everybody else's stay. A UID in the body that is not
/// the stored one is answered 409.
async fn patch_status(
    cluster: &Cluster,
    pod: &ObjectRef,
    body: Value,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let pods = cluster.pods(&pod.namespace);
    match call(pods.patch_status(&pod.name, &params::patch(), &Patch::Strategic(body))).await {
        Err(error) if error.is_gone() => Ok(()),
        patched => {
            own_writes.note(&patched?);
            Ok(())
        }
    }
}
