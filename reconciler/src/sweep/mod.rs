//! Finds leftovers by live lists: what was lost between two crashes, two leaders, or by a missed event.
//!
//! Objects are listed before records. A record is made before and deleted after everything that belongs to it, so
//! what was in the first list and has no record in the second is nobody's.

pub mod requests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ListParams};
use kube::core::{DynamicObject, Resource};
use maroonedpods_common::api::{MaroonedNode, MaroonedPodsConfigStatus, NodeCounts, Phase};
use maroonedpods_common::names;

use crate::act;
use crate::api::{CallError, Cluster};
use crate::conditions::{self, ConditionUpdate};
use crate::config;
use crate::metrics::Metrics;
use crate::objects::identity;
use crate::objects::record;
use crate::read::{self, Keep, Listed, View};
use crate::workers::Workers;

/// From the end of one sweep to the start of the next.
pub const PERIOD: Duration = Duration::from_secs(60);

/// Condition of the configuration: VMs can be made.
const PROVIDER_READY: &str = "ProviderReady";

/// A live object, by what the sweep needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    name: String,
    uid: String,
    deleting: bool,
}

/// Whether its deletion was asked for: all that is read of what is listed for its name.
#[derive(PartialEq)]
struct Deleting(bool);

impl View for Deleting {
    const KIND: &'static str = "leftovers";
    const KEEP: Keep = Keep::Fields(&[("metadata", Keep::Fields(&[("deletionTimestamp", Keep::Deadline)]))]);
    type Object = DynamicObject;

    fn read(object: DynamicObject) -> Option<Self> {
        Some(Self(object.metadata.deletion_timestamp.is_some()))
    }
}

/// Which records exist, by pod UID, and what of an attempt is theirs.
struct Known {
    records: HashMap<String, Owner>,
    /// Ids of the tokens that their attempts may have filed requests with, and whether a guest may still join with it.
    /// Looked up for each request and each token, of which there may be far more than records.
    tokens: HashMap<String, bool>,
    /// Records that exist and cannot be read, by pod UID: whatever may be theirs is.
    unreadable: HashSet<String>,
    /// One cannot even be named.
    unnamed: bool,
}

/// What the sweep needs of a record.
struct Owner {
    attempt: u32,
    /// The kubelet has joined: credentials that turn up now are a stalled leader's, and must go.
    joined: bool,
}

impl Known {
    fn of(listed: &Listed<MaroonedNode>) -> Self {
        let uid_of = |unreadable: &read::Unreadable| {
            let identity = unreadable.identity.as_ref()?;
            names::pod_uid_of(&identity.name).map(ToOwned::to_owned)
        };
        let entry = |(_, r): &(_, MaroonedNode)| {
            let owner = Owner {
                attempt: record::attempt(r),
                joined: r.status.as_ref().is_some_and(record::has_joined),
            };
            (r.spec.pod_ref.uid.clone(), owner)
        };
        let mut tokens = HashMap::new();
        for (id, valid) in listed.items.iter().flat_map(|(_, r)| minted(r)) {
            // Ids are short: two records may share one.
            *tokens.entry(id).or_default() |= valid;
        }
        Self {
            tokens,
            records: listed.items.iter().map(entry).collect(),
            unreadable: listed.unreadable.iter().filter_map(uid_of).collect(),
            unnamed: listed.unreadable.iter().any(|u| uid_of(u).is_none()),
        }
    }

    /// Whether this may belong to a record that cannot be read.
    fn is_in_doubt(&self, name: &str) -> bool {
        self.unnamed || names::pod_uid_of(name).is_some_and(|uid| self.unreadable.contains(uid))
    }

    /// A token is named by its record's UID, which only a record that can be read tells.
    fn are_tokens_in_doubt(&self) -> bool {
        self.unnamed || !self.unreadable.is_empty()
    }

    /// Names that this program does not give are somebody else's, whatever their labels say.
    fn is_foreign(name: &str) -> bool {
        names::pod_uid_of(name).is_none()
    }

    fn owner<'n>(&self, name: &'n str) -> Option<(&'n str, &Owner)> {
        let uid = names::pod_uid_of(name)?;
        self.records.get(uid).map(|owner| (uid, owner))
    }

    /// A VMI belongs to the attempt that its name says.
    fn owns_vmi(&self, name: &str) -> bool {
        let its_own = |(uid, owner): (&str, &Owner)| name == names::vmi_name(uid, owner.attempt);
        self.is_in_doubt(name) || self.owner(name).is_some_and(its_own)
    }

    fn owns_seed(&self, name: &str) -> bool {
        let its_own = |(uid, owner): (&str, &Owner)| {
            !owner.joined && name == names::join_secret_name(uid, owner.attempt)
        };
        self.is_in_doubt(name) || self.owner(name).is_some_and(its_own)
    }

    fn owns_node(&self, name: &str) -> bool {
        self.is_in_doubt(name) || self.owner(name).is_some()
    }

    fn owns_token(&self, id: &str) -> bool {
        self.are_tokens_in_doubt() || self.tokens.get(id).is_some_and(|valid| *valid)
    }

    /// The token of this attempt or one not long before it, whatever became of it.
    fn knows_token(&self, id: &str) -> bool {
        self.are_tokens_in_doubt() || self.tokens.contains_key(id)
    }
}

/// Ids of the tokens of a record's attempts, and whether it is the one that a guest may join with.
fn minted(record: &MaroonedNode) -> impl Iterator<Item = (String, bool)> {
    let uid = record.metadata.uid.as_deref().unwrap_or_default();
    let attempt = record::attempt(record);
    let joined = record.status.as_ref().is_some_and(record::has_joined);
    let current = identity::token_id(uid, attempt);
    identity::recent_token_ids(uid, attempt).map(move |id| {
        let valid = !joined && id == current;
        (id, valid)
    })
}

/// One sweep: deletes what is nobody's, wakes every worker that may have work, and reports the counts.
///
/// # Errors
/// The first call that fails; the next sweep begins anew.
pub async fn sweep(cluster: &Cluster, workers: &Workers, metrics: &Metrics) -> Result<(), CallError> {
    let by_uid = ListParams::default().labels(names::POD_UID_LABEL);
    let vmis = match list(&cluster.vmis(), &by_uid, metrics).await {
        Err(error) if error.is_unserved() => return report_missing_provider(cluster).await,
        listed => listed?,
    };
    // Not by the label for people: a guest may take that one off its Node.
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
    let known = Known::of(&listed);
    let records: Vec<_> = listed.items.into_iter().map(|(_, record)| record).collect();

    let orphans = |found: Vec<Found>, owned: &dyn Fn(&str) -> bool| -> Vec<Found> {
        found
            .into_iter()
            .filter(|f| !f.deleting && !owned(&f.name))
            .collect()
    };
    let living: Vec<_> = vmis
        .iter()
        .filter_map(|v| names::pod_uid_of(&v.name).map(ToOwned::to_owned))
        .collect();
    delete(
        &cluster.vmis(),
        "vmi",
        orphans(vmis, &|name| Known::is_foreign(name) || known.owns_vmi(name)),
        metrics,
    )
    .await?;
    let seeds = orphans(seeds, &|name| Known::is_foreign(name) || known.owns_seed(name));
    delete(&seeds_of, "join_secret", seeds, metrics).await?;
    let tokens = orphans(tokens, &|name| {
        names::token_id_of(name).is_none_or(|id| known.owns_token(id))
    });
    delete(&tokens_of, "token", tokens, metrics).await?;
    // A Node outlives its VM here too: the next sweep finds the VM gone.
    let nodes = orphans(nodes, &|name| {
        known.owns_node(name) || names::pod_uid_of(name).is_none_or(|uid| living.iter().any(|l| l == uid))
    });
    delete(&cluster.nodes(), "node", nodes, metrics).await?;

    enqueue(cluster, &records, workers, metrics).await?;
    report(cluster, &records, metrics).await
}

fn provider_ready(status: &mut MaroonedPodsConfigStatus, holds: bool, reason: &str, message: &str) {
    let says = ConditionUpdate {
        holds,
        reason,
        message,
    };
    let generation = status.observed_generation;
    conditions::set(
        &mut status.conditions,
        PROVIDER_READY,
        says,
        generation,
        Timestamp::now(),
    );
}

async fn report_missing_provider(cluster: &Cluster) -> Result<(), CallError> {
    tracing::warn!("KubeVirt is not installed: there are no VirtualMachineInstances in this cluster");
    config::edit_status(cluster, |_, status| {
        let missing = "the cluster has no VirtualMachineInstances: install KubeVirt";
        provider_ready(status, false, "NotInstalled", missing);
    })
    .await
}

/// Names and UIDs are enough: Secrets' contents are none of the sweep's business.
async fn list<K: Clone + Resource>(
    api: &Api<K>,
    params: &ListParams,
    metrics: &Metrics,
) -> Result<Vec<Found>, CallError> {
    let listed = read::list::<Deleting, K>(api, params).await?;
    report_unreadable(&listed, metrics);
    let found = listed.items.into_iter().map(|(identity, deleting)| Found {
        name: identity.name,
        uid: identity.uid,
        deleting: deleting.0,
    });
    Ok(found.collect())
}

/// What cannot be read is left alone: that it exists is all that is known of it.
fn report_unreadable<V: View>(listed: &Listed<V>, metrics: &Metrics) {
    for unreadable in &listed.unreadable {
        metrics.unreadable(V::KIND);
        tracing::warn!(kind = V::KIND, "{unreadable}; the sweep leaves it alone");
    }
}

async fn delete<K: Clone + Resource>(
    api: &Api<K>,
    kind: &'static str,
    orphans: Vec<Found>,
    metrics: &Metrics,
) -> Result<(), CallError> {
    for orphan in orphans {
        tracing::warn!(
            kind,
            name = orphan.name,
            "deleting a leftover that no record stands behind"
        );
        act::delete(api, &orphan.name, &orphan.uid).await?;
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
        .map(|pod| pod.uid)
        .chain(records.iter().map(|r| r.spec.pod_ref.uid.clone()));
    uids.for_each(|uid| workers.enqueue(&uid));
    Ok(())
}

/// The counts, as metrics and, where they changed, on the configuration.
async fn report(cluster: &Cluster, records: &[MaroonedNode], metrics: &Metrics) -> Result<(), CallError> {
    let phase = |r: &MaroonedNode| r.status.as_ref().map(|s| s.phase).unwrap_or_default();
    let mut phases: BTreeMap<&'static str, u32> = ["Pending", "Launched", "Registered", "Lifted", "Failed"]
        .map(|name| (name, 0))
        .into();
    let mut counts = NodeCounts::default();
    for record in records {
        let (name, stage) = match phase(record) {
            Phase::Pending => ("Pending", &mut counts.launching),
            Phase::Launched => ("Launched", &mut counts.launching),
            Phase::Registered => ("Registered", &mut counts.launching),
            Phase::Lifted => ("Lifted", &mut counts.ready),
            Phase::Failed => ("Failed", &mut counts.launching),
        };
        *phases.entry(name).or_default() += 1;
        if record.metadata.deletion_timestamp.is_some() {
            counts.releasing += 1;
        } else {
            *stage += 1;
        }
    }
    for (name, count) in phases {
        metrics.set_nodes(name, count);
    }
    config::edit_status(cluster, |_, status| {
        status.nodes = counts;
        provider_ready(status, true, "Listed", "VirtualMachineInstances can be listed");
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::record::tests::record;

    /// A record in its 20th attempt, and one that has joined in its second.
    fn known() -> Known {
        let mut old = record();
        old.status.get_or_insert_default().attempts = 20;
        let mut joined = record();
        joined.metadata.uid = Some("other".to_owned());
        let status = joined.status.get_or_insert_default();
        status.attempts = 2;
        let registered = maroonedpods_common::api::condition::REGISTERED;
        record::set_condition(
            status,
            registered,
            true,
            "KubeletJoined",
            "",
            Timestamp::UNIX_EPOCH,
        );
        Known::of(&Listed {
            items: vec![
                (read::Identity::default(), old),
                (read::Identity::default(), joined),
            ],
            ..Listed::default()
        })
    }

    #[test]
    fn a_token_is_owned_until_the_join_and_known_for_some_attempts_more() {
        let known = known();
        let uid = record().metadata.uid.unwrap();
        for (record, attempt, owned, is_known) in [
            (uid.as_str(), 20, true, true),
            (&uid, 19, false, true),
            (&uid, 10, false, true),
            (&uid, 9, false, false),
            (&uid, 21, false, false),
            ("other", 2, false, true),
            ("other", 1, false, true),
            ("third", 1, false, false),
        ] {
            let id = identity::token_id(record, attempt);
            assert_eq!(
                (known.owns_token(&id), known.knows_token(&id)),
                (owned, is_known),
                "{record} {attempt}"
            );
        }
    }
}
