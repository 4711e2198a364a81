//! What was observed of one pod and of all that belongs to it: the input of every decision about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;
use maroonedpods_common::api::{MaroonedNode, VmResources};

use super::{NodeView, PodView, VmiView};
use crate::csr::Filed;
use crate::settings::Settings;
use crate::sightings::Ages;

/// What is known of one pod UID and all that belongs to it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The configuration in force; `None` while there is no valid one.
    pub settings: Option<Arc<Settings>>,
    /// The pod with this UID.
    pub pod: Option<PodView>,
    /// The size of the VM that the pod needs, or why there is none; absent with the pod.
    pub size: Option<Result<VmResources, String>>,
    /// The NetworkPolicies that select the pod, by name, in order.
    pub policies: Vec<String>,
    /// Address of the cluster's DNS Service, for guests of a configuration that names none.
    pub cluster_dns: Option<String>,
    /// How many records there are in the pod's namespace, this pod's included. Counted only where it matters: for a pod
    /// without a record, under a limit.
    pub namespace_records: u32,
    /// Our record.
    pub record: Option<Arc<MaroonedNode>>,
    /// The Node of the record's name.
    pub node: Option<NodeView>,
    /// The VMI of the record's current attempt.
    pub vmi: Option<VmiView>,
    /// CSRs that the VM's token or the Node's identity filed; without a record, the Node's alone.
    pub csrs: Vec<Arc<Filed>>,
    /// Zone and region of the VM's host; nothing in it for a host that is gone. `None` until the VM has a host.
    pub topology: Option<BTreeMap<String, String>>,
    /// Every claim of a pod that we would bind has its volume. Looked at in live views only.
    pub claims_bound: bool,
    /// Why no VM may be started now, whatever the pod: the cluster is not as it must be. Left to whoever knows.
    pub hold: Option<String>,
    /// For how long this process has seen things as they are.
    pub ages: Ages,
    /// Why pods of the same maker get no further VM now, and for how long.
    pub backing_off: Option<BackingOff>,
}

/// A maker whose pods are rejected by their kubelets waits before it costs another VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingOff {
    /// For how long yet.
    pub remaining: SignedDuration,
    /// How many were rejected one after the other.
    pub rejections: u32,
    /// What the last one's kubelet said.
    pub reason: String,
}
