//! The parts of a pod that decisions need.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, Pod, PodCondition, PodSpec, PodStatus, Toleration};
use maroonedpods_common::api::{PodReason, PodRef};
use maroonedpods_common::sizing::{self, Request};
use maroonedpods_common::{PodUid, admission, names, text};

use super::{Maker, ObjectRef, Packed, bounded};
use crate::binding::Demands;
use crate::objects::lift::Placement;
use crate::placement::{MOST_WISHES, Wishes};

/// Reason on a pod whose VM is gone.
pub const VM_GONE: &str = "VirtualMachineGone";
/// The most bytes that a pod's labels may take, [`Packed`].
const MOST_LABELS: usize = 2 << 10;
/// The most bytes that a pod's demands on its node may take, [`Packed`].
const MOST_DEMANDS: usize = 4 << 10;
/// The most tolerations that are kept of a pod, and the most bytes of text in them. Those beyond the limit count as
/// absent, which can only delay the pod's lift.
const MOST_TOLERATIONS: (usize, usize) = (16, 2 << 10);

/// The parts of a pod that decisions need. However large the pod, this takes 16 KiB of memory at most.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that hold or not independently of one another, each read alone"
)]
pub struct PodView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: PodUid,
    /// The version that was read.
    pub resource_version: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Who created it.
    pub maker: Maker,
    /// Position of our gate among the pod's scheduling gates; `None` if the gate is absent.
    pub gate_index: Option<usize>,
    /// The other gates; if there are many, the first ones and the number of the rest.
    pub foreign_gates: Vec<String>,
    /// What the lift patch must add, and the fields that it adds to.
    pub placement: Placement,
    /// The taints that it tolerates, as far as they are kept.
    pub tolerations: Box<[Toleration]>,
    /// Owned by a DaemonSet, or a mirror pod: never marooned, whatever its labels and gates are.
    pub exempt: bool,
    /// Its selector or affinity names nodes: the pod cannot run on a Node of its own.
    pub names_nodes: bool,
    /// `spec.hostNetwork`: the pod uses its node's own network.
    pub host_network: bool,
    /// `spec.nodeSelector` pins the pod to its own identity: we lifted the gate.
    pub pinned: bool,
    /// It is bound to a node.
    pub bound: bool,
    /// No scheduler binds it: it has our name for one ([`names::SCHEDULER_NAME`]).
    pub ours_to_bind: bool,
    /// Its demands on its node, if its scheduler cannot place it there.
    pub demands: Option<Packed<Demands>>,
    /// What it asks of where it runs; `None` if that is too long to keep.
    pub wishes: Option<Packed<Wishes>>,
    /// Its priority class; empty if it has none.
    pub priority_class: String,
    /// When its grace period ends, if it is being deleted.
    pub deletion_deadline: Option<Timestamp>,
    /// That grace period.
    pub deletion_grace: SignedDuration,
    /// `status.phase` is Succeeded or Failed.
    pub terminal: bool,
    /// Its kubelet has taken it up.
    pub started: bool,
    /// Why a scheduler has not bound it, in the scheduler's own words.
    pub unscheduled: Option<String>,
    /// Why its kubelet rejected it before any of its containers started.
    pub rejected: Option<String>,
    /// The Ready condition is True.
    pub ready: bool,
    /// Our own condition.
    pub condition: Option<ConditionView>,
    /// What it requests of its node, or why that is unknown.
    pub request: Result<Request, String>,
    /// Its labels; `None` if there are too many to keep.
    pub labels: Option<Packed<BTreeMap<String, String>>>,
}

/// The pod's condition about its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionView {
    /// The status is True.
    pub ready: bool,
    /// Machine-readable reason.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}

impl ConditionView {
    /// Whether this is the reason.
    #[must_use]
    pub fn gives(&self, reason: PodReason) -> bool {
        self.reason == <&str>::from(reason)
    }
}

impl PodView {
    /// A reference to the pod: namespace, name and UID.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.to_string(),
        }
    }

    /// The same reference, in the form that the record holds.
    #[must_use]
    pub fn pod_ref(&self) -> PodRef {
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
        let uid = PodUid::from(meta.uid.clone()?);
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
        let ours_to_bind = rule.scheduler_name == names::SCHEDULER_NAME;
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
            pinned: selector
                .and_then(|s| s.get(names::IDENTITY_LABEL))
                .is_some_and(|pinned| uid == *pinned.as_str()),
            bound: spec
                .and_then(|s| s.node_name.as_ref())
                .is_some_and(|n| !n.is_empty()),
            ours_to_bind,
            demands: spec
                .filter(|_| !ours_to_bind)
                .and_then(|spec| demands(&name, spec)),
            wishes: Packed::of(&spec.map(Wishes::of).unwrap_or_default(), MOST_WISHES),
            priority_class: bounded(
                spec.and_then(|s| s.priority_class_name.as_deref())
                    .unwrap_or_default(),
            ),
            deletion_deadline: meta.deletion_timestamp.as_ref().map(|t| t.0),
            deletion_grace: SignedDuration::from_secs(meta.deletion_grace_period_seconds.unwrap_or_default()),
            terminal,
            started: status.is_some_and(|s| s.start_time.is_some()) || phase == "Running" || terminal,
            unscheduled: conditions.iter().find_map(unscheduled),
            rejected: status.filter(|_| phase == "Failed").and_then(rejection),
            ready: conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
            condition: ours.map(|c| ConditionView {
                ready: c.status == "True",
                reason: bounded(c.reason.as_deref().unwrap_or_default()),
                message: text::sentence(c.message.as_deref().unwrap_or_default()).into_owned(),
            }),
            request: spec.map_or_else(|| Err("the pod has no spec".to_owned()), request),
            labels: Packed::of(meta.labels.as_ref().unwrap_or(&BTreeMap::new()), MOST_LABELS),
            namespace,
            name,
            uid,
        })
    }

    /// The gate is removed and the pod pinned to its own Node: the point of no return.
    #[must_use]
    pub fn lifted(&self) -> bool {
        self.gate_index.is_none() && self.pinned
    }
}

/// A pod keeps the API server's word about its gates until a scheduler speaks.
fn unscheduled(condition: &PodCondition) -> Option<String> {
    let reason = condition.reason.as_deref().unwrap_or_default();
    let refused = condition.type_ == "PodScheduled" && condition.status == "False";
    (refused && reason != "SchedulingGated").then(|| {
        let message = condition.message.as_deref().unwrap_or_default();
        text::sentence(&format!("{reason}: {message}")).into_owned()
    })
}

/// Why its kubelet rejected a failed pod. If a container has started, the pod was not rejected. If its VM was lost
/// before that, we wrote the reason ourselves.
fn rejection(status: &PodStatus) -> Option<String> {
    let reason = status.reason.as_ref().filter(|reason| !reason.is_empty())?;
    let containers = [&status.container_statuses, &status.init_container_statuses];
    let started = containers.into_iter().flatten().flatten().any(|container| {
        let has_run = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
        container.restart_count > 0 || container.state.as_ref().is_some_and(has_run)
    });
    (!started && reason != VM_GONE).then(|| bounded(reason))
}

fn foreign(gates: &[&str]) -> Vec<String> {
    let others = gates.iter().filter(|gate| **gate != names::GATE);
    let more = others.clone().count().saturating_sub(text::MOST_NAMES);
    let named = others.take(text::MOST_NAMES).map(|gate| bounded(gate));
    named.chain((more > 0).then(|| format!("{more} more"))).collect()
}

/// Boxed, because a collected `Vec` keeps the capacity of the whole list that it came from.
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

/// `None`, which leaves the pod to the scheduler, also if the demands exceed the limit.
fn demands(pod: &str, spec: &PodSpec) -> Option<Packed<Demands>> {
    Packed::of(&Demands::of(pod, spec)?, MOST_DEMANDS)
}

fn request(spec: &PodSpec) -> Result<Request, String> {
    sizing::effective_request(spec).map_err(|error| text::sentence(&error.to_string()).into_owned())
}
