//! What happens to each marooned pod, as it happens: one line a stage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Client, ResourceExt};
use maroonedpods_common::api::{MaroonedNode, Phase};
use maroonedpods_common::names;
use tokio::sync::watch;

use super::screen::Screen;
use crate::fake_kubevirt;

/// A stage of a marooned pod's life, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The webhook has gated it.
    Gated,
    /// Its VM exists.
    Launched,
    /// Its VM runs.
    Booted,
    /// Its VM's kubelet has joined.
    Registered,
    /// Its Node is ready.
    Ready,
    /// The reconciler has lifted the gate.
    Lifted,
    /// Its containers run.
    Running,
    /// Its containers have finished.
    Finished,
    /// The pod is gone.
    Deleted,
    /// Its VM is gone.
    VmGone,
    /// Its Node is gone.
    NodeGone,
    /// The record is gone, the last of all.
    Released,
}

impl Stage {
    fn says(self) -> &'static str {
        match self {
            Self::Gated => {
                "Gated       the webhook added gate, selector, tolerations and scheduler; the pod waits"
            }
            Self::Launched => "Launched    token, seed and VirtualMachineInstance exist",
            Self::Booted => "Booted      the VM runs",
            Self::Registered => "Registered  its kubelet has a certificate of its own; the token is deleted",
            Self::Ready => "Ready       its kubelet reports the node ready",
            Self::Lifted => "Lifted      gate removed and pod pinned to its node, in one patch",
            Self::Running => "Running     on its own node",
            Self::Finished => "Finished    its containers have exited",
            Self::Deleted => "Deleted     the pod is gone",
            Self::VmGone => "VM gone     the virtual machine is destroyed",
            Self::NodeGone => "Node gone   the node has left the cluster",
            Self::Released => "Released    the record is gone; nothing is left",
        }
    }
}

/// The stages that each marooned pod was seen in, by pod UID.
pub type Seen = BTreeMap<String, BTreeSet<Stage>>;

/// Prints and remembers.
struct Timeline {
    screen: Arc<Screen>,
    names: BTreeMap<String, String>,
    seen: watch::Sender<Seen>,
}

impl Timeline {
    fn see(&self, uid: &str, stage: Stage) {
        let first = self
            .seen
            .send_if_modified(|seen| seen.entry(uid.to_owned()).or_default().insert(stage));
        if first {
            let name = self.names.get(uid).map_or(uid, String::as_str);
            self.screen.say(&line(name, stage.says()));
        }
    }

    fn pod(&mut self, pod: &Pod, gone: bool) {
        let (Some(uid), Some(spec)) = (pod.uid(), &pod.spec) else {
            return;
        };
        if pod.labels().get(names::MAROON_LABEL).map(String::as_str) != Some(names::MAROON_TRUE) {
            return;
        }
        self.names.insert(
            uid.clone(),
            format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
        );
        if gone {
            return self.see(&uid, Stage::Deleted);
        }
        let gated = spec
            .scheduling_gates
            .iter()
            .flatten()
            .any(|gate| gate.name == names::GATE);
        let pinned = spec
            .node_selector
            .iter()
            .flatten()
            .any(|(key, _)| key == names::IDENTITY_LABEL);
        let phase = pod
            .status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .unwrap_or_default();
        if gated {
            self.see(&uid, Stage::Gated);
        }
        if !gated && pinned {
            self.see(&uid, Stage::Lifted);
        }
        match phase {
            "Running" => self.see(&uid, Stage::Running),
            "Succeeded" | "Failed" => self.see(&uid, Stage::Finished),
            _ => {}
        }
    }

    fn record(&mut self, record: &MaroonedNode, gone: bool) {
        let pod = &record.spec.pod_ref;
        self.names
            .entry(pod.uid.to_string())
            .or_insert_with(|| format!("{}/{}", pod.namespace, pod.name));
        let phase = record.status.as_ref().map(|s| s.phase).unwrap_or_default();
        if phase != Phase::Pending && phase != Phase::Failed {
            self.see(pod.uid.as_str(), Stage::Launched);
        }
        if matches!(phase, Phase::Registered | Phase::Lifted) {
            self.see(pod.uid.as_str(), Stage::Registered);
        }
        if gone {
            self.see(pod.uid.as_str(), Stage::Released);
        }
    }

    fn vmi(&mut self, vmi: &DynamicObject, gone: bool) {
        let name = vmi.name_any();
        let Some(uid) = names::pod_uid_of(&name) else {
            return;
        };
        if gone {
            self.see(uid.as_str(), Stage::VmGone);
        } else if vmi.data["status"]["phase"] == "Running" {
            self.see(uid.as_str(), Stage::Booted);
        }
    }

    fn node(&mut self, node: &Node, gone: bool) {
        let name = node.name_any();
        let Some(uid) = names::pod_uid_of(&name) else {
            return;
        };
        let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        if gone {
            self.see(uid.as_str(), Stage::NodeGone);
        } else if conditions
            .into_iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
        {
            self.see(uid.as_str(), Stage::Ready);
        }
    }
}

/// A line about a pod.
pub fn line(pod: &str, says: &str) -> String {
    format!("{pod:<32} {says}")
}

/// Watches and prints for ever. What was seen is in `seen`.
pub async fn follow(client: Client, vm_namespace: &str, screen: Arc<Screen>, seen: watch::Sender<Seen>) {
    let mut timeline = Timeline {
        screen,
        names: BTreeMap::new(),
        seen,
    };
    let all = watcher::Config::default;
    let vmis = Api::namespaced_with(client.clone(), vm_namespace, &fake_kubevirt::resource());
    let mut pods = watch_objects(Api::<Pod>::all(client.clone()), all())
        .default_backoff()
        .boxed();
    let mut records = watch_objects(Api::<MaroonedNode>::all(client.clone()), all())
        .default_backoff()
        .boxed();
    let mut nodes = watch_objects(Api::<Node>::all(client), all())
        .default_backoff()
        .boxed();
    let mut vmis = watch_objects(vmis, all()).default_backoff().boxed();
    loop {
        tokio::select! {
            // What was written first is looked at first, where several are there to be looked at.
            biased;
            event = pods.next() => with(event, |pod, gone| timeline.pod(pod, gone)),
            event = records.next() => with(event, |record, gone| timeline.record(record, gone)),
            event = vmis.next() => with(event, |vmi, gone| timeline.vmi(vmi, gone)),
            event = nodes.next() => with(event, |node, gone| timeline.node(node, gone)),
        }
    }
}

fn with<K>(event: Option<watcher::Result<Event<K>>>, look: impl FnOnce(&K, bool)) {
    match event {
        Some(Ok(Event::Apply(object) | Event::InitApply(object))) => look(&object, false),
        Some(Ok(Event::Delete(object))) => look(&object, true),
        Some(Ok(Event::Init | Event::InitDone) | Err(_)) | None => {}
    }
}
