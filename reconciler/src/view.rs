//! The border between Kubernetes' types and our decisions: small values with only the fields that matter.

mod keep;
mod maker;

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, Node, Pod, PodSpec, PodStatus, Taint, Toleration};
use kube::core::DynamicObject;
use maroonedpods_common::api::PodRef;
use maroonedpods_common::sizing::{self, Request};
use maroonedpods_common::{admission, names, text};
use serde_json::Value;

use crate::binding::Demands;
use crate::lift::Placement;
use crate::packed::Packed;
use crate::topology;

pub use maker::Maker;

/// Reason on a pod whose VM is gone.
pub const VM_GONE: &str = "VirtualMachineGone";
/// Bytes that labels may take of a pod, [`Packed`].
const MOST_LABELS: usize = 2 << 10;
/// The same of a Node, whose guest cannot label it.
const MOST_NODE_LABELS: usize = 8 << 10;
/// Bytes that may be taken by what a pod demands of its node, [`Packed`].
const MOST_DEMANDS: usize = 4 << 10;
/// Tolerations that are kept of a pod, and bytes of text in them. Those beyond, as if they were not there, can only have
/// its lift wait longer.
const MOST_TOLERATIONS: (usize, usize) = (16, 2 << 10);

/// What decisions need of a pod. However large the pod, it takes 12 KiB of memory at most.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that hold or not independently of one another, each asked for alone"
)]
pub struct PodView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The version that was read.
    pub resource_version: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whom it was made by.
    pub maker: Maker,
    /// Position of our gate among the pod's scheduling gates, if it is there.
    pub gate_index: Option<usize>,
    /// The other gates; of many the first, and how many more there are.
    pub foreign_gates: Vec<String>,
    /// What the lift patch must add, and onto what.
    pub placement: Placement,
    /// The taints that it tolerates, as far as they are kept.
    pub tolerations: Box<[Toleration]>,
    /// Owned by a DaemonSet, or a mirror pod: never marooned, whatever its labels and gates say.
    pub exempt: bool,
    /// Selector or affinity ask for nodes by name: no node of its own can be the pod's.
    pub names_nodes: bool,
    /// `spec.hostNetwork`: the pod uses its node's own network.
    pub host_network: bool,
    /// `spec.nodeSelector` pins the pod to its own identity: the gate was lifted by us.
    pub pinned: bool,
    /// It has a node.
    pub bound: bool,
    /// What it asks of its node, where the scheduler cannot place it there.
    pub demands: Option<Packed<Demands>>,
    /// Its own priority class; empty for none.
    pub priority_class: String,
    /// When its grace period ends, once its deletion was asked for.
    pub deletion_deadline: Option<Timestamp>,
    /// That grace period.
    pub deletion_grace: SignedDuration,
    /// `status.phase` is Succeeded or Failed.
    pub terminal: bool,
    /// Why its kubelet refused it before any container of it had started.
    pub rejected: Option<String>,
    /// The Ready condition is True.
    pub ready: bool,
    /// Our own condition.
    pub condition: Option<Said>,
    /// What it asks of its node, or why that cannot be said.
    pub request: Result<Request, String>,
    /// Its labels; `None` where they are so many that they are not kept.
    pub labels: Option<Packed<BTreeMap<String, String>>>,
}

/// What the pod says of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The status is True.
    pub ready: bool,
    /// Machine-readable reason.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}

impl PodView {
    /// The pod by all three of its names.
    #[must_use]
    pub fn reference(&self) -> PodRef {
        PodRef {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }

    /// Reads a pod; `None` for one that the API server cannot have sent (no name or UID).
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let uid = meta.uid.clone()?;
        let spec = pod.spec.as_ref();
        let gates: Vec<&str> = spec
            .and_then(|s| s.scheduling_gates.as_ref())
            .map(|gates| gates.iter().map(|g| g.name.as_str()).collect())
            .unwrap_or_default();
        let selector = spec.and_then(|s| s.node_selector.as_ref());
        let status = pod.status.as_ref();
        let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let ours = conditions.iter().find(|c| c.type_ == names::NODE_READY_CONDITION);
        let rule = admission::PodView::from(pod);
        let terminal = matches!(phase, "Succeeded" | "Failed");
        let (namespace, name) = (meta.namespace.clone()?, meta.name.clone()?);
        Some(Self {
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            maker: Maker::of(pod, &namespace, &name),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            gate_index: gates.iter().position(|g| *g == names::GATE),
            foreign_gates: foreign(&gates),
            placement: Placement::of(pod),
            tolerations: first(spec.and_then(|s| s.tolerations.clone()).unwrap_or_default()),
            exempt: rule.daemon_set_owned || rule.mirror,
            names_nodes: rule.names_nodes,
            host_network: spec.and_then(|s| s.host_network).unwrap_or_default(),
            pinned: selector.and_then(|s| s.get(names::IDENTITY_LABEL)) == Some(&uid),
            bound: spec
                .and_then(|s| s.node_name.as_ref())
                .is_some_and(|n| !n.is_empty()),
            demands: spec.and_then(|spec| demands(&name, spec)),
            priority_class: kept(
                spec.and_then(|s| s.priority_class_name.as_deref())
                    .unwrap_or_default(),
            ),
            deletion_deadline: meta.deletion_timestamp.as_ref().map(|t| t.0),
            deletion_grace: SignedDuration::from_secs(meta.deletion_grace_period_seconds.unwrap_or_default()),
            terminal,
            rejected: status.filter(|_| phase == "Failed").and_then(rejection),
            ready: conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
            condition: ours.map(|c| Said {
                ready: c.status == "True",
                reason: kept(c.reason.as_deref().unwrap_or_default()),
                message: text::sentence(c.message.as_deref().unwrap_or_default()).into_owned(),
            }),
            request: spec.map_or_else(|| Err("the pod has no spec".to_owned()), request),
            labels: Packed::of(meta.labels.as_ref().unwrap_or(&BTreeMap::new()), MOST_LABELS),
            namespace,
            name,
            uid,
        })
    }

    /// The gate is gone and the pod pinned to its own Node: past the point of no return.
    #[must_use]
    pub fn lifted(&self) -> bool {
        self.gate_index.is_none() && self.pinned
    }
}

/// Why a failed pod was refused by its kubelet. Of a pod that had its chance a container has started; of one whose VM
/// was lost before that, we have said so ourselves.
fn rejection(status: &PodStatus) -> Option<String> {
    let reason = status.reason.as_ref().filter(|reason| !reason.is_empty())?;
    let containers = [&status.container_statuses, &status.init_container_statuses];
    let started = containers.into_iter().flatten().flatten().any(|container| {
        let has_run = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
        container.restart_count > 0 || container.state.as_ref().is_some_and(has_run)
    });
    (!started && reason != VM_GONE).then(|| kept(reason))
}

/// A value of somebody else's, as long as it need be: what is longer is none that we know.
fn kept(value: &str) -> String {
    text::value(value).into_owned()
}

fn foreign(gates: &[&str]) -> Vec<String> {
    let others = gates.iter().filter(|gate| **gate != names::GATE);
    let more = others.clone().count().saturating_sub(text::MOST_NAMES);
    let named = others.take(text::MOST_NAMES).map(|gate| kept(gate));
    named.chain((more > 0).then(|| format!("{more} more"))).collect()
}

/// Boxed, for what is collected from a list keeps the room of all that was in it.
fn first(tolerations: Vec<Toleration>) -> Box<[Toleration]> {
    let (number, bytes) = MOST_TOLERATIONS;
    let mut room = bytes;
    let fits = |toleration: &Toleration| {
        let Toleration {
            key,
            operator,
            value,
            effect,
            toleration_seconds: _,
        } = toleration;
        let long = [key, operator, value, effect]
            .into_iter()
            .flatten()
            .map(String::len)
            .sum();
        let left = room.checked_sub(long);
        room = left.unwrap_or_default();
        left.is_some()
    };
    tolerations.into_iter().take(number).take_while(fits).collect()
}

/// One with more demands than are kept is left to the scheduler.
fn demands(pod: &str, spec: &PodSpec) -> Option<Packed<Demands>> {
    Packed::of(&Demands::of(pod, spec)?, MOST_DEMANDS)
}

fn request(spec: &PodSpec) -> Result<Request, String> {
    sizing::effective_request(spec).map_err(|error| text::sentence(&error.to_string()).into_owned())
}

/// What decisions need of a Node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Its deletion was asked for.
    pub deleting: bool,
    /// It carries finalizers. Ours never do: a guest put them there.
    pub finalizers: bool,
    /// The Ready condition is True.
    pub ready: bool,
    /// UUID of the machine as its kubelet reports it; empty until a kubelet has spoken.
    pub system_uuid: String,
    /// The guest's boot id as its kubelet reports it.
    pub boot_id: String,
    /// The InternalIP.
    pub address: Option<String>,
    /// The taints, in the Node's order.
    pub taints: Vec<Taint>,
    /// Class and identity label stand as we wrote them.
    pub labelled_for: Option<String>,
    /// Zone and region, as the labels say.
    pub topology: BTreeMap<String, String>,
    /// All labels; `None` where they are so many that they are not kept.
    pub labels: Option<Packed<BTreeMap<String, String>>>,
}

impl NodeView {
    /// Reads a Node; `None` for one without name or UID.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        let labels = node.metadata.labels.as_ref();
        let class = labels.and_then(|l| l.get(names::CLASS_LABEL)).map(String::as_str);
        let identity = labels.and_then(|l| l.get(names::IDENTITY_LABEL)).cloned();
        let status = node.status.as_ref();
        let info = status.and_then(|s| s.node_info.as_ref());
        Some(Self {
            name: node.metadata.name.clone()?,
            uid: node.metadata.uid.clone()?,
            deleting: node.metadata.deletion_timestamp.is_some(),
            finalizers: node.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty()),
            ready: status
                .and_then(|s| s.conditions.as_ref())
                .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True")),
            system_uuid: info.map(|i| kept(&i.system_uuid)).unwrap_or_default(),
            boot_id: info.map(|i| kept(&i.boot_id)).unwrap_or_default(),
            address: status.and_then(|s| s.addresses.as_ref()).and_then(|all| {
                all.iter()
                    .find(|a| a.type_ == "InternalIP")
                    .map(|a| kept(&a.address))
            }),
            taints: node
                .spec
                .as_ref()
                .and_then(|s| s.taints.clone())
                .unwrap_or_default(),
            labelled_for: identity.filter(|_| class == Some(names::CLASS_LABEL_VALUE)),
            topology: topology::of(labels),
            labels: Packed::of(labels.unwrap_or(&BTreeMap::new()), MOST_NODE_LABELS),
        })
    }
}

/// What decisions need of a VMI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmiView {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// UID of the record that owns it.
    pub owner_uid: Option<String>,
    /// Its deletion was asked for.
    pub deleting: bool,
    /// `status.phase`, as KubeVirt writes it.
    pub phase: String,
    /// IPv4 address of the interface named [`names::VM_INTERFACE`].
    pub address: Option<String>,
    /// An address of that interface where it has none but IPv6 ones.
    pub only_ipv6: Option<String>,
    /// The host node that it runs on.
    pub host: Option<String>,
    /// Its host is being drained and it must go.
    pub evacuating: bool,
    /// Why KubeVirt does not get on, in its own words.
    pub blocked: Option<String>,
}

impl VmiView {
    /// Reads a VMI; `None` for one without name or UID. Fields of another type than KubeVirt's count as absent.
    #[must_use]
    pub fn of(vmi: &DynamicObject) -> Option<Self> {
        let status = vmi.data.get("status").unwrap_or(&Value::Null);
        let word = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(kept);
        let entry = |list: &str, key: &str, wanted: &str| {
            let found = status[list]
                .as_array()
                .into_iter()
                .flatten()
                .find(|e| e[key] == wanted);
            found.cloned().unwrap_or(Value::Null)
        };
        let blocked = ["PodScheduled", "Synchronized"].iter().find_map(|condition| {
            let c = entry("conditions", "type", condition);
            (c["status"] == "False").then(|| {
                let reason = c["reason"].as_str().unwrap_or("no reason given");
                let said = format!("{reason}: {}", c["message"].as_str().unwrap_or_default());
                text::sentence(&said).into_owned()
            })
        });
        let (address, only_ipv6) = addresses(&entry("interfaces", "name", names::VM_INTERFACE));
        Some(Self {
            name: vmi.metadata.name.clone()?,
            uid: vmi.metadata.uid.clone()?,
            owner_uid: vmi
                .metadata
                .owner_references
                .iter()
                .flatten()
                .next()
                .map(|o| o.uid.clone()),
            deleting: vmi.metadata.deletion_timestamp.is_some(),
            phase: word(&status["phase"]).unwrap_or_default(),
            address,
            only_ipv6,
            host: word(&status["nodeName"]),
            evacuating: word(&status["evacuationNodeName"]).is_some(),
            blocked,
        })
    }

    /// The VM has ended for good; KubeVirt never leaves these phases.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// The domain is up, which says nothing about the kubelet inside.
    #[must_use]
    pub fn running(&self) -> bool {
        self.phase == "Running"
    }
}

/// The interface's IPv4 address; else an IPv6 address of its own, if there is one. (A link-local one says nothing: each
/// link has such.)
fn addresses(interface: &Value) -> (Option<String>, Option<String>) {
    let all = interface["ipAddresses"].as_array().into_iter().flatten();
    let mut ipv6 = None;
    for address in std::iter::once(&interface["ipAddress"]).chain(all) {
        match address.as_str().and_then(|text| text.parse().ok()) {
            Some(IpAddr::V4(address)) => return (Some(address.to_string()), None),
            Some(IpAddr::V6(address)) if !address.is_unicast_link_local() => {
                ipv6.get_or_insert(address.to_string());
            }
            _ => {}
        }
    }
    (None, ipv6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vmi(status: &Value) -> VmiView {
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "v", "uid": "u", "ownerReferences": [
                {"apiVersion": "maroonedpods.io/v1alpha1", "kind": "MaroonedNode", "name": "n", "uid": "r"}]},
            "status": status,
        });
        VmiView::of(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn the_interface_is_picked_by_name() {
        let view = vmi(&json!({"phase": "Running", "interfaces": [
            {"name": "cni0", "ipAddress": "10.244.0.1"}, {"name": "default", "ipAddress": "10.1.2.3"}]}));
        assert_eq!(view.address.as_deref(), Some("10.1.2.3"));
        assert!(view.running() && !view.ended());
    }

    #[test]
    fn the_ipv4_address_counts_wherever_it_stands() {
        let addresses = |interface: Value| {
            let mut interface = interface;
            interface["name"] = json!("default");
            let view = vmi(&json!({"phase": "Running", "interfaces": [interface]}));
            (view.address, view.only_ipv6)
        };
        let text = |address: &str| Some(address.to_owned());
        let dual = json!({"ipAddress": "fd00::7", "ipAddresses": ["fd00::7", "10.1.2.3"]});
        assert_eq!(addresses(dual), (text("10.1.2.3"), None));
        let single = json!({"ipAddress": "fd00::7", "ipAddresses": ["fd00::7"]});
        assert_eq!(addresses(single), (None, text("fd00::7")));
        for nothing in [
            json!({}),
            json!({"ipAddress": "fe80::1"}),
            json!({"ipAddress": "?", "ipAddresses": 7}),
        ] {
            assert_eq!(addresses(nothing), (None, None));
        }
    }

    #[test]
    fn a_blocked_launcher_is_quoted() {
        let view = vmi(&json!({"phase": "Scheduling", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}));
        assert_eq!(view.blocked.as_deref(), Some("Unschedulable: 0/3 nodes"));
    }

    #[test]
    fn odd_types_count_as_absent() {
        let view =
            vmi(&json!({"phase": 3, "interfaces": "none", "conditions": {}, "evacuationNodeName": ""}));
        assert_eq!(view.phase, "");
        assert_eq!(view.address, None);
        assert!(!view.evacuating && !view.ended());
    }
}
