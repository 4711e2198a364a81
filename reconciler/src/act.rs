//! Performs writes, and nothing else: what to write was decided by [`crate::plan`].

use std::fmt::Debug;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::api::{Api, DeleteParams, EvictParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{DynamicObject, Request, Resource, ResourceExt};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::{CallError, Cluster, call};
use crate::identity;
use crate::plan::{PodReport, Write};
use crate::seen::Seen;
use crate::{lift, record, seed, token, vmi};

/// ConfigMap that kube-controller-manager publishes in every namespace, and the key of the CA in it.
const ROOT_CA: (&str, &str) = ("kube-root-ca.crt", "ca.crt");
/// Reason on a pod whose VM is gone.
const VM_GONE: &str = "VirtualMachineGone";

/// Performs one write. What it wrote is noted in `seen`, so that an older cache is not believed.
///
/// # Errors
/// The API server's refusal, a precondition that does not hold any more included.
pub async fn perform(cluster: &Cluster, write: &Write, seen: &mut Seen) -> Result<(), CallError> {
    match write {
        Write::CreateRecord(new) => create_record(cluster, new, seen).await,
        Write::IssueCredentials {
            record,
            attempt,
            lifetime_seconds,
        } => issue_credentials(cluster, record, *attempt, *lifetime_seconds).await,
        Write::CreateNode(node) => create_node(cluster, node, seen).await,
        Write::CreateVmi { record, attempt } => create_vmi(cluster, record, *attempt, seen).await,
        Write::RecordStatus {
            name,
            resource_version,
            status,
        } => {
            let patch = Patch::Merge(record::status_patch(resource_version, status));
            let params = PatchParams::default();
            seen.note(&call(cluster.all::<MaroonedNode>().patch_status(name, &params, &patch)).await?);
            Ok(())
        }
        Write::PodReport(report) => {
            patch_pod_status(cluster, &report.namespace, &report.name, condition(report), seen).await
        }
        Write::DecideCsr {
            name,
            resource_version,
            deny,
        } => decide_csr(cluster, name, resource_version, deny.as_ref(), seen).await,
        Write::NodeAddress { name, uid, address } => {
            let addresses =
                json!([{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]);
            let patch = [
                test_uid(uid),
                json!({"op": "add", "path": "/status/addresses", "value": addresses}),
            ];
            let nodes = cluster.all::<Node>();
            seen.note(&call(nodes.patch_status(name, &PatchParams::default(), &json_patch(&patch)?)).await?);
            Ok(())
        }
        Write::RevokeCredentials {
            token_secret,
            join_secret,
        } => {
            for (namespace, name) in [
                (names::TOKEN_NAMESPACE, token_secret),
                (cluster.vm_namespace.as_str(), join_secret),
            ] {
                delete(
                    &cluster.within::<Secret>(namespace),
                    name,
                    DeleteParams::default(),
                )
                .await?;
            }
            Ok(())
        }
        Write::RemoveStartupTaint {
            name,
            uid,
            index,
            topology,
        } => {
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
            patch_object(&cluster.all::<Node>(), name, &json_patch(&patch)?, seen).await
        }
        Write::LiftGate {
            namespace,
            name,
            patch,
            ..
        } => {
            patch_object(
                &cluster.within::<Pod>(namespace),
                name,
                &Patch::Json::<()>(patch.clone()),
                seen,
            )
            .await
        }
        Write::PodNotReady { namespace, name, uid } => {
            let conditions = ["Ready", "ContainersReady"].map(|type_| {
                json!({"type": type_, "status": "False", "reason": VM_GONE, "lastTransitionTime": now()})
            });
            let body = json!({"metadata": {"uid": uid}, "status": {"conditions": conditions}});
            patch_pod_status(cluster, namespace, name, body, seen).await
        }
        Write::EvictPod { namespace, name, uid } => evict(cluster, namespace, name, uid).await,
        Write::FailPod {
            namespace,
            name,
            uid,
            message,
        } => {
            let disrupted = json!({"type": "DisruptionTarget", "status": "True", "reason": VM_GONE,
                "message": message, "lastTransitionTime": now()});
            let body = json!({"metadata": {"uid": uid}, "status": {
                "phase": "Failed", "reason": VM_GONE, "message": message, "conditions": [disrupted]}});
            patch_pod_status(cluster, namespace, name, body, seen).await
        }
        Write::DeletePod { namespace, name, uid } => {
            delete(&cluster.within::<Pod>(namespace), name, of(uid).grace_period(0)).await
        }
        Write::DeleteRecord { name, uid } => delete(&cluster.all::<MaroonedNode>(), name, of(uid)).await,
        Write::DeleteVmi { name, uid } => delete(&cluster.vmis(), name, of(uid)).await,
        Write::DeleteNode { name, uid } => delete(&cluster.all::<Node>(), name, of(uid)).await,
        Write::DeleteCsr { name, uid } => {
            delete(&cluster.all::<CertificateSigningRequest>(), name, of(uid)).await
        }
        Write::StripNodeFinalizers { name, uid } => {
            let patch = [
                test_uid(uid),
                json!({"op": "remove", "path": "/metadata/finalizers"}),
            ];
            gone_is_fine(patch_object(&cluster.all::<Node>(), name, &json_patch(&patch)?, seen).await)
        }
        Write::RemoveFinalizer { name, uid, index } => {
            let path = format!("/metadata/finalizers/{index}");
            let patch = [
                test_uid(uid),
                json!({"op": "test", "path": path, "value": names::FINALIZER}),
                json!({"op": "remove", "path": path}),
            ];
            gone_is_fine(patch_object(&cluster.all::<MaroonedNode>(), name, &json_patch(&patch)?, seen).await)
        }
    }
}

async fn create_record(cluster: &Cluster, new: &MaroonedNode, seen: &mut Seen) -> Result<(), CallError> {
    let records = cluster.all::<MaroonedNode>();
    match call(records.create(&PostParams::default(), new)).await {
        Err(error) if error.is_conflict() => {
            let found = call(records.get(&new.name_any())).await?;
            // The CRD holds name and podRef.uid together, so this cannot differ; a record that did would be no
            // ground to build on.
            if found.spec.pod_ref.uid != new.spec.pod_ref.uid {
                let message = format!("MaroonedNode {} belongs to another pod", new.name_any());
                return Err(CallError::Unexpected(message));
            }
            seen.note(&found);
            Ok(())
        }
        created => {
            seen.note(&created?);
            Ok(())
        }
    }
}

/// The token's Secret is created first and read back where it exists, so that seed and token agree whoever
/// created which.
async fn issue_credentials(
    cluster: &Cluster,
    record: &MaroonedNode,
    attempt: u32,
    lifetime_seconds: i64,
) -> Result<(), CallError> {
    let ca = server_ca(cluster, record).await?;
    let id = identity::token_id(record.metadata.uid.as_deref().unwrap_or_default(), attempt);
    let secret_half = random_token_secret()?;
    let expires = Timestamp::now() + SignedDuration::from_secs(lifetime_seconds);
    let new = token::secret(record, &id, &secret_half, expires);
    let tokens = cluster.within::<Secret>(names::TOKEN_NAMESPACE);
    let stored = match call(tokens.create(&PostParams::default(), &new)).await {
        Err(error) if error.is_conflict() => call(tokens.get(&new.name_any())).await?,
        created => created?,
    };
    let token = token::read(&stored, record).ok_or_else(|| {
        CallError::Unexpected(format!(
            "Secret {} is not this record's bootstrap token",
            new.name_any()
        ))
    })?;
    let seed = seed::secret(
        record,
        attempt,
        &cluster.vm_namespace,
        &seed::join_info(record, token, ca),
    )
    .map_err(|error| CallError::Unexpected(format!("cannot write join-info.yaml: {error}")))?;
    let seeds = cluster.within::<Secret>(&cluster.vm_namespace);
    match call(seeds.create(&PostParams::default(), &seed)).await {
        Err(error) if error.is_conflict() => Ok(()),
        created => created.map(drop),
    }
}

fn random_token_secret() -> Result<String, CallError> {
    let mut bytes = [0; identity::TOKEN_SECRET_LENGTH];
    getrandom::fill(&mut bytes)
        .map_err(|error| CallError::Unexpected(format!("no randomness from the system: {error}")))?;
    Ok(identity::token_text(&bytes))
}

async fn server_ca(cluster: &Cluster, record: &MaroonedNode) -> Result<String, CallError> {
    if let Some(bundle) = &record.spec.vm.join.ca_bundle {
        return Ok(bundle.clone());
    }
    let (name, key) = ROOT_CA;
    let published = call(cluster.within::<ConfigMap>(&cluster.vm_namespace).get(name)).await?;
    published
        .data
        .and_then(|mut data| data.remove(key))
        .ok_or_else(|| {
            let namespace = &cluster.vm_namespace;
            CallError::Unexpected(format!(
                "ConfigMap {namespace}/{name} has no {key}: set spec.join.caBundle"
            ))
        })
}

async fn create_node(cluster: &Cluster, node: &Node, seen: &mut Seen) -> Result<(), CallError> {
    let nodes = cluster.all::<Node>();
    match call(nodes.create(&PostParams::default(), node)).await {
        Err(error) if error.is_conflict() => {
            let found = call(nodes.get(&node.name_any())).await?;
            if owner_uid(&found) != owner_uid(node) {
                let message = format!("Node {} belongs to somebody else: delete it", node.name_any());
                return Err(CallError::Unexpected(message));
            }
            seen.note(&found);
            Ok(())
        }
        created => {
            seen.note(&created?);
            Ok(())
        }
    }
}

/// Strict, so that a field which this KubeVirt does not know is an error and not silently dropped.
async fn create_vmi(
    cluster: &Cluster,
    record: &MaroonedNode,
    attempt: u32,
    seen: &mut Seen,
) -> Result<(), CallError> {
    let new = vmi::new(record, attempt, &cluster.vm_namespace);
    let body = serde_json::to_vec(&new).map_err(kube::Error::SerdeError)?;
    let url = DynamicObject::url_path(&vmi::api_resource(), Some(&cluster.vm_namespace));
    let mut request = Request::new(url)
        .create(&PostParams::default(), body)
        .map_err(kube::Error::BuildRequest)?;
    let strict = format!("{}&fieldValidation=Strict", request.uri());
    *request.uri_mut() = strict
        .parse()
        .map_err(|_| CallError::Unexpected(format!("bad URL {strict}")))?;
    match call(cluster.client.request::<DynamicObject>(request)).await {
        Err(error) if error.is_conflict() => Ok(()),
        created => {
            seen.note_dynamic(&created?);
            Ok(())
        }
    }
}

fn condition(report: &PodReport) -> Value {
    let mut condition = json!({
        "type": names::NODE_READY_CONDITION,
        "status": if report.ready { "True" } else { "False" },
        "reason": report.reason,
        "message": report.message,
    });
    if report.transition {
        condition["lastTransitionTime"] = json!(now());
    }
    json!({"metadata": {"uid": report.uid}, "status": {"conditions": [condition]}})
}

/// A strategic merge patch: pod conditions merge by type, so everybody else's stay. A UID in the body that is not
/// the stored one is answered 409.
async fn patch_pod_status(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    body: Value,
    seen: &mut Seen,
) -> Result<(), CallError> {
    let pods = cluster.within::<Pod>(namespace);
    match call(pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(body))).await {
        Err(error) if error.is_gone() => Ok(()),
        patched => {
            seen.note(&patched?);
            Ok(())
        }
    }
}

async fn decide_csr(
    cluster: &Cluster,
    name: &str,
    resource_version: &str,
    deny: Option<&(&'static str, String)>,
    seen: &mut Seen,
) -> Result<(), CallError> {
    let (type_, reason, message) = match deny {
        None => (
            "Approved",
            "MaroonedNode",
            "it is the one request expected of this VM",
        ),
        Some((reason, message)) => ("Denied", *reason, message.as_str()),
    };
    let condition = json!({"type": type_, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now()});
    let patch = [
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": resource_version}),
        json!({"op": "add", "path": "/status/conditions", "value": [condition]}),
    ];
    let csrs = cluster.all::<CertificateSigningRequest>();
    let patched =
        call(csrs.patch_subresource("approval", name, &PatchParams::default(), &json_patch(&patch)?)).await?;
    seen.note(&patched);
    Ok(())
}

/// 429 is a disruption budget that holds: asked again at the next pass.
async fn evict(cluster: &Cluster, namespace: &str, name: &str, uid: &str) -> Result<(), CallError> {
    let params = EvictParams {
        delete_options: Some(of(uid)),
        ..EvictParams::default()
    };
    match call(cluster.within::<Pod>(namespace).evict(name, &params)).await {
        Err(error) if error.is_gone() || error.is_too_many_requests() => Ok(()),
        evicted => evicted.map(drop),
    }
}

async fn patch_object<K, P>(
    api: &Api<K>,
    name: &str,
    patch: &Patch<P>,
    seen: &mut Seen,
) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    P: Serialize + Debug,
{
    seen.note(&call(api.patch(name, &PatchParams::default(), patch)).await?);
    Ok(())
}

/// Nothing to delete, or something else by that name, is what a deletion wants to find.
pub(crate) async fn delete<K>(api: &Api<K>, name: &str, params: DeleteParams) -> Result<(), CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
    match call(api.delete(name, &params)).await {
        Err(error) if error.is_gone() || error.is_conflict() => Ok(()),
        deleted => deleted.map(drop),
    }
}

fn gone_is_fine(result: Result<(), CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if error.is_gone() => Ok(()),
        other => other,
    }
}

pub(crate) fn of(uid: &str) -> DeleteParams {
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        ..Preconditions::default()
    };
    DeleteParams::background().preconditions(preconditions)
}

fn owner_uid(node: &Node) -> Option<&str> {
    node.metadata
        .owner_references
        .iter()
        .flatten()
        .next()
        .map(|owner| owner.uid.as_str())
}

fn test_uid(uid: &str) -> Value {
    json!({"op": "test", "path": "/metadata/uid", "value": uid})
}

fn json_patch(operations: &[Value]) -> Result<Patch<()>, CallError> {
    let patch = serde_json::from_value(Value::Array(operations.to_vec())).map_err(kube::Error::SerdeError)?;
    Ok(Patch::Json(patch))
}

/// The time of a write, in the API's whole seconds.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
