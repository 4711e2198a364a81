use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use crate::PodUid;

/// Our record of one marooned pod: what its VM was built from and how far it is. Cluster-scoped, named after
/// the pod's UID, made first and deleted last, so that nothing is forgotten.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "maroonedpods.io",
    version = "v1alpha1",
    kind = "MaroonedNode",
    plural = "maroonednodes",
    shortname = "mn",
    status = "MaroonedNodeStatus",
    derive = "PartialEq",
    doc = "The node of one marooned pod: made by the reconciler, not by hand.",
    validation = Rule::new("self.metadata.name == 'marooned-' + self.spec.podRef.uid")
        .message("a MaroonedNode is named marooned-<pod uid>"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.podRef.namespace"),
    printcolumn(name = "Pod", type_ = "string", json_path = ".spec.podRef.name"),
    printcolumn(name = "Node", type_ = "string", json_path = ".metadata.name", priority = 1),
    printcolumn(name = "VM", type_ = "string", json_path = ".status.vmiName"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.message")
)]
#[serde(rename_all = "camelCase")]
pub struct MaroonedNodeSpec {
    /// The pod that the node is for.
    #[x_kube(validation = Rule::new("self == oldSelf").message("podRef is immutable: a node serves one pod in its life"))]
    pub pod_ref: PodRef,
    /// The pod uses its node's own network (`hostNetwork`).
    #[serde(default)]
    pub host_network: bool,
    /// Size of the VM.
    pub resources: VmResources,
    /// Hash of the configuration that the VM is built from; later configurations do not touch it.
    pub config_hash: String,
    /// The parts of the configuration that the VM is built from.
    pub vm: VmSpec,
    /// Where the VM goes.
    #[serde(default)]
    pub placement: super::VmPlacement,
}

/// A pod, by all three of its names.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    #[schemars(length(min = 36, max = 36))]
    pub uid: PodUid,
}

/// Size of a VM and what of it a pod can use.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VmResources {
    /// Whole vCPUs.
    #[schemars(range(min = 1))]
    pub cpu: u32,
    /// Guest memory in MiB.
    #[schemars(range(min = 1))]
    pub memory_mi: u64,
    /// Size of the guest's scratch disk in MiB: images, logs, emptyDirs.
    #[schemars(range(min = 1))]
    pub disk_mi: u64,
    /// Memory that the guest's kubelet reserves for the system and itself, in MiB.
    pub reserved_memory_mi: u64,
    /// CPU that the guest's kubelet reserves, in thousandths of a CPU.
    pub reserved_cpu_milli: u64,
}

/// The parts of the configuration that a VM is built from, frozen when the record is made.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VmSpec {
    /// Container image of the node's disk.
    pub node_image: String,
    /// Processor architecture.
    #[serde(default)]
    pub architecture: super::Architecture,
    /// Kernel boot out of the node image; the disk's own loader when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_boot: Option<super::KernelBootConfig>,
    /// Whether a guest that reboots ends its VM: KubeVirt accepted `rebootPolicy: Terminate` when this record was made. Each
    /// launch asks for what was last known. Elsewhere a guest that reboots starts again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminate_on_reboot: bool,
    /// Prefix of the identity taint.
    pub taint_key: String,
    /// How the guest joins.
    pub join: super::Join,
    /// Placement and binding.
    pub options: super::VmOptions,
}

/// How far a marooned node is. Written for people and for the reconciler's deadlines; nothing here is a secret.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct MaroonedNodeStatus {
    /// The stage reached.
    pub phase: Phase,
    /// One sentence on what is being waited for, or why it ended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `Launched`, `Registered`, `Ready`, `Lifted`.
    pub conditions: Vec<Condition>,
    /// The attempt under way, from 1.
    pub attempts: u32,
    /// The pause after a failed attempt ends at this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// Name of this attempt's VMI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmi_name: Option<String>,
    /// UID of this attempt's VMI. Recorded before the VM is trusted with an address.
    #[serde(skip_serializing_if = "Option::is_none", rename = "vmiUID")]
    pub vmi_uid: Option<String>,
    /// UID of the Node.
    #[serde(skip_serializing_if = "Option::is_none", rename = "nodeUID")]
    pub node_uid: Option<String>,
    /// The Node's InternalIP: the VMI's interface address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The guest's boot id when its kubelet joined; another one later is a reboot.
    #[serde(skip_serializing_if = "Option::is_none", rename = "bootID")]
    pub boot_id: Option<String>,
    /// When each stage was reached.
    pub stages: StageTimes,
}

/// When each stage was reached, by the reconciler's clock.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct StageTimes {
    /// The VMI of this attempt exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launched: Option<Time>,
    /// The kubelet has spoken with its own certificate; the join credential is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered: Option<Time>,
    /// The Node was seen Ready and verified as this VM's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Time>,
    /// The pod's gate was lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifted: Option<Time>,
}

/// The stage a marooned node has reached.
#[derive(
    JsonSchema,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    IntoStaticStr,
    VariantArray,
)]
pub enum Phase {
    /// The record exists; no VM yet, or none again after a failed attempt.
    #[default]
    Pending,
    /// The VMI exists.
    Launched,
    /// The kubelet has spoken with its own certificate.
    Registered,
    /// The pod's gate is lifted.
    Lifted,
    /// As many attempts as are allowed have failed; after a long pause there are more.
    Failed,
}
