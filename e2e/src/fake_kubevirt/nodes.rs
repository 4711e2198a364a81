//! Simulated host nodes: kubelets that register themselves, and run launchers and ordinary pods.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use super::admission::Room;
use super::domains::Domains;
use super::kubelet::{self, Kubelet, Machine};
use super::launcher::SCHEDULABLE;
use super::log::GuestLog;
use super::pods::Addresses;
use super::retry::persist;

/// More than any test or benchmark asks for.
const ROOM: Room = Room {
    cpu_milli: 4_000_000,
    memory_bytes: 1 << 43,
    storage_bytes: 1 << 45,
    pods: 2000,
};
const KUBELET_PORT: u16 = 10250;

/// One host.
pub(super) struct HostNode {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) domains: Domains,
    pub(super) log: GuestLog,
}

impl HostNode {
    /// Registers the Node and works for ever.
    pub(super) async fn run(self) {
        let uuid =
            |what: &str| Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{what}.{}", self.name).as_bytes());
        let machine = Machine {
            system_uuid: uuid("system").to_string(),
            boot_id: uuid("boot").to_string(),
            kubelet_port: KUBELET_PORT,
            capacity: ROOM,
            allocatable: ROOM,
        };
        persist("registering a host node", || self.register(&machine)).await;
        let kubelet = Kubelet {
            client: self.client,
            name: self.name,
            machine,
            addresses: Addresses::OfAHost {
                number: self.index,
                next: Arc::new(AtomicU32::new(1)),
            },
            rejects: None,
            domains: self.domains,
            log: self.log,
        };
        let ready = watch::Sender::new(true);
        kubelet.run(ready.subscribe(), &watch::Sender::new(None)).await;
    }

    async fn register(&self, machine: &Machine) -> anyhow::Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let addresses = json!([
            {"type": "InternalIP", "address": format!("10.98.0.{}", 10 + self.index)},
            {"type": "Hostname", "address": self.name},
        ]);
        let mut status = kubelet::status(machine, true);
        status["addresses"] = addresses.clone();
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": self.name, "labels": {
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": self.name,
                "topology.kubernetes.io/zone": "zone-a",
                "topology.kubernetes.io/region": "region-1",
                SCHEDULABLE: "true",
            }},
            "status": status,
        }))?;
        match nodes.create(&PostParams::default(), &node).await {
            // It was here before: its address is all that a kubelet's reports do not say.
            Err(Error::Api(status)) if status.code == 409 => {
                let patch = Patch::Strategic(json!({"status": {"addresses": addresses}}));
                nodes
                    .patch_status(&self.name, &PatchParams::default(), &patch)
                    .await?;
            }
            created => drop(created?),
        }
        Ok(())
    }
}
