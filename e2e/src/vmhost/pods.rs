//! The pods of one node, run as a kubelet does: to Running and Ready, to their end, and away within their grace.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::script::{EXIT_AFTER_ANNOTATION, seconds};

/// What a container's process takes to stop once it is told to.
const STOP_TIME: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_millis(200);
const DEFAULT_EXIT: f64 = 1.0;

/// What a node can give to pods.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) cpu_milli: u64,
    pub(super) memory_bytes: u64,
}

/// Gives a pod its address.
pub(super) type Addresses = Arc<dyn Fn() -> String + Send + Sync>;

/// The pods of one node.
#[derive(Clone)]
pub(super) struct Pods {
    pub(super) client: Client,
    pub(super) node: String,
    pub(super) host_ip: String,
    pub(super) pod_ip: Addresses,
    pub(super) room: Room,
}

type Deletions = Arc<Mutex<HashMap<String, watch::Sender<bool>>>>;

impl Pods {
    /// Runs every pod that is bound to this node, for ever.
    pub(super) async fn run(self) {
        let bound = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let mut events = watch_objects(Api::<Pod>::all(self.client.clone()), bound)
            .default_backoff()
            .boxed();
        let deletions = Deletions::default();
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => self.see(&pod, &deletions, &mut running),
                    Some(Ok(Event::Delete(pod))) => {
                        lock(&deletions).remove(&pod.uid().unwrap_or_default());
                    }
                    Some(Ok(Event::Init | Event::InitDone)) => {}
                    Some(Err(error)) => tracing::debug!(node = self.node, %error, "a kubelet's pod watch failed"),
                    None => return,
                },
                Some(_) = running.join_next() => {}
            }
        }
    }

    fn see(&self, pod: &Pod, deletions: &Deletions, running: &mut JoinSet<()>) {
        let Some(uid) = pod.uid() else { return };
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let mut known = lock(deletions);
        if let Some(deletion) = known.get(&uid) {
            deletion.send_if_modified(|told| std::mem::replace(told, deleting) != deleting);
            return;
        }
        let (sender, deletion) = watch::channel(deleting);
        known.insert(uid, sender);
        let (this, pod) = (self.clone(), pod.clone());
        running.spawn(async move { this.live(pod, deletion).await });
    }

    /// One pod's whole life on this node.
    async fn live(&self, pod: Pod, mut deletion: watch::Receiver<bool>) {
        let phase = pod
            .status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .unwrap_or_default();
        let mut over = matches!(phase, "Succeeded" | "Failed");
        if !over && let Some(reason) = self.refusal(&pod) {
            self.report(
                &pod,
                json!({"phase": "Failed", "reason": reason,
                "message": format!("Pod was rejected: node didn't have enough resource ({reason})")}),
            )
            .await;
            over = true;
        }
        let ip = (self.pod_ip)();
        if !over && !*deletion.borrow() {
            self.report(&pod, status(&pod, &self.host_ip, &ip, &State::Running))
                .await;
            tokio::select! {
                () = exit(&pod) => {
                    self.report(&pod, status(&pod, &self.host_ip, &ip, &State::Exited(0))).await;
                    over = true;
                }
                _ = told_to_stop(&mut deletion) => {}
            }
        }
        if !told_to_stop(&mut deletion).await {
            return;
        }
        if !over {
            tokio::time::sleep(STOP_TIME).await;
            self.report(&pod, status(&pod, &self.host_ip, &ip, &State::Exited(143)))
                .await;
        }
        self.confirm(&pod).await;
    }

    /// What a kubelet's admission says to a pod that is bound and does not fit.
    fn refusal(&self, pod: &Pod) -> Option<&'static str> {
        let request = maroonedpods_common::sizing::effective_request(pod.spec.as_ref()?).ok()?;
        if request.cpu_milli > self.room.cpu_milli {
            return Some("OutOfcpu");
        }
        (request.memory_bytes > self.room.memory_bytes).then_some("OutOfmemory")
    }

    /// Writes the pod's status until it is taken or the pod is gone.
    async fn report(&self, pod: &Pod, status: Value) {
        let body = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        let (pods, params) = (self.pods(pod), PatchParams::default());
        retry(&self.node, || async {
            pods.patch_status(&pod.name_any(), &params, &body).await.map(drop)
        })
        .await;
    }

    /// Confirms that the containers are gone, which ends a graceful deletion.
    async fn confirm(&self, pod: &Pod) {
        let preconditions = Preconditions {
            uid: pod.uid(),
            ..Preconditions::default()
        };
        let now = DeleteParams::default()
            .grace_period(0)
            .preconditions(preconditions);
        let pods = self.pods(pod);
        retry(&self.node, || async {
            pods.delete(&pod.name_any(), &now).await.map(drop)
        })
        .await;
    }

    fn pods(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }
}

/// Repeats a write until it is taken, refused for good, or what it is for is gone.
async fn retry<F: Future<Output = kube::Result<()>>>(node: &str, mut write: impl FnMut() -> F) {
    loop {
        match write().await {
            Ok(()) => return,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => return,
            Err(error) => tracing::debug!(node, %error, "a kubelet's write failed"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn lock(deletions: &Deletions) -> std::sync::MutexGuard<'_, HashMap<String, watch::Sender<bool>>> {
    deletions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the pod's deletion is asked for; `false` when the object is gone instead.
async fn told_to_stop(deletion: &mut watch::Receiver<bool>) -> bool {
    deletion.wait_for(|deleting| *deleting).await.is_ok()
}

/// Resolves when the pod's containers exit by themselves.
async fn exit(pod: &Pod) {
    let policy = pod
        .spec
        .as_ref()
        .and_then(|s| s.restart_policy.as_deref())
        .unwrap_or("Always");
    let annotated = pod.annotations().get(EXIT_AFTER_ANNOTATION).map(String::as_str);
    match (annotated, policy) {
        (Some("never"), _) | (None, "Always") => std::future::pending().await,
        (after, _) => {
            let after = after.and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_EXIT);
            tokio::time::sleep(seconds(after)).await;
        }
    }
}

enum State {
    Running,
    Exited(i32),
}

/// A pod's status as a kubelet writes it.
fn status(pod: &Pod, host_ip: &str, pod_ip: &str, state: &State) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (phase, ready, container) = match state {
        State::Running => ("Running", "True", json!({"running": {"startedAt": now}})),
        State::Exited(code) => {
            let reason = if *code == 0 { "Completed" } else { "Error" };
            let ended = json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": now}});
            (if *code == 0 { "Succeeded" } else { "Failed" }, "False", ended)
        }
    };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers: Vec<_> = containers
        .map(|c| {
            json!({"name": c.name, "image": c.image, "imageID": "", "restartCount": 0,
                "ready": ready == "True", "started": ready == "True", "state": container})
        })
        .collect();
    let condition =
        |type_: &str, status: &str| json!({"type": type_, "status": status, "lastTransitionTime": now});
    json!({
        "phase": phase,
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "podIP": pod_ip,
        "podIPs": [{"ip": pod_ip}],
        "startTime": now,
        "conditions": [
            condition("PodReadyToStartContainers", "True"),
            condition("Initialized", "True"),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": containers,
    })
}
