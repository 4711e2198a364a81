//! Reads a pod and everything that belongs to it into [`Observed`]: from the watch caches, or live if the decision
//! requires it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Resource;
use kube::api::Api;
use maroonedpods_common::api::{Architecture, MaroonedNode, VmResources};
use maroonedpods_common::{PodUid, names, sizing};

use crate::api::{CallError, Cluster};
use crate::csr::Filed;
use crate::network_policies::{self, PolicyView};
use crate::objects::record;
use crate::objects::vmi;
use crate::own_writes::OwnWrites;
use crate::placement;
use crate::placement::claims::{Behind, ClaimView, PodClaim, Reference, is_name};
use crate::read::{self, Cache, Cached, Mark};
use crate::settings::Settings;
use crate::sightings::Ages;
use crate::view::Observed;
use crate::view::Packed;
use crate::view::topology::Host;
use crate::view::{NodeView, PodView, VmiView};

/// The watch caches. All of them are filled before the first decision.
#[derive(Clone, Default)]
pub struct Caches {
    /// Pods with our label.
    pub pods: Cache<PodView>,
    /// Our records.
    pub records: Cache<MaroonedNode>,
    /// Nodes with our class label.
    pub nodes: Cache<NodeView>,
    /// Labels of all other Nodes.
    pub hosts: Cache<Host>,
    /// VMIs in our namespace.
    pub vmis: Cache<VmiView>,
    /// CSRs of our tokens and Nodes.
    pub csrs: Cache<Filed>,
    /// NetworkPolicies, without their rules.
    pub policies: Cache<PolicyView>,
}

/// The API objects of one pod, as they were read.
struct Objects {
    pod: Option<Arc<PodView>>,
    record: Option<Arc<MaroonedNode>>,
    node: Option<Arc<NodeView>>,
    vmi: Option<Arc<VmiView>>,
}

/// The view from the caches; `None` if they are older than the worker's own writes.
#[must_use]
pub fn cached(
    pod_uid: &PodUid,
    caches: &Caches,
    cluster: &Cluster,
    settings: Option<&Arc<Settings>>,
    own_writes: &OwnWrites,
) -> Option<Observed> {
    let name = names::node_name(pod_uid);
    let record = caches.records.get("", &name);
    let vmi_name = record.as_ref().map_or_else(
        || name.clone(),
        |r| names::vmi_name(pod_uid, record::attempt(&r.view)),
    );
    let pod = cached_pod(pod_uid, caches, record.as_ref().map(|r| r.view.as_ref()));
    let node = caches.nodes.get("", &name);
    let vmi = caches.vmis.get(&cluster.vm_namespace, &vmi_name);
    let recorded = record.as_ref().map(|r| r.spec.pod_ref.name.as_str());
    let named = || pod.as_ref().map(|pod| pod.name.as_str());
    let pod_name = recorded.or_else(named).unwrap_or_default();
    let behind = own_writes.distrusts_caches()
        || is_behind(own_writes, &MaroonedNode::kind(&()), &name, record.as_ref())
        || is_behind(own_writes, &Node::kind(&()), &name, node.as_ref())
        || is_behind(own_writes, &Pod::kind(&()), pod_name, pod.as_ref())
        || is_behind(own_writes, &vmi::api_resource().kind, &vmi_name, vmi.as_ref());
    let mut csrs = csrs_of_node(pod_uid, caches);
    csrs.extend(csrs_of_tokens(caches, record.as_ref().map(|r| r.view.as_ref())));
    let csrs_behind = csrs.iter().any(|csr| is_decided(own_writes, csr));
    let objects = Objects {
        pod: pod.map(|pod| pod.view),
        record: record.map(|record| record.view),
        node: node.map(|node| node.view),
        vmi: vmi.map(|vmi| vmi.view),
    };
    (!behind && !csrs_behind).then(|| view(objects, csrs, caches, settings))
}

fn is_behind<V>(own_writes: &OwnWrites, kind: &str, name: &str, cached: Option<&Cached<V>>) -> bool {
    own_writes.is_behind(kind, name, cached.map(|cached| cached.version))
}

/// Whether the worker has decided on the CSR, and the cache does not know of it yet.
fn is_decided(own_writes: &OwnWrites, csr: &Cached<Filed>) -> bool {
    is_behind(
        own_writes,
        &CertificateSigningRequest::kind(&()),
        csr.name(),
        Some(csr),
    )
}

/// The view that the API server gives now. CSRs come from the cache, because a write to one carries its version; those that
/// the worker has just decided on are left out until the cache knows of it. NetworkPolicies and hosts come from there, too:
/// they change only reports, labels and waits. With a live view the worker's other writes need not be remembered any more.
///
/// # Errors
/// Any read that fails with anything but "not found". A kind that is not served is an error too: VMs may still run
/// after KubeVirt's API was removed.
pub async fn live(
    pod_uid: &PodUid,
    caches: &Caches,
    cluster: &Cluster,
    settings: Option<&Arc<Settings>>,
    own_writes: &mut OwnWrites,
) -> Result<Observed, CallError> {
    let name = names::node_name(pod_uid);
    let (records, nodes, vmis) = (cluster.all::<MaroonedNode>(), cluster.nodes(), cluster.vmis());
    // Read before the record: a request that was filed by now and has no record afterwards belongs to none.
    let mut csrs = csrs_of_node(pod_uid, caches);
    // Two round trips, because the record names the VMI and the pod. And in this order: a VM that the record knows
    // and a later read does not find is gone.
    let (record, node) = tokio::try_join!(
        read_now::<MaroonedNode, _>(&records, &name),
        read_now::<NodeView, _>(&nodes, &name),
    )?;
    let vmi_name = names::vmi_name(pod_uid, record.as_ref().map_or(1, |r| record::attempt(r)));
    let (vmi, pod) = tokio::try_join!(
        read_now::<VmiView, _>(&vmis, &vmi_name),
        live_pod(pod_uid, caches, cluster, record.as_deref()),
    )?;
    csrs.extend(csrs_of_tokens(caches, record.as_deref()));
    csrs.retain(|csr| !is_decided(own_writes, csr));
    let view = view(
        Objects {
            pod,
            record,
            node,
            vmi,
        },
        csrs,
        caches,
        settings,
    );
    let view = Observed {
        claims: claims(cluster, &view).await?,
        claims_bound: claims_bound(cluster, view.pod.as_ref()).await?,
        ..view
    };
    own_writes.clear_but(&CertificateSigningRequest::kind(&()));
    Ok(view)
}

/// Reads the object with this name now, as its view.
async fn read_now<V: read::View, K: Clone + Resource>(
    api: &Api<K>,
    name: &str,
) -> Result<Option<Arc<V>>, CallError> {
    Ok(read::find(api, name).await?.map(|(_, view)| Arc::new(view)))
}

fn view(
    objects: Objects,
    csrs: Vec<Cached<Filed>>,
    caches: &Caches,
    settings: Option<&Arc<Settings>>,
) -> Observed {
    // A record already holds its VM's size.
    let size = match (&objects.record, &objects.pod, settings) {
        (None, Some(pod), Some(settings)) => Some(size(pod, settings)),
        _ => None,
    };
    let more = objects
        .record
        .as_ref()
        .map(|record| record.spec.placement.host_labels.as_slice());
    let vmi = objects.vmi.as_ref();
    let topology = vmi.and_then(|vmi| host_topology(vmi, more.unwrap_or_default(), caches));
    Observed {
        settings: settings.cloned(),
        policies: objects
            .pod
            .as_deref()
            .map(|pod| network_policies::selecting(pod, &caches.policies))
            .unwrap_or_default(),
        cluster_dns: None,
        architecture: Architecture::default(),
        terminate_on_reboot: None,
        namespace_records: namespace_records(&objects, caches, settings),
        pod: objects.pod.map(Arc::unwrap_or_clone),
        size,
        record: objects.record,
        node: objects.node.map(Arc::unwrap_or_clone),
        topology,
        vmi: objects.vmi.map(Arc::unwrap_or_clone),
        csrs: csrs.into_iter().map(|csr| csr.view).collect(),
        claims: None,
        claims_bound: false,
        hold: None,
        ages: Ages::default(),
        backing_off: None,
    }
}

/// From the cache, even in a live view: the write counts again.
fn namespace_records(objects: &Objects, caches: &Caches, settings: Option<&Arc<Settings>>) -> u32 {
    let limited = settings.is_some_and(|settings| settings.spec.limits.vms_per_namespace.is_some());
    match &objects.pod {
        Some(pod) if limited && objects.record.is_none() => {
            let theirs = caches.records.marked(&Mark::Namespace(pod.namespace.clone()));
            u32::try_from(theirs.len()).unwrap_or(u32::MAX)
        }
        _ => 0,
    }
}

/// The VM that the pod needs, or why there is none.
pub(crate) fn size(pod: &PodView, settings: &Settings) -> Result<VmResources, String> {
    sizing::size(
        pod.request.clone()?,
        settings.spec.base_vm_resources,
        &settings.spec.resource_overhead,
    )
    .map_err(|error| error.to_string())
}

/// Finds the pod by the record's reference if there is a record; the UID is checked because the name may belong to
/// another pod by now.
pub(crate) fn cached_pod(
    pod_uid: &PodUid,
    caches: &Caches,
    record: Option<&MaroonedNode>,
) -> Option<Cached<PodView>> {
    match record {
        Some(record) => {
            let pod = &record.spec.pod_ref;
            let found = caches.pods.get(&pod.namespace, &pod.name);
            found.filter(|pod| pod.uid == *pod_uid)
        }
        None => caches.pods.marked(&Mark::Pod(pod_uid.clone())).pop(),
    }
}

/// The pod's record, as cached.
pub(crate) fn cached_record(pod_uid: &PodUid, caches: &Caches) -> Option<Arc<MaroonedNode>> {
    let record = caches.records.get("", &names::node_name(pod_uid))?;
    Some(record.view)
}

/// Namespace and creation time of a pod that a cache knows; for a pod known only by its record, the record's creation
/// time.
pub(crate) fn origin(pod_uid: &PodUid, caches: &Caches) -> Option<(String, Option<Timestamp>)> {
    if let Some(record) = cached_record(pod_uid, caches) {
        let made = record.metadata.creation_timestamp.as_ref().map(|time| time.0);
        return Some((record.spec.pod_ref.namespace.clone(), made));
    }
    let pod = cached_pod(pod_uid, caches, None)?;
    Some((pod.namespace.clone(), pod.created))
}

async fn live_pod(
    pod_uid: &PodUid,
    caches: &Caches,
    cluster: &Cluster,
    record: Option<&MaroonedNode>,
) -> Result<Option<Arc<PodView>>, CallError> {
    let cached = || {
        let pod = cached_pod(pod_uid, caches, None)?;
        Some((pod.namespace.clone(), pod.name.clone()))
    };
    let named = record.map(|r| (r.spec.pod_ref.namespace.clone(), r.spec.pod_ref.name.clone()));
    let Some((namespace, name)) = named.or_else(cached) else {
        return Ok(None);
    };
    let pod = read_now::<PodView, _>(&cluster.pods(&namespace), &name).await?;
    Ok(pod.filter(|pod| pod.uid == *pod_uid))
}

/// CSRs filed by the pod's Node, or with a certificate that the Node once had.
fn csrs_of_node(pod_uid: &PodUid, caches: &Caches) -> Vec<Cached<Filed>> {
    let node = format!("{}{}", names::NODE_USER_PREFIX, names::node_name(pod_uid));
    caches.csrs.marked(&Mark::User(node))
}

/// CSRs filed by the tokens of this attempt and of earlier ones.
fn csrs_of_tokens(caches: &Caches, record: Option<&MaroonedNode>) -> Vec<Cached<Filed>> {
    let Some(record) = record else { return Vec::new() };
    record::token_users(record, record::attempt(record))
        .flat_map(|user| caches.csrs.marked(&Mark::User(user)))
        .collect()
}

/// Zone and region of the VM's host, and its labels with these keys; empty if the host is gone.
fn host_topology(vmi: &VmiView, more: &[String], caches: &Caches) -> Option<BTreeMap<String, String>> {
    let host = caches.hosts.get("", vmi.host.as_ref()?);
    Some(host.map(|host| host.topology_and(more)).unwrap_or_default())
}

/// Whether every claim of a pod that we would bind has its volume. A claim that is bound only after its pod has a
/// node would otherwise wait for ever.
async fn claims_bound(cluster: &Cluster, pod: Option<&PodView>) -> Result<bool, CallError> {
    let waits = |pod: &&PodView| pod.lifted() && !pod.bound;
    let Some(pod) = pod.filter(waits) else {
        return Ok(false);
    };
    let demands = pod.demands.as_ref().and_then(Packed::unpacked);
    for name in demands.iter().flat_map(|demands| &demands.claims) {
        let claim = claim(cluster, pod, name).await?;
        if !claim.is_some_and(|claim| claim.bound()) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn claim(cluster: &Cluster, pod: &PodView, name: &str) -> Result<Option<ClaimView>, CallError> {
    let claims = cluster.within::<PersistentVolumeClaim>(&pod.namespace);
    view_now(&claims, name).await
}

/// The claims of a pod that may get a VM, and what they refer to, up to the first that holds it back.
async fn claims(cluster: &Cluster, view: &Observed) -> Result<Option<Vec<PodClaim>>, CallError> {
    let waits = |pod: &&PodView| pod.gate_index.is_some() && view.record.is_none();
    let Some(pod) = view.pod.as_ref().filter(waits) else {
        return Ok(None);
    };
    let mut claims = Vec::new();
    for name in placement::claims_of(pod) {
        let claim = claim(cluster, pod, &name.name).await?;
        let behind = match claim.as_ref().and_then(ClaimView::refers_to) {
            None => Behind::Nothing,
            Some(Reference::Volume(name)) => {
                Behind::Volume(view_now(&cluster.all::<PersistentVolume>(), name).await?)
            }
            Some(Reference::Class(name)) => {
                Behind::Class(view_now(&cluster.all::<StorageClass>(), name).await?)
            }
        };
        let claim = PodClaim { name, claim, behind };
        let holds_back = claim.holds_back(&pod.uid);
        claims.push(claim);
        if holds_back {
            break;
        }
    }
    Ok(Some(claims))
}

/// Reads an object by a name that a user wrote.
async fn view_now<V: read::View, K: Clone + Resource>(
    api: &Api<K>,
    name: &str,
) -> Result<Option<V>, CallError> {
    if !is_name(name) {
        return Ok(None);
    }
    Ok(read::find(api, name).await?.map(|(_, view)| view))
}
