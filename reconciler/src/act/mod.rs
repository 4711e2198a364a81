//! Performs writes, and nothing else: what to write was decided by [`crate::plan`].

mod create;
mod csr;
mod node;
mod pod;

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch};
use kube::core::{Request, Resource, ResourceExt};
use maroonedpods_common::api::{MaroonedNode, MaroonedNodeStatus};
use maroonedpods_common::names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) use create::post_vmi;

use crate::answer::Answer;
use crate::api::{CallError, Cluster, call};
use crate::objects::record;
use crate::own_writes::OwnWrites;
use crate::params;
use crate::plan::Write;

/// Performs one write. What it wrote is noted in `seen`, so that an older cache is not believed.
///
/// # Errors
/// The API server's refusal, a precondition that does not hold any more included.
pub async fn perform(cluster: &Cluster, write: &Write, own_writes: &mut OwnWrites) -> Result<(), CallError> {
    match write {
        Write::CreateRecord { record, at_most } => {
            create::record(cluster, record, *at_most, own_writes).await
        }
        Write::IssueCredentials {
            record,
            attempt,
            lifetime_seconds,
        } => create::credentials(cluster, record, *attempt, *lifetime_seconds).await,
        Write::CreateNode(new) => create::node(cluster, new, own_writes).await,
        Write::TryVmi { record, attempt } => create::try_vmi(cluster, record, *attempt).await,
        Write::CreateVmi { record, attempt } => create::vmi(cluster, record, *attempt, own_writes).await,
        Write::RecordStatus {
            name,
            resource_version,
            status,
        } => record_status(cluster, name, resource_version, status, own_writes).await,
        Write::PodReport(report) => pod::report(cluster, report, own_writes).await,
        Write::DecideCsr {
            name,
            resource_version,
            deny,
        } => csr::decide(cluster, name, resource_version, *deny, own_writes).await,
        Write::PlaceNode {
            name,
            uid,
            address,
            labels,
        } => node::place(cluster, (name, uid), address.as_deref(), labels, own_writes).await,
        Write::RevokeCredentials {
            record_uid,
            token_secret,
            join_secret,
        } => revoke(cluster, record_uid, [token_secret, join_secret]).await,
        Write::RemoveStartupTaint { name, uid, index } => {
            node::open(cluster, (name, uid), *index, own_writes).await
        }
        Write::LiftGate {
            namespace,
            name,
            patch,
            ..
        } => pod::lift(cluster, (namespace, name), patch, own_writes).await,
        Write::BindPod { namespace, name, uid } => pod::bind(cluster, namespace, name, uid).await,
        Write::PodNotReady { namespace, name, uid } => {
            pod::not_ready(cluster, (namespace, name, uid), own_writes).await
        }
        Write::EvictPod { namespace, name, uid } => pod::evict(cluster, namespace, name, uid).await,
        Write::FailPod {
            namespace,
            name,
            uid,
            message,
        } => pod::fail(cluster, (namespace, name, uid), message, own_writes).await,
        Write::DeletePod { namespace, name, uid } => {
            let at_once = params::delete(uid).grace_period(0);
            delete_with(&cluster.pods(namespace), name, &at_once).await
        }
        Write::DeleteRecord { name, uid } => delete(&cluster.all::<MaroonedNode>(), name, uid).await,
        Write::DeleteVmi { name, uid } => delete(&cluster.vmis(), name, uid).await,
        Write::DeleteNode { name, uid } => delete(&cluster.nodes(), name, uid).await,
        Write::DeleteCsr { name, uid } => {
            delete(&cluster.all::<CertificateSigningRequest>(), name, uid).await
        }
        Write::StripNodeFinalizers { name, uid } => {
            node::strip_finalizers(cluster, name, uid, own_writes).await
        }
        Write::RemoveFinalizer { name, uid, index } => {
            remove_finalizer(cluster, name, uid, *index, own_writes).await
        }
    }
}

async fn record_status(
    cluster: &Cluster,
    name: &str,
    resource_version: &str,
    status: &MaroonedNodeStatus,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let patch = Patch::Merge(record::status_patch(resource_version, status));
    let records = cluster.all::<Answer<MaroonedNode>>();
    own_writes.note(&call(records.patch_status(name, &params::patch(), &patch)).await?);
    Ok(())
}

async fn revoke(cluster: &Cluster, record_uid: &str, [token, seed]: [&str; 2]) -> Result<(), CallError> {
    let tokens = cluster.within::<Secret>(names::TOKEN_NAMESPACE);
    let seeds = cluster.within::<Secret>(&cluster.vm_namespace);
    tokio::try_join!(
        delete_of_record(&tokens, token, record_uid),
        delete_of_record(&seeds, seed, record_uid),
    )?;
    Ok(())
}

/// The name alone proves nothing: a Secret of another owner is not ours to delete.
async fn delete_of_record(secrets: &Api<Secret>, name: &str, record_uid: &str) -> Result<(), CallError> {
    let found = match call(secrets.get_metadata(name)).await {
        Err(error) if error.is_gone() => return Ok(()),
        found => found?,
    };
    let is_ours = found
        .owner_references()
        .iter()
        .any(|owner| owner.uid == record_uid);
    match found.uid() {
        Some(uid) if is_ours => delete(secrets, name, &uid).await,
        _ => {
            tracing::warn!(name, "a Secret that is not this record's is left alone");
            Ok(())
        }
    }
}

async fn remove_finalizer(
    cluster: &Cluster,
    name: &str,
    uid: &str,
    index: usize,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let path = format!("/metadata/finalizers/{index}");
    let patch = [
        test_uid(uid),
        json!({"op": "test", "path": path, "value": names::FINALIZER}),
        json!({"op": "remove", "path": path}),
    ];
    gone_is_fine(
        patch_object(
            &cluster.all::<Answer<MaroonedNode>>(),
            name,
            &json_patch(&patch)?,
            own_writes,
        )
        .await,
    )
}

async fn patch_object<K, P>(
    api: &Api<K>,
    name: &str,
    patch: &Patch<P>,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    P: Serialize + Debug,
{
    own_writes.note(&call(api.patch(name, &params::patch(), patch)).await?);
    Ok(())
}

/// Deletes the object of this name and UID. Nothing to delete, or something else by that name, is what a deletion
/// wants to find.
pub(crate) async fn delete<K: Clone + Resource>(
    api: &Api<K>,
    name: &str,
    uid: &str,
) -> Result<(), CallError> {
    delete_with(api, name, &params::delete(uid)).await
}

/// Of the answer nothing is read.
async fn delete_with<K: Clone + Resource>(
    api: &Api<K>,
    name: &str,
    params: &DeleteParams,
) -> Result<(), CallError> {
    let request = Request::new(api.resource_url()).delete(name, params);
    let request = request.map_err(kube::Error::BuildRequest)?;
    match call(api.clone().into_client().request_text(request)).await {
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
