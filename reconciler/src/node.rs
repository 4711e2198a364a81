//! The Node of a marooned pod, whole, before its VM boots: labels, taints and capacity are ours, never the guest's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::{names, sizing};

use crate::record::owner_reference;

/// Outside every cluster's range, so that kube-controller-manager spends none of its own on a Node whose one pod
/// has its launcher's address.
const POD_CIDR: &str = "169.254.77.1/32";
/// kubelet's default `maxPods`.
const MAX_PODS: &str = "110";

/// The Node of a record, for the given attempt.
///
/// It carries everything that a kubelet with `registerNode: false` does not write, and everything whose absence
/// would make it write labels itself (measured: `kubernetes.io/arch`, `os`, `hostname`). Capacity is filled in
/// because a kubelet admits pods against the stored Node before its own first report.
#[must_use]
pub fn new(record: &MaroonedNode, attempt: u32) -> Node {
    let pod_uid = &record.spec.pod_ref.uid;
    let name = names::node_name(pod_uid);
    let labels = [
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("kubernetes.io/hostname", name.as_str()),
        ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
        (names::CLASS_LABEL, names::CLASS_LABEL_VALUE),
        (names::IDENTITY_LABEL, pod_uid.as_str()),
        (names::POD_UID_LABEL, pod_uid.as_str()),
    ];
    let annotation = (
        "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
        "true".to_owned(),
    );
    let mut taints = lasting_taints(record);
    taints.push(taint(names::STARTUP_TAINT, "", "NoSchedule"));
    let (capacity, allocatable) = resources(record);
    Node {
        metadata: ObjectMeta {
            labels: Some(
                labels
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect(),
            ),
            annotations: Some([annotation].into()),
            owner_references: Some(vec![owner_reference(record)]),
            name: Some(name),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: Some(taints),
            provider_id: Some(format!("maroonedpods://{}", names::vmi_name(pod_uid, attempt))),
            pod_cidr: Some(POD_CIDR.to_owned()),
            pod_cidrs: Some(vec![POD_CIDR.to_owned()]),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            ..NodeStatus::default()
        }),
    }
}

/// The taints that stay for the Node's whole life: class and identity, both effects.
#[must_use]
pub fn lasting_taints(record: &MaroonedNode) -> Vec<Taint> {
    let identity = names::identity_taint(&record.spec.vm.taint_key);
    let uid = record.spec.pod_ref.uid.as_str();
    let both = |key: &str, value: &str| names::TAINT_EFFECTS.map(|effect| taint(key, value, effect));
    let class = both(names::CLASS_TAINT, names::CLASS_TAINT_VALUE);
    class.into_iter().chain(both(&identity, uid)).collect()
}

fn taint(key: &str, value: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        value: (!value.is_empty()).then(|| value.to_owned()),
        effect: effect.to_owned(),
        time_added: None,
    }
}

fn resources(record: &MaroonedNode) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
    let vm = &record.spec.resources;
    let list = |cpu_milli: u64, memory_bytes: u64| {
        let entries = [
            ("cpu", format!("{cpu_milli}m")),
            ("memory", memory_bytes.to_string()),
            ("ephemeral-storage", format!("{}Mi", vm.disk_mi)),
            ("pods", MAX_PODS.to_owned()),
        ];
        entries
            .into_iter()
            .map(|(k, v)| (k.to_owned(), Quantity(v)))
            .collect()
    };
    let (capacity, allocatable) = (sizing::capacity(vm), sizing::allocatable(vm));
    (
        list(capacity.cpu_milli, capacity.memory_bytes),
        list(allocatable.cpu_milli, allocatable.memory_bytes),
    )
}
