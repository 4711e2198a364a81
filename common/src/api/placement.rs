use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Which wishes of a pod count for the choice of its VM's host, and what its Node promises.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct PlacementOptions {
    /// Keys of host labels that pods may select, spread over and be near to, beside zone, region, instance type and
    /// hostname. A pod's Node gets those that the pod selects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 317)))]
    pub host_labels: Vec<String>,
    /// Keys of host taints that a pod's own tolerations count for. Its VM tolerates no others, but for `vm.tolerations`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 317)))]
    pub host_taints: Vec<String>,
    /// Labels that each marooned Node carries, so that pods which select them fit. None that MaroonedPods or a host
    /// gives it (hostname, zone, region, operating system, architecture).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: BTreeMap<String, String>,
    /// Whether the VMs of one controller's pods go to different hosts and zones where they can, as the scheduler's default
    /// does with ordinary pods.
    pub spread_replicas: SpreadReplicas,
}

/// Whether the VMs of one controller's pods go to different hosts and zones where they can.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SpreadReplicas {
    /// They do.
    #[default]
    Preferred,
    /// Only where the pods say so.
    Off,
}

/// Where a pod's VM goes, and what its Node carries for that: what became of the pod's own placement, frozen when the
/// record is made.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct VmPlacement {
    /// Fingerprint of what the pod asked for; a pod that asks for something else by now needs another VM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub asked: String,
    /// Labels of the VM and its launcher pod, by which other VMs find it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Affinity of the launcher pod, as in a pod's `spec.affinity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Affinity>,
    /// Spread of the launcher pod, as in a pod's `spec.topologySpreadConstraints`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// The pod's own tolerations that its launcher pod has too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Keys of labels that the Node has as the VM's host has them, beside zone and region.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_labels: Vec<String>,
    /// Labels that the Node has by the configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: BTreeMap<String, String>,
}

/// The whole schema of an affinity would be most of the CRD. The reconciler alone writes it, and KubeVirt checks it.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true})
}

fn any_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}})
}
