//! What a kubelet says of its node: status, Lease, `CSINode`. Measured on a real 1.36 kubelet with
//! `registerNode: false` and `--cloud-provider=external`.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::admission::Room;
use super::domains::Domains;
use super::log::GuestLog;
use super::pods::{Addresses, Pods};
use super::retry::persist;
use super::vmi::now;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
/// A quarter of the Lease, as in kubelet.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// How often the status is written though nothing has changed (`nodeStatusReportFrequency`).
const REPORT_PERIOD: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(200);

/// What a kubelet finds on its machine and in its configuration.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// As the firmware's tables show it: lower case.
    pub(super) system_uuid: String,
    pub(super) boot_id: String,
    pub(super) kubelet_port: u16,
    pub(super) capacity: Room,
    pub(super) allocatable: Room,
}

/// A kubelet with its own certificate.
#[derive(Clone)]
pub(super) struct Kubelet {
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) machine: Machine,
    pub(super) addresses: Addresses,
    /// Why it rejects every pod, if it does.
    pub(super) rejects: Option<String>,
    /// See [`Pods::domains`].
    pub(super) domains: Domains,
    pub(super) log: GuestLog,
}

impl Kubelet {
    /// Works for ever: follows its own Node, which it never makes, reports on it, and runs its pods. `ready` is
    /// what it reports of itself; `node` gets its own Node as it sees it.
    pub(super) async fn run(&self, ready: watch::Receiver<bool>, node: &watch::Sender<Option<Node>>) {
        let pods = Pods {
            client: self.client.clone(),
            node_name: self.name.clone(),
            node: node.subscribe(),
            addresses: self.addresses.clone(),
            room: self.machine.allocatable,
            rejects: self.rejects.clone(),
            domains: self.domains.clone(),
            log: self.log.clone(),
        };
        tokio::join!(
            self.observe(node),
            self.report(ready, node.subscribe()),
            self.renew_lease(node.subscribe()),
            self.create_csi_node(node.subscribe()),
            pods.run(),
        );
    }

    async fn observe(&self, own: &watch::Sender<Option<Node>>) {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = watcher(self.nodes(), only).default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(node) | Event::InitApply(node)) => drop(own.send_replace(Some(node))),
                Ok(Event::Delete(_)) => drop(own.send_replace(None)),
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => {
                    tracing::debug!(node = self.name, %error, "a kubelet's watch of its Node failed");
                }
            }
        }
    }

    /// Writes the Node's status when there is something new to say, and now and then.
    async fn report(&self, mut ready: watch::Receiver<bool>, mut node: watch::Receiver<Option<Node>>) {
        let mut said = None;
        let mut due = Instant::now();
        loop {
            let own = node.borrow_and_update().clone();
            let news = own.as_ref().map(|own| (own.uid(), *ready.borrow_and_update()));
            if let (Some(own), Some((_, ready))) = (&own, &news)
                && (news != said || due <= Instant::now())
            {
                let body = Patch::Strategic(report(own, &self.machine, *ready));
                match self
                    .nodes()
                    .patch_status(&self.name, &PatchParams::default(), &body)
                    .await
                {
                    Ok(_) => {
                        said.clone_from(&news);
                        due = Instant::now() + REPORT_PERIOD;
                    }
                    Err(error) => {
                        tracing::debug!(node = self.name, %error, "writing a Node's status failed");
                        self.log
                            .note_if_forbidden(&self.name, "writing the Node's status", &error);
                        sleep(RETRY).await;
                        continue;
                    }
                }
            }
            // A script that is over drops its end of `ready`: what it said last stays true.
            tokio::select! {
                _ = node.changed() => {}
                Ok(()) = ready.changed() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    async fn renew_lease(&self, node: watch::Receiver<Option<Node>>) {
        let leases = Api::<Lease>::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let owner = owner(node).await;
        loop {
            let now = MicroTime(jiff::Timestamp::now());
            persist("renewing a Node's Lease", || async {
                let renewed = Patch::Merge(json!({"spec": {"renewTime": now}}));
                match leases.patch(&self.name, &PatchParams::default(), &renewed).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    patched => return self.noting("renewing the Node's Lease", patched.map(drop)),
                }
                let lease = Lease {
                    metadata: self.owned_by(&owner),
                    spec: Some(LeaseSpec {
                        holder_identity: Some(self.name.clone()),
                        lease_duration_seconds: Some(LEASE_SECONDS),
                        renew_time: Some(now.clone()),
                        ..LeaseSpec::default()
                    }),
                };
                let created = leases.create(&PostParams::default(), &lease).await;
                self.noting("writing the Node's Lease", created.map(drop))
            })
            .await;
            sleep(LEASE_PERIOD).await;
        }
    }

    async fn create_csi_node(&self, node: watch::Receiver<Option<Node>>) {
        let csi_node = CSINode {
            metadata: self.owned_by(&owner(node).await),
            spec: CSINodeSpec::default(),
        };
        let csi_nodes = Api::all(self.client.clone());
        persist("making a CSINode", || async {
            match csi_nodes.create(&PostParams::default(), &csi_node).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                created => self.noting("making the CSINode", created.map(drop)),
            }
        })
        .await;
    }

    fn noting(&self, what: &str, written: kube::Result<()>) -> kube::Result<()> {
        written.inspect_err(|error| self.log.note_if_forbidden(&self.name, what, error))
    }

    fn owned_by(&self, node: &OwnerReference) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            owner_references: Some(vec![node.clone()]),
            ..ObjectMeta::default()
        }
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }
}

/// Waits for the Node and gives a reference to it.
async fn owner(mut node: watch::Receiver<Option<Node>>) -> OwnerReference {
    let node = node
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|node| node.clone());
    match node.and_then(|node| node.owner_ref(&())) {
        Some(owner) => owner,
        None => std::future::pending().await,
    }
}

/// The status patch of a kubelet. Addresses are its cloud provider's, so it names its host only where there are
/// none; and it completes labels that it misses, in the same request.
fn report(own: &Node, machine: &Machine, ready: bool) -> Value {
    let name = own.name_any();
    let mut body = json!({"status": status(machine, ready)});
    if own
        .status
        .as_ref()
        .and_then(|s| s.addresses.as_ref())
        .is_none_or(Vec::is_empty)
    {
        body["status"]["addresses"] = json!([{"type": "Hostname", "address": name}]);
    }
    // Not the host's name: that is for registration (kubelet 1.36, `updateNode`).
    let expected = [("kubernetes.io/os", "linux"), ("kubernetes.io/arch", "amd64")];
    for (label, value) in expected {
        if !own.labels().contains_key(label) {
            body["metadata"]["labels"][label] = json!(value);
        }
    }
    body
}

/// `status` of the Node of a machine, without addresses.
pub(super) fn status(machine: &Machine, ready: bool) -> Value {
    let now = now();
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({"type": type_, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let readiness = if ready {
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")
    } else {
        let why = "PLEG is not healthy: pleg was last seen active 3m0s ago";
        condition("Ready", "False", "KubeletNotReady", why)
    };
    let resources = |room: Room| {
        json!({
            "cpu": format!("{}m", room.cpu_milli),
            "memory": room.memory_bytes.to_string(),
            "pods": room.pods.to_string(),
            "ephemeral-storage": room.storage_bytes.to_string(),
        })
    };
    json!({
        "capacity": resources(machine.capacity),
        "allocatable": resources(machine.allocatable),
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            readiness,
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": machine.kubelet_port}},
        "nodeInfo": {
            "machineID": machine.system_uuid.replace('-', ""),
            "systemUUID": machine.system_uuid,
            "bootID": machine.boot_id,
            "kernelVersion": "6.1.0-56-cloud-amd64",
            "osImage": "Debian GNU/Linux 12 (bookworm)",
            "containerRuntimeVersion": "containerd://2.4.2",
            "kubeletVersion": "v1.36.3",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        cpu_milli: 1000,
        memory_bytes: 1 << 29,
        storage_bytes: 1 << 30,
        pods: 110,
    };

    fn machine() -> Machine {
        Machine {
            system_uuid: "u".to_owned(),
            boot_id: "b".to_owned(),
            kubelet_port: 65250,
            capacity: ROOM,
            allocatable: ROOM,
        }
    }

    #[test]
    fn addresses_and_labels_that_are_there_stay_the_others() {
        let whole: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        }))
        .unwrap();
        let body = report(&whole, &machine(), true);
        assert!(body.get("metadata").is_none() && body["status"].get("addresses").is_none());
    }

    #[test]
    fn what_a_bare_node_misses_is_completed() {
        let bare: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        let body = report(&bare, &machine(), false);
        assert_eq!(
            body["metadata"]["labels"],
            json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"})
        );
        assert_eq!(body["status"]["addresses"][0]["type"], "Hostname");
        assert_eq!(body["status"]["conditions"][3]["status"], "False");
    }
}
