//! The pod condition `maroonedpods.io/NodeReady`: what a waiting pod waits for.

use maroonedpods_common::text;

use super::{PodReport, Write};
use crate::view::PodView;

/// Reasons of the condition.
pub(crate) mod reason {
    pub(crate) const WAITING_FOR_GATES: &str = "WaitingForOtherGates";
    pub(crate) const NO_CONFIG: &str = "NoConfig";
    pub(crate) const CLUSTER_NOT_READY: &str = "ClusterNotReady";
    pub(crate) const UNSIZABLE: &str = "Unsizable";
    pub(crate) const NAMES_NODES: &str = "NamesNodes";
    pub(crate) const LAUNCHING: &str = "Launching";
    pub(crate) const REFUSED: &str = "Refused";
    pub(crate) const PROVIDER_MISSING: &str = "ProviderMissing";
    pub(crate) const VM_BLOCKED: &str = "VMBlocked";
    pub(crate) const JOINING: &str = "Joining";
    pub(crate) const RETRYING: &str = "Retrying";
    pub(crate) const BACKING_OFF: &str = "BackingOff";
    pub(crate) const ATTEMPTS_EXHAUSTED: &str = "AttemptsExhausted";
    pub(crate) const NETWORK_POLICY_NOT_ENFORCED: &str = "NetworkPolicyNotEnforced";
    pub(crate) const NAMESPACE_LIMIT: &str = "NamespaceLimit";
    pub(crate) const NODE_READY: &str = "NodeReady";
    pub(crate) const GATE_REMOVED: &str = "GateRemoved";
    pub(crate) const NODE_LOST: &str = "NodeLost";

    /// Those that a gated pod can carry.
    pub(crate) const OF_WAITS: [&str; 15] = [
        WAITING_FOR_GATES,
        NO_CONFIG,
        CLUSTER_NOT_READY,
        UNSIZABLE,
        NAMES_NODES,
        LAUNCHING,
        REFUSED,
        PROVIDER_MISSING,
        VM_BLOCKED,
        JOINING,
        RETRYING,
        BACKING_OFF,
        ATTEMPTS_EXHAUSTED,
        NETWORK_POLICY_NOT_ENFORCED,
        NAMESPACE_LIMIT,
    ];
}

/// The write that reports `reason`, or nothing where the pod has that condition already. A changed message alone does
/// not justify a write: a message that changes while the pod waits would cause endless writes.
pub(super) fn report(
    pod: &PodView,
    ready: bool,
    reason: &'static str,
    message: impl Into<String>,
) -> Option<Write> {
    let said = pod.condition.as_ref();
    if said.is_some_and(|said| said.ready == ready && said.reason == reason) {
        return None;
    }
    Some(write(pod, ready, reason, &message.into()))
}

/// The same, but a new message alone justifies the write. For messages that do not change while the pod waits.
pub(super) fn report_again(pod: &PodView, reason: &'static str, message: &str) -> Option<Write> {
    let said = pod.condition.as_ref();
    let again = text::sentence(message);
    if said.is_some_and(|said| !said.ready && said.reason == reason && said.message == again) {
        return None;
    }
    Some(write(pod, false, reason, message))
}

fn write(pod: &PodView, ready: bool, reason: &'static str, message: &str) -> Write {
    Write::PodReport(PodReport {
        pod: pod.reference(),
        ready,
        reason,
        message: text::sentence(message).into_owned(),
        transition: pod.condition.as_ref().is_none_or(|said| said.ready != ready),
    })
}
