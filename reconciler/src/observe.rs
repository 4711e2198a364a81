//! Reads the world of one pod into a [`View`]: from the watch caches, or live where the decision asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use maroonedpods_common::api::{MaroonedNode, VmResources};
use maroonedpods_common::{names, sizing};

use crate::api::{CallError, Cluster, find};
use crate::csr::{self, Requester};
use crate::identity;
use crate::plan::View;
use crate::policies;
use crate::readable::Readable;
use crate::record;
use crate::seen::Seen;
use crate::settings::Settings;
use crate::sightings::Ages;
use crate::topology;
use crate::view::{NodeView, PodView, VmiView};
use crate::vmi;

/// The watch caches. All of them are filled before the first decision.
#[derive(Clone)]
pub struct Caches {
    /// Pods with our label.
    pub pods: Store<Readable<Pod>>,
    /// Our records.
    pub records: Store<MaroonedNode>,
    /// Nodes with our class label.
    pub nodes: Store<Readable<Node>>,
    /// Zone and region of all other Nodes.
    pub hosts: Store<PartialObjectMeta<Node>>,
    /// VMIs in our namespace.
    pub vmis: Store<DynamicObject>,
    /// CSRs.
    pub csrs: Store<CertificateSigningRequest>,
    /// NetworkPolicies, without their rules.
    pub policies: Store<NetworkPolicy>,
}

/// The API objects of one pod, as read.
struct Objects {
    pod: Option<Arc<Readable<Pod>>>,
    record: Option<Arc<MaroonedNode>>,
    node: Option<Arc<Readable<Node>>>,
    vmi: Option<Arc<DynamicObject>>,
}

/// The view that the caches give; `None` where they are older than what `seen` says was written.
#[must_use]
pub fn cached(
    pod_uid: &str,
    caches: &Caches,
    cluster: &Cluster,
    settings: Option<&Arc<Settings>>,
    seen: &Seen,
) -> Option<View> {
    let name = names::node_name(pod_uid);
    let record = caches.records.get(&ObjectRef::new(&name));
    let vmi_name = record
        .as_ref()
        .map_or_else(|| name.clone(), |r| names::vmi_name(pod_uid, record::attempt(r)));
    let vmi_ref = ObjectRef::new_with(&vmi_name, vmi::api_resource()).within(&cluster.vm_namespace);
    let objects = Objects {
        pod: cached_pod(pod_uid, caches, record.as_deref()),
        node: caches.nodes.get(&ObjectRef::new(&name)),
        vmi: caches.vmis.get(&vmi_ref),
        record,
    };
    let recorded = objects.record.as_ref().map(|r| r.spec.pod_ref.name.as_str());
    let named = || objects.pod.as_ref().and_then(|pod| pod.metadata.name.as_deref());
    let pod_name = recorded.or_else(named).unwrap_or_default();
    let behind = seen.distrusts_caches()
        || seen.is_behind(&name, objects.record.as_deref())
        || seen.is_behind(&name, objects.node.as_deref())
        || seen.is_behind(pod_name, objects.pod.as_deref())
        || seen.is_behind_dynamic(&vmi::api_resource().kind, &vmi_name, objects.vmi.as_deref());
    let csrs = related_csrs(pod_uid, caches, objects.record.as_deref());
    let csrs_behind = csrs.iter().any(|csr| {
        csr.metadata
            .name
            .as_ref()
            .is_some_and(|name| seen.is_behind(name, Some(csr.as_ref())))
    });
    (!behind && !csrs_behind).then(|| view(pod_uid, objects, csrs, caches, settings))
}

/// The view that the API server gives now. CSRs come from the cache: a write to one carries its version. So do
/// NetworkPolicies and hosts: what they change here is what is said, and whether to wait.
///
/// # Errors
/// Any read that fails but for "not found", which is what is being asked. A kind that is not served is no such
/// answer: VMs may run though KubeVirt's API was taken away.
pub async fn live(
    pod_uid: &str,
    caches: &Caches,
    cluster: &Cluster,
    settings: Option<&Arc<Settings>>,
) -> Result<View, CallError> {
    let name = names::node_name(pod_uid);
    let (records, nodes, vmis) = (cluster.all::<MaroonedNode>(), cluster.nodes(), cluster.vmis());
    // Two round trips: which VMI it is, and where the pod is, stands in the record. And in this order: a VM that the
    // record knows of and a later read does not find is gone.
    let (record, node) = tokio::try_join!(find(&records, &name), find(&nodes, &name))?;
    let (record, node) = (record.map(Arc::new), node.map(Arc::new));
    let vmi_name = names::vmi_name(pod_uid, record.as_ref().map_or(1, |r| record::attempt(r)));
    let (vmi, pod) = tokio::try_join!(
        find(&vmis, &vmi_name),
        live_pod(pod_uid, caches, cluster, record.as_deref()),
    )?;
    let vmi = vmi.map(Arc::new);
    let csrs = related_csrs(pod_uid, caches, record.as_deref());
    let view = view(
        pod_uid,
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
    Ok(View {
        live: true,
        claims_bound: claims_bound(cluster, view.pod.as_ref()).await?,
        ..view
    })
}

fn view(
    pod_uid: &str,
    objects: Objects,
    csrs: Vec<Arc<CertificateSigningRequest>>,
    caches: &Caches,
    settings: Option<&Arc<Settings>>,
) -> View {
    // A record has its size already.
    let size = match (&objects.record, &objects.pod, settings) {
        (None, Some(pod), Some(settings)) => Some(size(pod, settings)),
        _ => None,
    };
    let vmi = objects.vmi.as_deref().and_then(VmiView::of);
    View {
        pod_uid: pod_uid.to_owned(),
        settings: settings.cloned(),
        pod: objects.pod.as_deref().and_then(|pod| PodView::of(pod)),
        size,
        policies: objects
            .pod
            .as_deref()
            .map(|pod| policies::selecting(pod, &caches.policies))
            .unwrap_or_default(),
        cluster_dns: None,
        namespace_records: namespace_records(&objects, caches, settings),
        record: objects.record,
        node: objects.node.as_deref().and_then(|node| NodeView::of(node)),
        topology: vmi.as_ref().and_then(|vmi| host_topology(vmi, caches)),
        vmi,
        csrs,
        claims_bound: false,
        hold: None,
        ages: Ages::default(),
        backing_off: None,
        live: false,
    }
}

/// From the cache, in a live view too: the write counts again.
fn namespace_records(objects: &Objects, caches: &Caches, settings: Option<&Arc<Settings>>) -> u32 {
    let limited = settings.is_some_and(|settings| settings.spec.limits.vms_per_namespace.is_some());
    match &objects.pod {
        Some(pod) if limited && objects.record.is_none() => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let theirs = |record: &MaroonedNode| record.spec.pod_ref.namespace == namespace;
            u32::try_from(caches.records.state_filter(theirs).len()).unwrap_or(u32::MAX)
        }
        _ => 0,
    }
}

fn size(pod: &Pod, settings: &Settings) -> Result<VmResources, String> {
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let request = sizing::effective_request(spec).map_err(|error| error.to_string())?;
    sizing::size(
        request,
        settings.spec.base_vm_resources,
        &settings.spec.resource_overhead,
    )
    .map_err(|error| error.to_string())
}

/// By the record's reference where there is one; a UID alone is in no index, and a pod without a record is new.
pub(crate) fn cached_pod(
    pod_uid: &str,
    caches: &Caches,
    record: Option<&MaroonedNode>,
) -> Option<Arc<Readable<Pod>>> {
    let has_uid = |pod: &Readable<Pod>| pod.metadata.uid.as_deref() == Some(pod_uid);
    match record {
        Some(record) => {
            let pod = &record.spec.pod_ref;
            caches
                .pods
                .get(&ObjectRef::new(&pod.name).within(&pod.namespace))
                .filter(|pod| has_uid(pod))
        }
        None => caches.pods.find(has_uid),
    }
}

/// Our record of a pod, as the cache has it.
pub(crate) fn cached_record(pod_uid: &str, caches: &Caches) -> Option<Arc<MaroonedNode>> {
    caches.records.get(&ObjectRef::new(&names::node_name(pod_uid)))
}

/// Namespace and time of creation of a pod that a cache knows; of one that only its record tells of, the record's time.
pub(crate) fn origin(pod_uid: &str, caches: &Caches) -> Option<(String, Option<Timestamp>)> {
    let made = |meta: &ObjectMeta| meta.creation_timestamp.as_ref().map(|time| time.0);
    if let Some(record) = cached_record(pod_uid, caches) {
        return Some((record.spec.pod_ref.namespace.clone(), made(&record.metadata)));
    }
    let pod = cached_pod(pod_uid, caches, None)?;
    Some((pod.metadata.namespace.clone()?, made(&pod.metadata)))
}

async fn live_pod(
    pod_uid: &str,
    caches: &Caches,
    cluster: &Cluster,
    record: Option<&MaroonedNode>,
) -> Result<Option<Arc<Readable<Pod>>>, CallError> {
    let cached = || {
        let pod = cached_pod(pod_uid, caches, None)?;
        Some((pod.metadata.namespace.clone()?, pod.metadata.name.clone()?))
    };
    let named = record.map(|r| (r.spec.pod_ref.namespace.clone(), r.spec.pod_ref.name.clone()));
    let Some((namespace, name)) = named.or_else(cached) else {
        return Ok(None);
    };
    let pod = find(&cluster.pods(&namespace), &name).await?;
    Ok(pod
        .filter(|pod| pod.metadata.uid.as_deref() == Some(pod_uid))
        .map(Arc::new))
}

/// CSRs filed by the tokens of this attempt and of those before it, or by the Node itself.
fn related_csrs(
    pod_uid: &str,
    caches: &Caches,
    record: Option<&MaroonedNode>,
) -> Vec<Arc<CertificateSigningRequest>> {
    let Some(record) = record else { return Vec::new() };
    let node_name = names::node_name(pod_uid);
    let uid = record.metadata.uid.as_deref().unwrap_or_default();
    let token_ids: Vec<_> = identity::recent_token_ids(uid, record::attempt(record)).collect();
    caches.csrs.state_filter(|csr| match csr::requester(csr) {
        Some(Requester::Token(id)) => token_ids.iter().any(|own| own == id),
        Some(Requester::Node(name)) => name == node_name,
        None => false,
    })
}

/// What the VM's host says; nothing for one that is gone.
fn host_topology(vmi: &VmiView, caches: &Caches) -> Option<BTreeMap<String, String>> {
    let host = caches.hosts.get(&ObjectRef::new(vmi.host.as_ref()?));
    Some(topology::of(
        host.and_then(|host| host.metadata.labels.clone()).as_ref(),
    ))
}

/// Whether every claim of a pod that we would bind has its volume. One that waits for its pod's node would wait for ever.
async fn claims_bound(cluster: &Cluster, pod: Option<&PodView>) -> Result<bool, CallError> {
    let waits = |pod: &&PodView| pod.lifted() && !pod.bound;
    let Some(pod) = pod.filter(waits) else {
        return Ok(false);
    };
    let claims = cluster.within::<PersistentVolumeClaim>(&pod.namespace);
    for name in pod.demands.iter().flat_map(|demands| &demands.claims) {
        let claim = find(&claims, name).await?;
        let phase = claim.and_then(|claim| claim.status?.phase);
        if phase.as_deref() != Some("Bound") {
            return Ok(false);
        }
    }
    Ok(true)
}
