//! The watches: each fills a cache and pokes the worker of the pod that a change belongs to.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::Api;
use kube::core::{DynamicObject, PartialObjectMeta, ResourceExt};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::{self, Writer};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector, watcher as watch_objects};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::names;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::api::Cluster;
use crate::csr::{self, Requester};
use crate::identity;
use crate::metrics::Metrics;
use crate::observe::Caches;
use crate::policies;
use crate::readable::Readable;
use crate::record;
use crate::topology;
use crate::view::VmiView;
use crate::vmi;
use crate::workers::Workers;

/// Seconds after which a watch is made anew; it also bounds how long a dead connection goes unnoticed. Lists come
/// in pages (kube's streaming lists keep objects that vanished between two connections).
const WATCH_SECONDS: u32 = 120;

/// Whom a watch tells what it sees.
struct Listeners {
    workers: Workers,
    metrics: Arc<Metrics>,
    /// What is watched, as the metric's label.
    kind: &'static str,
}

/// Starts all watches in `tasks` and gives the caches that they fill.
#[must_use]
pub fn start(
    cluster: &Cluster,
    workers: &Workers,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<()>,
) -> Caches {
    let listeners = |kind| Listeners {
        workers: workers.clone(),
        metrics: metrics.clone(),
        kind,
    };
    let marooned = format!("{}={}", names::MAROON_LABEL, names::MAROON_TRUE);
    let class = format!("{}={}", names::CLASS_LABEL, names::CLASS_LABEL_VALUE);
    let everything = watcher::Config::default().timeout(WATCH_SECONDS);
    let labelled = |selector: &str| everything.clone().labels(selector);
    let all_pods = Api::<Readable<Pod>>::all(cluster.client.clone());

    let (pods, writer) = reflector::store();
    tasks.spawn(run(
        all_pods,
        labelled(&marooned),
        writer,
        listeners("pods"),
        |pod: &Readable<Pod>| pod.uid(),
        |_| {},
    ));
    let (records, writer) = reflector::store();
    let of_record = |record: &MaroonedNode| Some(record.spec.pod_ref.uid.clone());
    tasks.spawn(run(
        cluster.all(),
        everything.clone(),
        writer,
        listeners("maroonednodes"),
        of_record,
        |_| {},
    ));
    let (nodes, writer) = reflector::store();
    tasks.spawn(run(
        cluster.all(),
        labelled(&class),
        writer,
        listeners("nodes"),
        |node: &Readable<Node>| of_name(node),
        |_| {},
    ));
    let (hosts, hosts_writer) = reflector::store();
    let known_hosts: store::Store<PartialObjectMeta<Node>> = hosts.clone();
    let mut topologies = BTreeMap::new();
    let writer = Writer::new(vmi::api_resource());
    let vmis = writer.as_reader();
    let guests = vmis.clone();
    tasks.spawn(run(
        Api::<PartialObjectMeta<Node>>::all(cluster.client.clone()),
        labelled(&format!("!{}", names::CLASS_LABEL)),
        hosts_writer,
        listeners("hosts"),
        move |host| of_host(host, &known_hosts, &mut topologies, &guests),
        forget_all_but_topology,
    ));
    tasks.spawn(run(
        cluster.vmis(),
        everything.clone(),
        writer,
        listeners("vmis"),
        |vmi: &DynamicObject| of_name(vmi),
        forget_spec,
    ));
    let (csrs, writer) = reflector::store();
    let known: store::Store<MaroonedNode> = records.clone();
    let of_csr = move |csr: &CertificateSigningRequest| of_requester(csr, &known);
    tasks.spawn(run(
        cluster.all(),
        everything.clone(),
        writer,
        listeners("csrs"),
        of_csr,
        |_| {},
    ));
    let (policies, writer) = reflector::store();
    let neighbours = pods.clone();
    tasks.spawn(run(
        Api::<NetworkPolicy>::all(cluster.client.clone()),
        everything,
        writer,
        listeners("networkpolicies"),
        move |policy: &NetworkPolicy| of_namespace(policy, &neighbours),
        policies::forget_rules,
    ));
    Caches {
        pods,
        records,
        nodes,
        hosts,
        vmis,
        csrs,
        policies,
    }
}

/// The spec of a VMI follows from its record; only its status is ever looked at.
fn forget_spec(vmi: &mut DynamicObject) {
    if let Some(fields) = vmi.data.as_object_mut() {
        fields.remove("spec");
    }
}

/// A host is looked at for its zone and region alone.
fn forget_all_but_topology(host: &mut PartialObjectMeta<Node>) {
    host.metadata.annotations = None;
    host.metadata.labels = Some(topology::of(host.metadata.labels.as_ref()));
}

/// Runs one watch for ever; `trim` takes off what the cache need not hold. Errors are retried with backoff: a missing
/// CRD may be installed later.
async fn run<K, P>(
    api: Api<K>,
    config: watcher::Config,
    writer: Writer<K>,
    listeners: Listeners,
    mut pod_uids: impl FnMut(&K) -> P,
    trim: impl Fn(&mut K),
) where
    P: IntoIterator<Item = String>,
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let Listeners {
        workers,
        metrics,
        kind,
    } = listeners;
    let stream = watch_objects(api, config).default_backoff().modify(|object| {
        object.managed_fields_mut().clear();
        trim(object);
    });
    let mut events = std::pin::pin!(stream.reflect(writer));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => {
                for uid in pod_uids(&object) {
                    workers.poke(&uid);
                }
            }
            // Objects that vanished while the watch was down have no event of their own.
            Ok(Event::InitDone) => workers.poke_all(),
            Ok(Event::Init) => {}
            Err(error) => {
                metrics.watch_failed(kind);
                tracing::warn!(kind, %error, "a watch failed, will try again");
            }
        }
    }
}

fn of_name<K: ResourceExt>(object: &K) -> Option<String> {
    object
        .meta()
        .name
        .as_deref()
        .and_then(names::pod_uid_of)
        .map(ToOwned::to_owned)
}

/// The pods whose VMs the host runs, where its zone or region is another than before. It is written to all the time, and
/// else nothing of it matters here.
fn of_host(
    host: &PartialObjectMeta<Node>,
    hosts: &store::Store<PartialObjectMeta<Node>>,
    topologies: &mut BTreeMap<String, BTreeMap<String, String>>,
    vmis: &store::Store<DynamicObject>,
) -> Vec<String> {
    let name = host.name_any();
    let now = hosts.get(&ObjectRef::new(&name));
    let now = now.map(|host| topology::of(host.metadata.labels.as_ref()));
    let before = match &now {
        Some(now) => topologies.insert(name.clone(), now.clone()),
        None => topologies.remove(&name),
    };
    if before == now {
        return Vec::new();
    }
    let here = vmis.state_filter(|vmi| VmiView::of(vmi).is_some_and(|vmi| vmi.host.as_ref() == Some(&name)));
    here.iter().filter_map(|vmi| of_name(vmi.as_ref())).collect()
}

/// Any pod of the namespace: a policy that changed selected other pods before than it does now.
fn of_namespace(policy: &NetworkPolicy, pods: &store::Store<Readable<Pod>>) -> Vec<String> {
    let neighbours = pods.state_filter(|pod| pod.metadata.namespace == policy.metadata.namespace);
    neighbours.iter().filter_map(|pod| pod.uid()).collect()
}

/// A Node names its pod; a token is known by the record that it was minted for.
fn of_requester(csr: &CertificateSigningRequest, records: &store::Store<MaroonedNode>) -> Option<String> {
    match csr::requester(csr)? {
        Requester::Node(name) => names::pod_uid_of(name).map(ToOwned::to_owned),
        Requester::Token(id) => {
            // The guest of a fresh attempt may be quicker than the watch that tells us of the attempt.
            let minted = |r: &MaroonedNode| {
                let uid = r.uid().unwrap_or_default();
                identity::recent_token_ids(&uid, record::attempt(r).saturating_add(1)).any(|own| own == id)
            };
            records.find(minted).map(|record| record.spec.pod_ref.uid.clone())
        }
    }
}
