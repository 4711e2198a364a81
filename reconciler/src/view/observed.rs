//! Everything observed about one pod and the objects that belong to it: the input of every decision about the pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;
use maroonedpods_common::api::{Architecture, MaroonedNode, VmResources};

use super::{NodeView, PodView, VmiView};
use crate::csr::Filed;
use crate::placement::claims::PodClaim;
use crate::settings::Settings;
use crate::sightings::Ages;

/// Everything known about one pod UID and the objects that belong to it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The configuration in force; `None` while there is no valid one.
    pub settings: Option<Arc<Settings>>,
    /// The pod with this UID.
    pub pod: Option<PodView>,
    /// The size of the VM that the pod needs, or why it has none; absent if the pod is.
    pub size: Option<Result<VmResources, String>>,
    /// Names of the NetworkPolicies that select the pod, sorted.
    pub policies: Vec<String>,
    /// Address of the cluster's DNS Service, for guests of a configuration without a DNS address.
    pub cluster_dns: Option<String>,
    /// Architecture of the cluster's Nodes, for a configuration without one.
    pub architecture: Architecture,
    /// Whether KubeVirt accepts `rebootPolicy: Terminate`; `None` while that is not known.
    pub terminate_on_reboot: Option<bool>,
    /// How many records there are in the pod's namespace, this pod's included. Counted only where it matters: for a
    /// pod without a record, in a namespace with a limit.
    pub namespace_records: u32,
    /// The pod's record.
    pub record: Option<Arc<MaroonedNode>>,
    /// The Node with the record's name.
    pub node: Option<NodeView>,
    /// The VMI of the record's current attempt.
    pub vmi: Option<VmiView>,
    /// CSRs filed by the VM's token or by the Node; without a record, only the Node's.
    pub csrs: Vec<Arc<Filed>>,
    /// Zone and region of the VM's host, and its other labels that the pod selects; empty if the host is gone. `None` until
    /// the VM has a host.
    pub topology: Option<BTreeMap<String, String>>,
    /// The claims of a pod that waits without a record, up to the first that holds it back. Read in live views only.
    pub claims: Option<Vec<PodClaim>>,
    /// Every claim of a pod that the reconciler would bind has its volume. Checked in live views only.
    pub claims_bound: bool,
    /// Why no VM may be started now for any pod: the cluster fails a check. Only the worker knows and sets this.
    pub hold: Option<String>,
    /// How long this process has seen things as they are.
    pub ages: Ages,
    /// Why pods of the same maker get no further VM now, and for how long.
    pub backing_off: Option<BackingOff>,
}

/// The state of a maker whose pods are rejected by their kubelets: it waits before it gets another VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingOff {
    /// The remaining wait.
    pub remaining: SignedDuration,
    /// How many pods in a row were rejected.
    pub rejections: u32,
    /// The reason that the last pod's kubelet gave.
    pub reason: String,
}
