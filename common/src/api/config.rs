use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PlacementOptions;
use crate::names;

/// How marooned VMs are made. Cluster-scoped; the one named `default` is in force.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "maroonedpods.io",
    version = "v1alpha1",
    kind = "MaroonedPodsConfig",
    singular = "maroonedpodsconfig",
    plural = "maroonedpodsconfigs",
    shortname = "mpconfig",
    status = "MaroonedPodsConfigStatus",
    derive = "PartialEq",
    doc = "How marooned VMs are made. The one named \"default\" is in force.",
    validation = Rule::new("self.metadata.name == 'default'")
        .message("there is one MaroonedPodsConfig, and its name is \"default\""),
    validation = Rule::new("!has(self.spec.enableKernelBoot) || !self.spec.enableKernelBoot || !has(self.spec.kernelBootConfig) || has(self.spec.kernelBootConfig.kernelPath) || has(self.spec.kernelBootConfig.initrdPath)")
        .message("kernelBootConfig needs kernelPath or initrdPath when enableKernelBoot is true"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.nodeImage"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].status"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.conditions[?(@.type=='ClusterReady')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MaroonedPodsConfigSpec {
    /// Container image of the node's disk (a KubeVirt containerDisk). A digest is recommended.
    #[schemars(length(min = 1))]
    pub node_image: String,
    /// Boot the kernel named by `kernelBootConfig` out of `nodeImage` instead of the disk's own loader.
    #[serde(default)]
    pub enable_kernel_boot: bool,
    /// Where the kernel and initrd are in `nodeImage`, and the kernel's arguments.
    #[serde(default)]
    pub kernel_boot_config: KernelBootConfig,
    /// Processor architecture of VMs and of `nodeImage`. Defaults to that of the Nodes which match `vm.nodeSelector`, if
    /// they all have the same, else to `amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Floor of a VM's size.
    #[serde(default, rename = "baseVMResources")]
    pub base_vm_resources: BaseVmResources,
    /// What a VM gets beyond its pod's own request: kubelet, container runtime, kernel.
    #[serde(default)]
    pub resource_overhead: ResourceOverhead,
    /// Prefix of the identity taint, `<taintKey>/dedicated=<pod uid>`.
    #[serde(default = "default_taint_key")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub taint_key: String,
    /// How a guest joins the cluster.
    pub join: Join,
    /// How long each stage may take.
    #[serde(default)]
    pub deadlines: Deadlines,
    /// Fresh VMs tried for one pod before a long pause.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub max_attempts: u32,
    /// How much the pods of one namespace may have.
    #[serde(default)]
    pub limits: Limits,
    /// Start the VM while another scheduling gate still holds the pod.
    #[serde(default)]
    pub provision_while_gated: bool,
    /// Where and how VMs run.
    #[serde(default)]
    pub vm: VmOptions,
    /// Which wishes of a pod count for the choice of its VM's host.
    #[serde(default)]
    pub placement: PlacementOptions,
    /// What guests of `nodeImage` offer beyond a plain node, as the image's label `io.maroonedpods.capabilities` lists it:
    /// `sysctl/NAME`, `resource/NAME`, `volume/TYPE`, `csi/DRIVER`, `storage-class/NAME` (one that makes no volumes),
    /// `runtime-class/NAME`, `apparmor`, `seccomp-profiles`, `user-namespaces`, `resource-claims`. One `*` at the end stands
    /// for any rest. A pod that needs another one waits.
    #[serde(default = "default_guest_capabilities")]
    #[schemars(length(max = 256), inner(length(max = 317)))]
    pub guest_capabilities: Vec<String>,
}

/// A processor architecture, by the name that Kubernetes and KubeVirt give it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    #[default]
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Architecture {
    /// Every architecture that VMs can have.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The value of the label `kubernetes.io/arch`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a kernel boot finds its parts inside the node image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct KernelBootConfig {
    /// Absolute path of the kernel.
    pub kernel_path: Option<String>,
    /// Absolute path of the initial RAM disk.
    pub initrd_path: Option<String>,
    /// Kernel command line.
    pub kernel_args: String,
}

impl Default for KernelBootConfig {
    fn default() -> Self {
        Self {
            kernel_path: Some("/boot/vmlinuz".to_owned()),
            initrd_path: Some("/boot/initrd".to_owned()),
            // panic=5: a guest that panics resets, so that its loss is seen: with rebootPolicy its VM ends, else its kubelet
            // comes back with another boot id. Without it, KubeVirt would show a guest that stands still as Running.
            // no_timer_check: when emulated on a busy host, timer interrupts come late, and the kernel's look at
            // whether they come at all ends in a panic. (With KVM it does not look.)
            kernel_args: "console=ttyS0 root=/dev/disk/by-id/virtio-root ro panic=5 no_timer_check"
                .to_owned(),
        }
    }
}

/// Floor of a VM's size.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct BaseVmResources {
    /// Whole vCPUs.
    #[schemars(range(min = 1, max = 512))]
    pub cpu: u32,
    /// Guest memory in MiB.
    #[schemars(range(min = 256, max = 16_777_216))]
    pub memory_mi: u64,
    /// What every scratch disk has for images and logs, in MiB; a pod's `ephemeral-storage` request comes on top.
    #[schemars(range(min = 512, max = 16_777_216))]
    pub ephemeral_storage_mi: u64,
}

impl Default for BaseVmResources {
    fn default() -> Self {
        Self {
            cpu: 1,
            memory_mi: 1024,
            ephemeral_storage_mi: 10 << 10,
        }
    }
}

/// What a VM gets beyond its pod's own request.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResourceOverhead {
    /// CPU, as a Kubernetes quantity.
    #[serde(default = "default_overhead_cpu")]
    #[x_kube(validation = Rule::new("isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('0')) >= 0")
        .message("must be a quantity of 0 or more, such as 500m"))]
    pub cpu: Quantity,
    /// Memory, as a Kubernetes quantity. The guest's kernel, the kubelet's reservation and its eviction
    /// threshold come out of it, so there is a least value.
    #[serde(default = "default_overhead_memory")]
    #[x_kube(validation = Rule::new("isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('256Mi')) >= 0")
        .message("must be a quantity of at least 256Mi: kernel, kubelet and container runtime live in it"))]
    pub memory: Quantity,
    /// Disk, in hundredths of the pod's `ephemeral-storage` request: the file system's own needs, and what the kubelet
    /// keeps free by evicting pods.
    #[serde(default = "default_overhead_storage")]
    #[schemars(range(max = 400))]
    pub ephemeral_storage_percent: u32,
}

impl Default for ResourceOverhead {
    fn default() -> Self {
        Self {
            cpu: default_overhead_cpu(),
            memory: default_overhead_memory(),
            ephemeral_storage_percent: default_overhead_storage(),
        }
    }
}

/// How a guest joins the cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// What the guest starts to join.
    #[serde(default)]
    pub mode: JoinMode,
    /// URL of the API server as the guest reaches it.
    #[serde(rename = "serverURL")]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https'")
        .message("must be an https URL that guests can reach"))]
    pub server_url: String,
    /// PEM certificates that the API server's certificate is verified with. Defaults to the cluster's own
    /// (ConfigMap `kube-root-ca.crt`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// IPv4 address of the cluster's DNS Service, given to the kubelet. Defaults to that of the Service `kube-dns` in
    /// `kube-system`, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "clusterDNS")]
    #[schemars(regex(
        pattern = r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$"
    ))]
    pub cluster_dns: Option<String>,
    /// Domain of the cluster's names, given to the kubelet.
    #[serde(default = "default_cluster_domain")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$")
    )]
    pub cluster_domain: String,
}

/// What the guest starts to join.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum JoinMode {
    /// A plain kubelet with TLS bootstrap.
    #[default]
    Kubelet,
    /// A k3s agent, for k3s servers.
    K3s,
}

/// How long each stage may take: durations such as `90s`, `5m` or `1h30m`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Deadlines {
    /// From the VM's creation until it runs.
    #[serde(default = "default_stage_deadline")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')").message("must be a duration of at least 1s, such as 5m"))]
    pub boot: String,
    /// From a running VM until its Node is ready.
    #[serde(default = "default_stage_deadline")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')").message("must be a duration of at least 1s, such as 5m"))]
    pub join: String,
    /// From the lifted gate until the kubelet of the pod's node has taken the pod up. Pods with a scheduler of their own may
    /// wait in its queue.
    #[serde(default = "default_start_deadline")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')").message("must be a duration of at least 1s, such as 5m"))]
    pub start: String,
    /// How long a finished pod keeps its VM, for its logs.
    #[serde(default = "default_finished_pod_ttl", rename = "finishedPodTTL")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('0s')").message("must be a duration such as 60s"))]
    pub finished_pod_ttl: String,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            boot: default_stage_deadline(),
            join: default_stage_deadline(),
            start: default_start_deadline(),
            finished_pod_ttl: default_finished_pod_ttl(),
        }
    }
}

/// How much the pods of one namespace may have.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// VMs at once, each from its first step until it is gone, retries included; no limit when absent. Pods beyond it
    /// wait without a VM.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none", rename = "vmsPerNamespace")]
    pub vms_per_namespace: Option<u32>,
}

/// Where and how VMs run.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct VmOptions {
    /// Host nodes that may run VMs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Tolerations of the VMs' launcher pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Priority class of the launcher pods; none when empty.
    pub priority_class_name: String,
    /// Priority classes that a pod may hand on to its VM's launcher pod, in place of `priorityClassName`. Under
    /// pressure a host ends pods by their priority, and the VM of an important pod is no less important.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub priority_classes: Vec<String>,
    /// The VMs' CPU model, as libvirt calls it, or `host-model` or `host-passthrough`. KubeVirt's own default, usually
    /// `host-model`, when empty. A model by name runs only on hosts that KubeVirt has labelled for it
    /// (`cpu-model.node.kubevirt.io/NAME`).
    #[schemars(
        length(max = 63),
        regex(pattern = r"^([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?$")
    )]
    pub cpu_model: String,
    /// How the VM's interface is bound to its launcher pod's network.
    pub network_binding: NetworkBinding,
    /// Secret in the VM namespace to pull `nodeImage` with; none when empty.
    pub image_pull_secret: String,
    /// What to do about a pod that a `NetworkPolicy` selects, for no policy is enforced on marooned pods.
    pub network_policies: NetworkPolicies,
}

/// What to do about a marooned pod that a `NetworkPolicy` selects.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NetworkPolicies {
    /// Run it, and say on it that the policy is not enforced.
    #[default]
    Warn,
    /// Let it wait until no policy selects it.
    Refuse,
}

/// How a VM's interface is bound to its launcher pod's network.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NetworkBinding {
    /// NAT behind the launcher pod's address.
    #[default]
    Masquerade,
    /// The guest takes over the launcher pod's address.
    Bridge,
}

/// What the reconciler makes of the config.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct MaroonedPodsConfigStatus {
    /// The generation that `conditions` speak of.
    pub observed_generation: Option<i64>,
    /// `Accepted`, `ClusterReady`, `ProviderReady` and, where the reconciler keeps them, `CertificatesReady`.
    pub conditions: Vec<Condition>,
    /// How many marooned nodes are in which stage.
    pub nodes: NodeCounts,
}

/// How many marooned nodes are in which stage.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCounts {
    /// Not lifted yet.
    pub launching: u32,
    /// Lifted: their pod runs or may.
    pub ready: u32,
    /// On their way out.
    pub releasing: u32,
}

fn default_taint_key() -> String {
    names::DEFAULT_TAINT_KEY.to_owned()
}

/// What the node image of this release has: NFS, and the sysctls that belong to a pod's own namespaces, since on a node of
/// its own a pod harms no other by them.
fn default_guest_capabilities() -> Vec<String> {
    [
        "sysctl/fs.mqueue.*",
        "sysctl/kernel.msg*",
        "sysctl/kernel.sem",
        "sysctl/kernel.shm*",
        "sysctl/net.*",
        "volume/nfs",
    ]
    .map(str::to_owned)
    .into()
}

fn default_cluster_domain() -> String {
    names::DEFAULT_CLUSTER_DOMAIN.to_owned()
}

fn default_max_attempts() -> u32 {
    3
}

fn default_overhead_cpu() -> Quantity {
    Quantity("500m".to_owned())
}

fn default_overhead_memory() -> Quantity {
    Quantity("512Mi".to_owned())
}

fn default_overhead_storage() -> u32 {
    25
}

fn default_stage_deadline() -> String {
    "5m".to_owned()
}

fn default_start_deadline() -> String {
    "30m".to_owned()
}

fn default_finished_pod_ttl() -> String {
    "60s".to_owned()
}
