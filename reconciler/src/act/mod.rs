//! Performs writes: what to write was decided by [`crate::plan`]. Only preconditions that the API server has no way to
//! check are checked here, and a lift is followed by giving up field ownership ([`crate::objects::disown`]).

mod create;
mod csr;
mod node;
mod pod;

use std::fmt::Debug;

use jiff::Timestamp;
use json_patch::Patch;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams};
use kube::core::{Request, Resource, ResourceExt};
use maroonedpods_common::api::{MaroonedNode, MaroonedNodeStatus};
use maroonedpods_common::names;
use serde::de::DeserializeOwned;

pub(crate) use create::post_vmi;

use crate::answer::Answer;
use crate::api::{CallError, Cluster, call};
use crate::objects::{self, identity, patch, record};
use crate::own_writes::OwnWrites;
use crate::params;
use crate::plan::Write;
use crate::view::ObjectRef;

/// Performs one write. What it wrote is noted in `own_writes`, so that an older cache is not believed.
///
/// # Errors
/// The API server's refusal, a precondition that does not hold any more included.
pub async fn perform(cluster: &Cluster, write: &Write, own_writes: &mut OwnWrites) -> Result<(), CallError> {
    match write {
        Write::CreateRecord { spec, at_most } => create::record(cluster, spec, *at_most, own_writes).await,
        Write::IssueCredentials {
            record,
            attempt,
            lifetime_seconds,
        } => create::credentials(cluster, record, *attempt, *lifetime_seconds).await,
        Write::CreateNode {
            record,
            attempt,
            place,
        } => create::node(cluster, &objects::node::new(record, *attempt, place), own_writes).await,
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
            node,
            address,
            labels,
        } => node::place(cluster, node, address.as_deref(), labels, own_writes).await,
        Write::RevokeCredentials { record, attempt } => revoke(cluster, record, *attempt).await,
        Write::RemoveStartupTaint { node, index } => {
            node::remove_startup_taint(cluster, node, *index, own_writes).await
        }
        Write::LiftGate(lift) => pod::lift(cluster, lift, own_writes).await,
        Write::BindPod(pod) => pod::bind(cluster, pod).await,
        Write::PodNotReady(pod) => pod::not_ready(cluster, pod, own_writes).await,
        Write::EvictPod(pod) => pod::evict(cluster, pod).await,
        Write::FailPod { pod, reason, message } => pod::fail(cluster, pod, reason, message, own_writes).await,
        Write::DeletePod(pod) => {
            let at_once = params::delete(&pod.uid).grace_period(0);
            delete_with(&cluster.pods(&pod.namespace), &pod.name, &at_once).await
        }
        Write::DeleteRecord(record) => {
            delete(&cluster.all::<MaroonedNode>(), &record.name, &record.uid).await
        }
        Write::DeleteVmi(vmi) => delete(&cluster.vmis(), &vmi.name, &vmi.uid).await,
        Write::DeleteNode(node) => delete(&cluster.nodes(), &node.name, &node.uid).await,
        Write::DeleteCsr(csr) => {
            delete(&cluster.all::<CertificateSigningRequest>(), &csr.name, &csr.uid).await
        }
        Write::StripNodeFinalizers(node) => node::strip_finalizers(cluster, node, own_writes).await,
        Write::RemoveFinalizer { record, index } => {
            remove_finalizer(cluster, record, *index, own_writes).await
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
    let patch = record::status_patch(resource_version, status).map_err(kube::Error::SerdeError)?;
    let records = cluster.all::<Answer<MaroonedNode>>();
    own_writes.note(&call(records.patch_status(name, &params::patch(), &json_patch(patch))).await?);
    Ok(())
}

async fn revoke(cluster: &Cluster, record: &MaroonedNode, attempt: u32) -> Result<(), CallError> {
    let record_uid = record.metadata.uid.as_deref().unwrap_or_default();
    let token = names::token_secret_name(&identity::token_id(record, attempt));
    let seed = names::join_secret_name(&record.spec.pod_ref.uid, attempt);
    let tokens = cluster.within::<Secret>(names::TOKEN_NAMESPACE);
    let seeds = cluster.within::<Secret>(&cluster.vm_namespace);
    tokio::try_join!(
        delete_of_record(&tokens, &token, record_uid),
        delete_of_record(&seeds, &seed, record_uid),
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
    record: &ObjectRef,
    index: usize,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    let index = index.to_string();
    let finalizer = ["metadata", "finalizers", &index];
    let patch = Patch(vec![
        patch::test_uid(&record.uid),
        patch::test(&finalizer, names::FINALIZER),
        patch::remove(&finalizer),
    ]);
    let records = cluster.all::<Answer<MaroonedNode>>();
    gone_is_fine(patch_object(&records, &record.name, patch, own_writes).await)
}

async fn patch_object<K>(
    api: &Api<K>,
    name: &str,
    patch: Patch,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    own_writes.note(&call(api.patch(name, &params::patch(), &json_patch(patch))).await?);
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

fn json_patch(patch: Patch) -> kube::api::Patch<()> {
    kube::api::Patch::Json(patch)
}

/// The time of a write, in the API's whole seconds.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
