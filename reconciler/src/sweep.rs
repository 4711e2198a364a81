//! Finds leftovers by live lists: what was lost between two crashes, two leaders, or by a missed event.
//!
//! Objects are listed before records. A record is made before and deleted after everything that belongs to it, so
//! what was in the first list and has no record in the second is nobody's.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::core::{ObjectList, ResourceExt};
use maroonedpods_common::api::{MaroonedNode, MaroonedPodsConfigStatus, NodeCounts, Phase};
use maroonedpods_common::names;
use serde::de::DeserializeOwned;

use crate::act;
use crate::api::{CallError, Cluster, call};
use crate::conditions::{self, Says};
use crate::config;
use crate::csr::{self, Requester};
use crate::identity;
use crate::metrics::Metrics;
use crate::record;
use crate::workers::Workers;

/// From the end of one sweep to the start of the next.
pub const PERIOD: Duration = Duration::from_secs(60);

/// Objects that one answer to a list holds at most.
const PAGE: u32 = 100;

/// Condition of the configuration: VMs can be made.
const PROVIDER_READY: &str = "ProviderReady";

/// A live object, by what the sweep needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    name: String,
    uid: String,
    deleting: bool,
}

/// A live certificate request of a guest.
struct Request {
    found: Found,
    by: By,
}

/// Who filed a request.
enum By {
    /// The Node of this name.
    Node(String),
    /// The token of this id, of our group.
    Token(String),
}

/// Which records exist, by pod UID, and what of an attempt is theirs.
struct Known {
    records: HashMap<String, Owner>,
}

/// What the sweep needs of a record.
struct Owner {
    uid: String,
    attempt: u32,
    /// The kubelet has joined: credentials that turn up now are a stalled leader's, and must go.
    joined: bool,
}

impl Known {
    fn of(records: &[MaroonedNode]) -> Self {
        let entry = |r: &MaroonedNode| {
            let owner = Owner {
                uid: r.uid().unwrap_or_default(),
                attempt: record::attempt(r),
                joined: r.status.as_ref().is_some_and(record::has_joined),
            };
            (r.spec.pod_ref.uid.clone(), owner)
        };
        Self {
            records: records.iter().map(entry).collect(),
        }
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
        self.owner(name)
            .is_some_and(|(uid, owner)| name == names::vmi_name(uid, owner.attempt))
    }

    fn owns_seed(&self, name: &str) -> bool {
        self.owner(name)
            .is_some_and(|(uid, owner)| !owner.joined && name == names::join_secret_name(uid, owner.attempt))
    }

    fn owns_node(&self, name: &str) -> bool {
        self.owner(name).is_some()
    }

    fn owns_token(&self, id: &str) -> bool {
        let is_its_own = |owner: &Owner| !owner.joined && identity::token_id(&owner.uid, owner.attempt) == id;
        self.records.values().any(is_its_own)
    }

    /// The token of this attempt or one not long before it, whatever became of it.
    fn knows_token(&self, id: &str) -> bool {
        let minted = |o: &Owner| identity::recent_token_ids(&o.uid, o.attempt).any(|own| own == id);
        self.records.values().any(minted)
    }
}

/// One sweep: deletes what is nobody's, pokes every worker that may have work, and reports the counts.
///
/// # Errors
/// The first call that fails; the next sweep begins anew.
pub async fn sweep(cluster: &Cluster, workers: &Workers, metrics: &Metrics) -> Result<(), CallError> {
    let by_uid = ListParams::default().labels(names::POD_UID_LABEL);
    let vmis = match list(&cluster.vmis(), &by_uid).await {
        Err(error) if error.is_unserved() => return report_missing_provider(cluster).await,
        listed => listed?,
    };
    // Not by the label for people: a guest may take that one off its Node.
    let by_class = ListParams::default().labels(names::CLASS_LABEL);
    let nodes = list(&cluster.nodes(), &by_class).await?;
    let seeds = list(&cluster.within::<Secret>(&cluster.vm_namespace), &by_uid).await?;
    let tokens = list(&cluster.within::<Secret>(names::TOKEN_NAMESPACE), &by_uid).await?;
    let everything = ListParams::default();
    let (requests, records) = (
        cluster.all::<CertificateSigningRequest>(),
        cluster.all::<MaroonedNode>(),
    );
    let csrs = in_pages(&everything, |page| page_of(&requests, page), Request::of).await?;
    let records = in_pages(&everything, |page| page_of(&records, page), Some).await?;
    let known = Known::of(&records);

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
    delete(
        &cluster.within::<Secret>(&cluster.vm_namespace),
        "join_secret",
        seeds,
        metrics,
    )
    .await?;
    let tokens = orphans(tokens, &|name| {
        names::token_id_of(name).is_none_or(|id| known.owns_token(id))
    });
    delete(
        &cluster.within::<Secret>(names::TOKEN_NAMESPACE),
        "token",
        tokens,
        metrics,
    )
    .await?;
    // A Node outlives its VM here too: the next sweep finds the VM gone.
    let nodes = orphans(nodes, &|name| {
        known.owns_node(name) || names::pod_uid_of(name).is_none_or(|uid| living.iter().any(|l| l == uid))
    });
    delete(&cluster.nodes(), "node", nodes, metrics).await?;
    let csrs = csrs
        .into_iter()
        .filter(|request| request.is_orphan(&known))
        .map(|request| request.found)
        .collect();
    delete(&cluster.all::<CertificateSigningRequest>(), "csr", csrs, metrics).await?;

    poke(cluster, &records, workers).await?;
    report(cluster, &records, metrics).await
}

fn provider_ready(status: &mut MaroonedPodsConfigStatus, holds: bool, reason: &str, message: &str) {
    let says = Says {
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

impl Request {
    /// None for what is no Node's and none of our tokens'.
    fn of(csr: CertificateSigningRequest) -> Option<Self> {
        let ours = || {
            let mut groups = csr.spec.groups.iter().flatten();
            groups.any(|group| group == names::BOOTSTRAP_GROUP)
        };
        let by = match csr::requester(&csr)? {
            Requester::Node(name) => By::Node(name.to_owned()),
            Requester::Token(id) if ours() => By::Token(id.to_owned()),
            Requester::Token(_) => return None,
        };
        Some(Self {
            by,
            found: found(csr.metadata)?,
        })
    }

    /// No record stands behind it. A request of an attempt that is known goes with its record.
    fn is_orphan(&self, known: &Known) -> bool {
        match &self.by {
            By::Node(name) => !known.owns_node(name),
            By::Token(id) => !known.knows_token(id),
        }
    }
}

/// Names and UIDs are enough: Secrets' contents are none of the sweep's business.
async fn list<K>(api: &Api<K>, params: &ListParams) -> Result<Vec<Found>, CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let fetch = |page: ListParams| async move { api.list_metadata(&page).await };
    in_pages(params, fetch, |object| found(object.metadata)).await
}

/// A future that owns its parameters, which kube's borrows.
async fn page_of<K>(api: &Api<K>, page: ListParams) -> kube::Result<ObjectList<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    api.list(&page).await
}

/// What `keep` makes of all objects. They come in pages, so that a large cluster is never in memory as a whole.
async fn in_pages<K: Clone, T, F>(
    params: &ListParams,
    fetch: impl Fn(ListParams) -> F,
    keep: impl Fn(K) -> Option<T>,
) -> Result<Vec<T>, CallError>
where
    F: Future<Output = kube::Result<ObjectList<K>>>,
{
    let mut kept = Vec::new();
    let mut params = params.clone().limit(PAGE);
    loop {
        let page = call(fetch(params.clone())).await?;
        kept.extend(page.items.into_iter().filter_map(&keep));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(kept),
        }
    }
}

fn found(meta: ObjectMeta) -> Option<Found> {
    Some(Found {
        name: meta.name?,
        uid: meta.uid?,
        deleting: meta.deletion_timestamp.is_some(),
    })
}

async fn delete<K>(
    api: &Api<K>,
    kind: &'static str,
    orphans: Vec<Found>,
    metrics: &Metrics,
) -> Result<(), CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
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
async fn poke(cluster: &Cluster, records: &[MaroonedNode], workers: &Workers) -> Result<(), CallError> {
    let marooned = ListParams::default().labels(&format!("{}={}", names::MAROON_LABEL, names::MAROON_TRUE));
    let pods = list(&Api::<Pod>::all(cluster.client.clone()), &marooned).await?;
    let uids = pods
        .into_iter()
        .map(|pod| pod.uid)
        .chain(records.iter().map(|r| r.spec.pod_ref.uid.clone()));
    uids.for_each(|uid| workers.poke(&uid));
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
