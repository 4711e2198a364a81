//! What a kubelet reports of its node: status, Lease, CSINode. Measured on a real 1.36 kubelet with
//! `registerNode: false` and `--cloud-provider=external`.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
/// kubelet's own period is 10 s; so is ours.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a kubelet knows of its machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) node: String,
    pub(super) system_uuid: String,
    pub(super) port: u16,
    pub(super) capacity: Value,
    pub(super) allocatable: Value,
}

impl Machine {
    /// The status that a kubelet patches: no addresses, for the cloud provider is external.
    pub(super) fn status(&self, boot_id: &str, ready: bool) -> Value {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = |type_: &str, status: &str, reason: &str| {
            json!({"type": type_, "status": status, "reason": reason, "message": reason,
                "lastHeartbeatTime": now, "lastTransitionTime": now})
        };
        let readiness = if ready {
            ("True", "KubeletReady")
        } else {
            ("False", "KubeletNotReady")
        };
        json!({
            "capacity": self.capacity,
            "allocatable": self.allocatable,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", readiness.0, readiness.1),
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "nodeInfo": {
                "machineID": self.system_uuid.replace('-', ""),
                "systemUUID": self.system_uuid,
                "bootID": boot_id,
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
}

/// Writes the Node's status.
pub(super) async fn report(client: &Client, machine: &Machine, boot_id: &str, ready: bool) -> Result<Node> {
    let body = Patch::Strategic(json!({"status": machine.status(boot_id, ready)}));
    let nodes = Api::<Node>::all(client.clone());
    Ok(nodes
        .patch_status(&machine.node, &PatchParams::default(), &body)
        .await?)
}

/// Renews the Node's Lease, or makes it.
pub(super) async fn renew_lease(client: &Client, node: &Node) -> Result<()> {
    let name = node.metadata.name.clone().unwrap_or_default();
    let leases = Api::<Lease>::namespaced(client.clone(), LEASE_NAMESPACE);
    let renewed = json!({"spec": {"renewTime": MicroTime(Timestamp::now())}});
    match leases
        .patch(&name, &PatchParams::default(), &Patch::Merge(renewed))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        patched => return Ok(patched.map(drop)?),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![owned_by(node)]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    leases.create(&PostParams::default(), &lease).await?;
    Ok(())
}

/// Makes the CSINode, once.
pub(super) async fn create_csi_node(client: &Client, node: &Node) -> Result<()> {
    let csi_node = CSINode {
        metadata: ObjectMeta {
            name: node.metadata.name.clone(),
            owner_references: Some(vec![owned_by(node)]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec::default(),
    };
    match Api::<CSINode>::all(client.clone())
        .create(&PostParams::default(), &csi_node)
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        created => Ok(created.map(drop)?),
    }
}

fn owned_by(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}
