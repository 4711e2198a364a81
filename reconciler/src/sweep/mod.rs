//! Finds leftovers by live lists: objects that outlived their record because of two crashes, two leaders, or a missed
//! event.
//!
//! Objects are listed before records. A record is created before and deleted after everything that belongs to it, so
//! an object that was in the first list and has no record in the second is a leftover.

mod index;
pub mod requests;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ListParams};
use kube::core::{DynamicObject, Resource};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::{PodUid, names};

use self::index::RecordIndex;
use crate::act;
use crate::api::{CallError, Cluster};
use crate::metrics::{Leftover, Metrics};
use crate::read::{self, Identity, Keep, Kind, Listed, View};
use crate::status;
use crate::workers::Workers;

/// From the end of one sweep to the start of the next.
pub const PERIOD: Duration = Duration::from_secs(60);

/// An object that may be a leftover: which it is, and whether its deletion is under way.
struct Candidate {
    identity: Identity,
    deleting: bool,
}

/// Whether an object's deletion is under way: all that the sweep reads beside its identity.
#[derive(PartialEq)]
struct Deleting(bool);

impl View for Deleting {
    const KIND: Kind = Kind::Leftovers;
    const KEEP: Keep = Keep::Fields(&[("metadata", Keep::Fields(&[("deletionTimestamp", Keep::Deadline)]))]);
    type Object = DynamicObject;

    fn read(object: DynamicObject) -> Option<Self> {
        Some(Self(object.metadata.deletion_timestamp.is_some()))
    }
}

/// One sweep: deletes leftovers, wakes every worker that may have work, and reports the counts.
///
/// # Errors
/// The first call that fails; the next sweep starts from the beginning.
pub async fn sweep(cluster: &Cluster, workers: &Workers, metrics: &Metrics) -> Result<(), CallError> {
    let by_uid = ListParams::default().labels(names::POD_UID_LABEL);
    let vmis = match list(&cluster.vmis(), &by_uid, metrics).await {
        Err(error) if error.is_unserved() => {
            tracing::warn!("KubeVirt is not installed: there are no VirtualMachineInstances in this cluster");
            return status::report_missing_provider(cluster).await;
        }
        listed => listed?,
    };
    // Not by the label for people: a guest may remove that one from its Node.
    let by_class = ListParams::default().labels(names::CLASS_LABEL);
    let nodes = list(&cluster.nodes(), &by_class, metrics).await?;
    let (seeds_of, tokens_of) = (
        cluster.within::<Secret>(&cluster.vm_namespace),
        cluster.within::<Secret>(names::TOKEN_NAMESPACE),
    );
    let seeds = list(&seeds_of, &by_uid, metrics).await?;
    let tokens = list(&tokens_of, &by_uid, metrics).await?;
    let everything = ListParams::default();
    let listed = read::list::<MaroonedNode, _>(&cluster.all::<MaroonedNode>(), &everything).await?;
    report_unreadable(&listed, metrics);
    let index = RecordIndex::of(&listed);
    let records: Vec<_> = listed.items.into_iter().map(|(_, record)| record).collect();

    let living: Vec<_> = vmis
        .iter()
        .filter_map(|vmi| names::pod_uid_of(&vmi.identity.name))
        .collect();
    let vmis = leftovers(vmis, |name| is_foreign(name) || index.owns_vmi(name));
    delete(&cluster.vmis(), Leftover::Vmi, vmis, metrics).await?;
    let seeds = leftovers(seeds, |name| is_foreign(name) || index.owns_seed(name));
    delete(&seeds_of, Leftover::JoinSecret, seeds, metrics).await?;
    let tokens = leftovers(tokens, |name| {
        names::token_id_of(name).is_none_or(|id| index.owns_token(id))
    });
    delete(&tokens_of, Leftover::Token, tokens, metrics).await?;
    // A Node outlives its VM here too: the next sweep finds the VM gone.
    let nodes = leftovers(nodes, |name| {
        index.owns_node(name) || names::pod_uid_of(name).is_none_or(|uid| living.contains(&uid))
    });
    delete(&cluster.nodes(), Leftover::Node, nodes, metrics).await?;

    enqueue(cluster, &records, workers, metrics).await?;
    status::report(cluster, &records, metrics).await
}

/// Names that this program does not give belong to other clients, whatever the labels say.
fn is_foreign(name: &str) -> bool {
    names::pod_uid_of(name).is_none()
}

/// The candidates that are not owned and whose deletion is not under way.
fn leftovers(candidates: Vec<Candidate>, is_owned: impl Fn(&str) -> bool) -> impl Iterator<Item = Identity> {
    let left = candidates.into_iter().filter(|candidate| !candidate.deleting);
    left.map(|candidate| candidate.identity)
        .filter(move |identity| !is_owned(&identity.name))
}

/// Names and UIDs are enough: the sweep must not read what Secrets contain.
async fn list<K: Clone + Resource>(
    api: &Api<K>,
    params: &ListParams,
    metrics: &Metrics,
) -> Result<Vec<Candidate>, CallError> {
    let listed = read::list::<Deleting, K>(api, params).await?;
    report_unreadable(&listed, metrics);
    let candidates = listed
        .items
        .into_iter()
        .map(|(identity, Deleting(deleting))| Candidate { identity, deleting });
    Ok(candidates.collect())
}

/// The sweep leaves alone what it cannot read: it knows of it only that it exists.
fn report_unreadable<V: View>(listed: &Listed<V>, metrics: &Metrics) {
    for unreadable in &listed.unreadable {
        metrics.unreadable(V::KIND);
        tracing::warn!(kind = %V::KIND, "{unreadable}; the sweep leaves it alone");
    }
}

async fn delete<K: Clone + Resource>(
    api: &Api<K>,
    kind: Leftover,
    leftovers: impl Iterator<Item = Identity>,
    metrics: &Metrics,
) -> Result<(), CallError> {
    for Identity { name, uid, .. } in leftovers {
        tracing::warn!(%kind, name, "deleting a leftover without a record");
        act::delete(api, &name, &uid).await?;
        metrics.orphan_deleted(kind);
    }
    Ok(())
}

/// Every marooned pod and every record, whether its cache has it or not.
async fn enqueue(
    cluster: &Cluster,
    records: &[MaroonedNode],
    workers: &Workers,
    metrics: &Metrics,
) -> Result<(), CallError> {
    let marooned = ListParams::default().labels(&format!("{}={}", names::MAROON_LABEL, names::MAROON_TRUE));
    let pods = list(&Api::<Pod>::all(cluster.client.clone()), &marooned, metrics).await?;
    let uids = pods
        .into_iter()
        .map(|pod| PodUid::from(pod.identity.uid))
        .chain(records.iter().map(|record| record.spec.pod_ref.uid.clone()));
    uids.for_each(|uid| workers.enqueue(&uid));
    Ok(())
}
