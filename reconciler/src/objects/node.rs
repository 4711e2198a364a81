//! The Node of a marooned pod, whole, before its guest asks for it: labels, taints, capacity and place are ours, never
//! the guest's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use maroonedpods_common::api::{Architecture, MaroonedNode};
use maroonedpods_common::{PodUid, names, sizing};

use crate::objects::record::owner_reference;

/// kubelet's default `maxPods`.
const MAX_PODS: &str = "110";

/// Label of a node's operating system.
pub const OS_LABEL: &str = "kubernetes.io/os";
/// Label of a node's architecture.
pub const ARCHITECTURE_LABEL: &str = "kubernetes.io/arch";
/// Labels of operating system and architecture. Kubernetes still gives the older ones to each node, and older charts select
/// by them.
pub const SYSTEM_LABELS: [&str; 4] = [
    OS_LABEL,
    ARCHITECTURE_LABEL,
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// The labels of a pod's Node, without those of its VM's host and of the configuration.
#[must_use]
pub fn own_labels(pod: &PodUid, architecture: Architecture) -> [(&'static str, &str); 9] {
    let [os, arch, older_os, older_arch] = SYSTEM_LABELS;
    [
        (os, "linux"),
        (arch, architecture.as_str()),
        (older_os, "linux"),
        (older_arch, architecture.as_str()),
        ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
        ("node.kubernetes.io/exclude-disruption", "true"),
        (names::CLASS_LABEL, names::CLASS_LABEL_VALUE),
        (names::IDENTITY_LABEL, pod.as_str()),
        (names::POD_UID_LABEL, pod.as_str()),
    ]
}

/// Where a VM is, for its Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The VM's address.
    pub address: String,
    /// Labels of the VM's host: zone, region, and what the pod selects.
    pub topology: BTreeMap<String, String>,
}

/// The Node of a record, for the given attempt, at `place`.
///
/// It carries everything that a kubelet with `registerNode: false` does not write, and everything whose absence
/// would make it write labels itself (`kubernetes.io/os` and `arch`). Capacity is filled in because a kubelet admits
/// pods against the stored Node before its own first report.
///
/// Other controllers must notice as little of it as can be:
/// - No `kubernetes.io/hostname`: the Node would be an empty domain of every ordinary pod's spread over hosts.
/// - No `podCIDR`: kube-controller-manager does not start where one is outside the cluster's range, and would hand out
///   one inside of it a second time once this Node is gone.
/// - A Node that is not ready, as each is while it boots, must not look like trouble in its zone.
#[must_use]
pub fn new(record: &MaroonedNode, attempt: u32, place: &Place) -> Node {
    let pod_uid = &record.spec.pod_ref.uid;
    let name = names::node_name(pod_uid);
    let labels = own_labels(pod_uid, record.spec.vm.architecture);
    let annotations = [
        ("volumes.kubernetes.io/controller-managed-attach-detach", "true"),
        ("cluster-autoscaler.kubernetes.io/scale-down-disabled", "true"),
    ];
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let mut taints = lasting_taints(record);
    taints.push(taint(names::STARTUP_TAINT, "", "NoSchedule"));
    let (capacity, allocatable) = resources(record);
    Node {
        metadata: ObjectMeta {
            labels: Some(
                labels
                    .into_iter()
                    .map(owned)
                    .chain(place.topology.clone())
                    .chain(record.spec.placement.node_labels.clone())
                    .collect(),
            ),
            annotations: Some(annotations.into_iter().map(owned).collect()),
            owner_references: Some(vec![owner_reference(record)]),
            name: Some(name.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: Some(taints),
            provider_id: Some(format!("maroonedpods://{}", names::vmi_name(pod_uid, attempt))),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses(&name, &place.address)),
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            ..NodeStatus::default()
        }),
    }
}

/// What the kubelet's serving certificate may name, and how the API server reaches the kubelet.
#[must_use]
pub fn addresses(name: &str, address: &str) -> Vec<NodeAddress> {
    [("InternalIP", address), ("Hostname", name)]
        .map(|(type_, address)| NodeAddress {
            type_: type_.to_owned(),
            address: address.to_owned(),
        })
        .into()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::record::tests::{POD_UID, record};
    use maroonedpods_common::api::Architecture;

    fn node() -> Node {
        let place = Place {
            address: "10.42.0.7".to_owned(),
            topology: [("topology.kubernetes.io/zone".to_owned(), "z".to_owned())].into(),
        };
        new(&record(), 1, &place)
    }

    #[test]
    fn other_controllers_notice_little_of_it() {
        let node = node();
        let labels = node.metadata.labels.unwrap();
        assert!(!labels.contains_key("kubernetes.io/hostname"));
        for label in ["exclude-disruption", "exclude-from-external-load-balancers"] {
            assert_eq!(labels[&format!("node.kubernetes.io/{label}")], "true");
        }
        let annotations = node.metadata.annotations.unwrap();
        assert_eq!(
            annotations["cluster-autoscaler.kubernetes.io/scale-down-disabled"],
            "true"
        );
        let spec = node.spec.unwrap();
        assert_eq!((spec.pod_cidr, spec.pod_cidrs), (None, None));
        // With none, a cloud's node controller looks for an instance of the Node's name, finds none and deletes it.
        assert!(spec.provider_id.unwrap().starts_with("maroonedpods://"));
    }

    #[test]
    fn it_is_whole_from_the_start() {
        let node = node();
        let labels = node.metadata.labels.unwrap();
        for (label, value) in [
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "amd64"),
            ("beta.kubernetes.io/arch", "amd64"),
            ("topology.kubernetes.io/zone", "z"),
            (names::CLASS_LABEL, names::CLASS_LABEL_VALUE),
            (names::IDENTITY_LABEL, POD_UID),
        ] {
            assert_eq!(labels[label], value, "{label}");
        }
        let status = node.status.unwrap();
        let addresses = status.addresses.unwrap();
        assert_eq!(
            (addresses[0].type_.as_str(), addresses[0].address.as_str()),
            ("InternalIP", "10.42.0.7")
        );
        assert!(status.capacity.unwrap().contains_key("pods"));
        let taints = node.spec.unwrap().taints.unwrap();
        assert!(taints.iter().any(|t| t.key == names::STARTUP_TAINT));
        assert!(lasting_taints(&record()).iter().all(|t| taints.contains(t)));
    }

    #[test]
    fn it_has_the_architecture_of_its_vm() {
        let mut record = record();
        record.spec.vm.architecture = Architecture::Arm64;
        let labels = new(&record, 1, &Place::default()).metadata.labels.unwrap();
        assert_eq!(labels["kubernetes.io/arch"], "arm64");
    }
}
