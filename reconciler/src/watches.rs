//! The watches: each fills a cache and wakes the worker of the pod that a change belongs to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::{PodUid, names};
use tokio::task::JoinSet;

use crate::api::Cluster;
use crate::csr::{Filed, Requester};
use crate::metrics::Metrics;
use crate::network_policies::PolicyView;
use crate::observe::Caches;
use crate::read::watch::{News, Watch};
use crate::read::{Cache, Mark, View};
use crate::sightings::uptime;
use crate::view::topology::Host;
use crate::view::{NodeView, PodView, VmiView};
use crate::workers::{Rejections, Workers};

/// What the watch of pods needs to count their outcomes on their nodes.
pub struct Outcomes {
    /// The makers whose pods were rejected.
    pub rejections: Arc<Mutex<Rejections>>,
    /// When this process began to work.
    pub begun: Instant,
}

/// Starts all watches in `tasks`, and returns the caches that they fill.
#[must_use]
pub fn start(
    cluster: &Cluster,
    workers: &Workers,
    outcomes: Outcomes,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<()>,
) -> Caches {
    let caches = Caches::default();
    let everything = ListParams::default();
    let marooned = everything
        .clone()
        .labels(&format!("{}={}", names::MAROON_LABEL, names::MAROON_TRUE));
    let class = everything
        .clone()
        .labels(&format!("{}={}", names::CLASS_LABEL, names::CLASS_LABEL_VALUE));
    let client = &cluster.client;
    let (known, neighbours) = (caches.records.clone(), caches.pods.clone());

    let pods = watch(Api::<Pod>::all(client.clone()), marooned, &caches.pods, metrics);
    tasks.spawn(pods.run(counts_outcomes_and_enqueues(
        workers.clone(),
        outcomes,
        caches.pods.clone(),
    )));
    let records = watch(
        cluster.all::<MaroonedNode>(),
        everything.clone(),
        &caches.records,
        metrics,
    );
    tasks.spawn(records.run(enqueues(workers.clone(), |record: &MaroonedNode| {
        [record.spec.pod_ref.uid.clone()]
    })));
    let nodes = watch(cluster.nodes(), class, &caches.nodes, metrics);
    tasks.spawn(nodes.run(enqueues(workers.clone(), |node: &NodeView| {
        names::pod_uid_of(&node.name)
    })));
    let others = everything.clone().labels(&format!("!{}", names::CLASS_LABEL));
    let hosts = watch(cluster.nodes(), others, &caches.hosts, metrics);
    tasks.spawn(hosts.run(enqueues_guests(workers.clone(), caches.vmis.clone())));
    let vmis = watch(cluster.vmis(), everything.clone(), &caches.vmis, metrics);
    tasks.spawn(vmis.run(enqueues(workers.clone(), |vmi: &VmiView| {
        names::pod_uid_of(&vmi.name)
    })));
    let csrs = watch(
        cluster.all::<CertificateSigningRequest>(),
        everything.clone(),
        &caches.csrs,
        metrics,
    );
    tasks.spawn(csrs.run(enqueues(workers.clone(), move |csr: &Filed| {
        of_requester(csr, &known)
    })));
    let policies = watch(
        Api::<NetworkPolicy>::all(client.clone()),
        everything,
        &caches.policies,
        metrics,
    );
    tasks.spawn(policies.run(enqueues_neighbours(workers.clone(), neighbours)));
    caches
}

fn watch<V: View, K>(
    api: Api<K>,
    scope: ListParams,
    cache: &Cache<V>,
    metrics: &Arc<Metrics>,
) -> Watch<V, K> {
    Watch {
        api,
        scope,
        cache: cache.clone(),
        metrics: metrics.clone(),
    }
}

/// Enqueues the pods that an object belongs to. After a list all pods are enqueued, because objects that vanished
/// unseen are not reported.
fn enqueues<V, P: IntoIterator<Item = PodUid>>(
    workers: Workers,
    pod_uids: impl Fn(&V) -> P,
) -> impl FnMut(News<'_, V>) {
    move |news| match news {
        News::Found(view) | News::Changed(view) | News::Gone(view) => {
            pod_uids(view).into_iter().for_each(|uid| workers.enqueue(&uid));
        }
        News::Listed => workers.enqueue_all(),
    }
}

/// Enqueues pods after their outcomes are counted: a replacement's worker must not start before the rejection of the
/// pod that it replaces is counted. A list has no such order, so all of its outcomes are counted first.
fn counts_outcomes_and_enqueues(
    workers: Workers,
    outcomes: Outcomes,
    pods: Cache<PodView>,
) -> impl FnMut(News<'_, PodView>) {
    move |news| {
        let mut rejections = outcomes.rejections.lock().unwrap_or_else(PoisonError::into_inner);
        match news {
            News::Found(pod) => rejections.see(pod, uptime(outcomes.begun)),
            News::Changed(pod) => {
                rejections.see(pod, uptime(outcomes.begun));
                workers.enqueue(&pod.uid);
            }
            News::Gone(pod) => {
                rejections.forget(&pod.uid);
                workers.enqueue(&pod.uid);
            }
            News::Listed => {
                let pods = pods.all();
                rejections.retain(&pods);
                for pod in &pods {
                    workers.enqueue(&pod.uid);
                }
                workers.enqueue_all();
            }
        }
    }
}

/// Enqueues the pods of a policy's namespace, all of them: a changed policy may have selected other pods before.
/// After a list all pods are enqueued once, not once for each policy.
fn enqueues_neighbours(workers: Workers, pods: Cache<PodView>) -> impl FnMut(News<'_, PolicyView>) {
    move |news| match news {
        News::Found(_) => {}
        News::Changed(policy) | News::Gone(policy) => {
            for pod in pods.marked(&Mark::Namespace(policy.namespace.clone())) {
                workers.enqueue(&pod.uid);
            }
        }
        News::Listed => workers.enqueue_all(),
    }
}

/// Enqueues the pods whose VMs run on a host. Nodes are written all the time, but a host's view has only its zone and
/// region: it changes only with these.
fn enqueues_guests(workers: Workers, vmis: Cache<VmiView>) -> impl FnMut(News<'_, Host>) {
    move |news| match news {
        News::Found(_) => {}
        News::Changed(host) | News::Gone(host) => {
            let here = vmis.marked(&Mark::Host(host.name.clone()));
            for uid in here.iter().filter_map(|vmi| names::pod_uid_of(&vmi.name)) {
                workers.enqueue(&uid);
            }
        }
        News::Listed => workers.enqueue_all(),
    }
}

/// A Node's name identifies its pod; a token is looked up among the tokens of the records.
fn of_requester(csr: &Filed, records: &Cache<MaroonedNode>) -> Option<PodUid> {
    match csr.requester()? {
        Requester::Node(name) => names::pod_uid_of(name),
        Requester::Token(id) => {
            let user = format!("{}{id}", names::BOOTSTRAP_USER_PREFIX);
            let minted_for = records.marked(&Mark::User(user)).pop()?;
            Some(minted_for.spec.pod_ref.uid.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::view_of;
    use crate::sightings::Uptime;
    use serde_json::{Value, json};

    fn pod(uid: &str, lifted: bool, status: &Value) -> PodView {
        let spec = if lifted {
            json!({"nodeSelector": {names::IDENTITY_LABEL: uid}})
        } else {
            json!({"schedulingGates": [{"name": names::GATE}]})
        };
        view_of(
            &json!({"metadata": {"namespace": "shop", "name": format!("web-{uid}"), "uid": uid,
            "ownerReferences": [{"uid": "web", "controller": true}]}, "spec": spec, "status": status}),
        )
        .unwrap()
    }

    fn counts_outcomes() -> (Arc<Mutex<Rejections>>, impl FnMut(News<'_, PodView>)) {
        let rejections = Arc::<Mutex<Rejections>>::default();
        let outcomes = Outcomes {
            rejections: rejections.clone(),
            begun: Instant::now(),
        };
        (
            rejections,
            counts_outcomes_and_enqueues(Workers::default(), outcomes, Cache::default()),
        )
    }

    fn waits(rejections: &Mutex<Rejections>, pod: &PodView) -> bool {
        let held = rejections
            .lock()
            .unwrap()
            .holds(&pod.maker, &pod.uid, Uptime::ZERO);
        held.is_some()
    }

    fn refused() -> PodView {
        pod(
            "a",
            true,
            &json!({"phase": "Failed", "reason": "SysctlForbidden"}),
        )
    }

    #[test]
    fn a_replacement_waits_even_if_the_rejected_pods_worker_has_not_run() {
        let next = pod("b", false, &json!({}));
        let (rejections, mut notify) = counts_outcomes();
        notify(News::Changed(&refused()));
        notify(News::Changed(&next));
        assert!(waits(&rejections, &next));

        let (rejections, mut notify) = counts_outcomes();
        notify(News::Found(&next));
        notify(News::Found(&refused()));
        notify(News::Listed);
        assert!(waits(&rejections, &next));
    }

    #[test]
    fn a_pods_outcome_counts_once() {
        let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let (rejections, mut notify) = counts_outcomes();
        notify(News::Changed(&refused()));
        notify(News::Changed(&pod("a", true, &ready)));
        assert!(waits(&rejections, &pod("b", false, &json!({}))));
        notify(News::Changed(&pod("c", true, &ready)));
        assert!(!waits(&rejections, &pod("b", false, &json!({}))));
    }
}
