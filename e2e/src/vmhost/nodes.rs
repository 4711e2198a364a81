//! Simulated host nodes: they register themselves and run ordinary pods and launchers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::kubelet::{self, HEARTBEAT, Machine};
use super::pods::{Pods, Room};

const CPUS: u32 = 256;
const MEMORY_GI: u32 = 1024;
const KUBELET_PORT: u16 = 10250;

/// Registers the host node and runs its pods, for ever.
pub(super) async fn run(index: usize, name: String, client: Client) -> Result<()> {
    let host_ip = format!("10.98.0.{}", 10 + index);
    let resources = json!({"cpu": CPUS.to_string(), "memory": format!("{MEMORY_GI}Gi"), "pods": "2000",
        "ephemeral-storage": "16Ti"});
    let machine = Machine {
        node: name.clone(),
        system_uuid: uuid::Uuid::new_v4().to_string(),
        port: KUBELET_PORT,
        capacity: resources.clone(),
        allocatable: resources,
    };
    let boot_id = uuid::Uuid::new_v4().to_string();
    let node = register(&client, &machine, &boot_id, &host_ip)
        .await
        .with_context(|| format!("host node {name}"))?;
    kubelet::create_csi_node(&client, &node).await?;
    let next = AtomicU32::new(2);
    let pod_ip = Arc::new(move || {
        let n = next.fetch_add(1, Ordering::Relaxed);
        format!("10.{}.{}.{}", 100 + index, n / 250 % 250, n % 250 + 1)
    });
    let room = Room {
        cpu_milli: u64::from(CPUS) * 1000,
        memory_bytes: u64::from(MEMORY_GI) << 30,
    };
    let pods = Pods {
        client: client.clone(),
        node: name,
        host_ip,
        pod_ip,
        room,
    };
    tokio::select! {
        () = pods.run() => Ok(()),
        ended = heartbeat(&client, &machine, &boot_id) => ended,
    }
}

async fn register(client: &Client, machine: &Machine, boot_id: &str, host_ip: &str) -> Result<Node> {
    let mut status = machine.status(boot_id, true);
    status["addresses"] =
        json!([{"type": "InternalIP", "address": host_ip}, {"type": "Hostname", "address": machine.node}]);
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": machine.node, "labels": {
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "kubernetes.io/hostname": machine.node,
            "topology.kubernetes.io/zone": "zone-a",
            "topology.kubernetes.io/region": "region-1",
        }},
        "status": status,
    }))?;
    let nodes = Api::<Node>::all(client.clone());
    let made = nodes.create(&PostParams::default(), &node).await?;
    // Creation as a node identity is made not ready by admission until the first status report.
    let patch = Patch::Strategic(json!({"status": node.status}));
    nodes
        .patch_status(&machine.node, &PatchParams::default(), &patch)
        .await?;
    Ok(made)
}

async fn heartbeat(client: &Client, machine: &Machine, boot_id: &str) -> Result<()> {
    loop {
        match kubelet::report(client, machine, boot_id, true).await {
            Ok(node) => kubelet::renew_lease(client, &node).await?,
            Err(error) => tracing::debug!(node = machine.node, %error, "a host's heartbeat failed"),
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}
