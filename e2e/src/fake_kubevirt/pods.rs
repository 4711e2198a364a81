//! The pods of one node, run as a kubelet does: to Running and Ready, to their end, and away within their grace.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::admission::{Refusal, Request, Room, refusal};
use super::domains::Domains;
use super::launcher::CREATED_BY;
use super::log::{GuestEvent, GuestLog};
use super::own_node::internal_ip;
use super::pod_status::{self, Containers, Place};
use super::retry::persist;
use super::script::{EXIT_AFTER_ANNOTATION, STOP_AFTER_ANNOTATION, seconds};

/// When the containers of a pod that is not to be restarted exit, in seconds.
const DEFAULT_EXIT: f64 = 1.0;
/// Exit code of a process that SIGTERM ended.
const TERMINATED: i32 = 143;
/// Default of `deletionGracePeriodSeconds`.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// How pods get their addresses.
#[derive(Clone)]
pub(super) enum Addresses {
    /// The one pod has the Node's own address (pass-through); until the Node has one, no sandbox can be made.
    OfTheNode,
    /// Each pod gets the next one of the host with this number.
    OfAHost { number: usize, next: Arc<AtomicU32> },
}

/// The pods of one node.
#[derive(Clone)]
pub(super) struct Pods {
    pub(super) client: Client,
    pub(super) node_name: String,
    pub(super) node: watch::Receiver<Option<Node>>,
    pub(super) addresses: Addresses,
    pub(super) room: Room,
    /// Why every pod is rejected, if that is so.
    pub(super) rejects: Option<String>,
    /// Those of launchers, where there are any.
    pub(super) domains: Domains,
    pub(super) log: GuestLog,
}

/// `Some` once the pod is being deleted: its grace.
type Deletion = Option<Duration>;

/// A pod that this node knows.
struct Known {
    deletion: watch::Sender<Deletion>,
    request: Request,
    /// Admitted, and not over: it counts.
    active: bool,
}

impl Pods {
    /// Runs every pod that is bound to this node, for ever.
    pub(super) async fn run(self) {
        let bound = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node_name));
        let mut events = watcher(Api::<Pod>::all(self.client.clone()), bound)
            .default_backoff()
            .boxed();
        let mut known = HashMap::new();
        let mut listed = HashSet::new();
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(Event::Init)) => listed.clear(),
                    Some(Ok(Event::InitApply(pod))) => {
                        listed.extend(pod.uid());
                        self.see(pod, &mut known, &mut running);
                    }
                    Some(Ok(Event::InitDone)) => known.retain(|uid, _| listed.contains(uid)),
                    Some(Ok(Event::Apply(pod))) => self.see(pod, &mut known, &mut running),
                    Some(Ok(Event::Delete(pod))) => drop(pod.uid().and_then(|uid| known.remove(&uid))),
                    Some(Err(error)) => tracing::debug!(node = self.node_name, %error, "a pod watch failed"),
                    None => return,
                },
                Some(_) = running.join_next() => {}
            }
        }
    }

    fn see(&self, pod: Pod, known: &mut HashMap<String, Known>, running: &mut JoinSet<()>) {
        let Some(uid) = pod.uid() else { return };
        let deletion = deletion(&pod);
        let over = is_over(&pod);
        if let Some(pod) = known.get_mut(&uid) {
            pod.active &= !over;
            pod.deletion
                .send_if_modified(|told| std::mem::replace(told, deletion) != deletion);
            return;
        }
        let request = Request::of(&pod.spec.clone().unwrap_or_default());
        let present: Vec<_> = known
            .values()
            .filter(|pod| pod.active)
            .map(|pod| pod.request)
            .collect();
        let rejected = |reason: &str, why: &dyn Display| Refusal {
            reason: reason.to_owned(),
            message: format!("Pod was rejected: {why}"),
        };
        let (request, refusal) = match (request, &self.rejects) {
            (request, _) if over => (request.unwrap_or_default(), None),
            (Err(error), _) => (
                Request::default(),
                Some(rejected("UnexpectedAdmissionError", &error)),
            ),
            (Ok(request), Some(reason)) => (request, Some(rejected(reason, reason))),
            (Ok(request), None) => (request, refusal(request, &present, self.room)),
        };
        let (sender, receiver) = watch::channel(deletion);
        let active = !over && refusal.is_none();
        known.insert(
            uid,
            Known {
                deletion: sender,
                request,
                active,
            },
        );
        let pods = self.clone();
        running.spawn(async move { pods.live(pod, refusal, receiver).await });
    }

    /// One pod's whole life on this node. Ends early when the pod's object is gone.
    async fn live(&self, pod: Pod, refusal: Option<Refusal>, mut deletion: watch::Receiver<Deletion>) {
        let mut over = is_over(&pod);
        if let Some(refusal) = refusal {
            self.log.note(
                &self.node_name,
                GuestEvent::PodRejected {
                    pod: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
                    reason: refusal.reason.clone(),
                },
            );
            self.report(&pod, &pod_status::rejected(&pod, &refusal)).await;
            over = true;
        }
        let mut place = None;
        if !over && deletion.borrow().is_none() {
            let work = async {
                place = Some(self.place(&pod).await);
                self.report(
                    &pod,
                    &pod_status::patch(&pod, place.as_ref(), Containers::Running),
                )
                .await;
                self.exit(&pod).await;
                self.report(
                    &pod,
                    &pod_status::patch(&pod, place.as_ref(), Containers::Exited(0)),
                )
                .await;
            };
            over = tokio::select! {
                () = work => true,
                _ = deletion.wait_for(Option::is_some) => false,
            };
        }
        let Ok(grace) = deletion
            .wait_for(Option::is_some)
            .await
            .map(|grace| grace.unwrap_or_default())
        else {
            return;
        };
        if !over {
            let code = self.stop(&pod, grace).await;
            let stopped = pod_status::patch(&pod, place.as_ref(), Containers::Exited(code));
            self.report(&pod, &stopped).await;
        }
        self.confirm(&pod).await;
    }

    /// Resolves when the pod's containers exit by themselves: a launcher with its domain.
    async fn exit(&self, pod: &Pod) {
        if let Some(vmi) = pod.labels().get(CREATED_BY) {
            return self.domains.ended(vmi).await;
        }
        exit(pod).await;
    }

    /// Resolves when the pod's processes, which were told to stop, have done so or their grace is over, and gives their
    /// exit code. A launcher takes as long as its VM does, by that one's script.
    async fn stop(&self, pod: &Pod, grace: Duration) -> i32 {
        if let Some(vmi) = pod.labels().get(CREATED_BY) {
            self.domains.ended(vmi).await;
            return 0;
        }
        sleep(stop_time(pod).min(grace)).await;
        TERMINATED
    }

    async fn place(&self, pod: &Pod) -> Place {
        let host_ip = internal_ip(&self.node).await;
        let on_host_network = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.host_network)
            .unwrap_or_default();
        let pod_ip = match &self.addresses {
            Addresses::OfAHost { number, next } if !on_host_network => {
                let n = next.fetch_add(1, Ordering::Relaxed);
                format!("10.{}.{}.{}", 100 + number, n / 250 % 250, n % 250 + 1)
            }
            _ => host_ip.clone(),
        };
        Place { host_ip, pod_ip }
    }

    /// Writes the pod's status until it is taken, refused for good, or the pod is gone.
    async fn report(&self, pod: &Pod, body: &Value) {
        let (pods, params, body) = (self.api(pod), PatchParams::default(), Patch::Strategic(body));
        self.write("writing a pod's status", || async {
            pods.patch_status(&pod.name_any(), &params, &body).await.map(drop)
        })
        .await;
    }

    /// Says that the containers are gone, which ends a graceful deletion.
    async fn confirm(&self, pod: &Pod) {
        let this_one = Preconditions {
            uid: pod.uid(),
            ..Preconditions::default()
        };
        let now = DeleteParams::default().grace_period(0).preconditions(this_one);
        let pods = self.api(pod);
        self.write("confirming a pod's deletion", || async {
            pods.delete(&pod.name_any(), &now).await.map(drop)
        })
        .await;
    }

    async fn write<F: Future<Output = kube::Result<()>>>(&self, what: &str, mut write: impl FnMut() -> F) {
        persist(what, || {
            let written = write();
            async {
                match written.await {
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                    Err(error) => {
                        self.log.note_if_forbidden(&self.node_name, what, &error);
                        Err(error)
                    }
                    Ok(()) => Ok(()),
                }
            }
        })
        .await;
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn deletion(pod: &Pod) -> Deletion {
    pod.metadata.deletion_timestamp.as_ref()?;
    let grace = pod
        .metadata
        .deletion_grace_period_seconds
        .and_then(|s| u64::try_from(s).ok());
    Some(grace.map_or(DEFAULT_GRACE, Duration::from_secs))
}

/// Resolves when the pod's containers exit by themselves.
async fn exit(pod: &Pod) {
    let policy = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    let annotated = pod.annotations().get(EXIT_AFTER_ANNOTATION).map(String::as_str);
    match (annotated, policy) {
        (Some("never"), _) | (None, "Always") => std::future::pending().await,
        (after, _) => {
            let after = after.and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_EXIT);
            sleep(seconds(after)).await;
        }
    }
}

/// What the pod's processes take to stop once they are told to.
fn stop_time(pod: &Pod) -> Duration {
    let annotated = pod
        .annotations()
        .get(STOP_AFTER_ANNOTATION)
        .and_then(|text| text.parse().ok());
    annotated.map_or(Duration::ZERO, seconds)
}
