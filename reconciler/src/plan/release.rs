//! Steps 10 to 12: the VM goes first, then what the pod must learn, then everything else, the record last.

use jiff::SignedDuration;
use maroonedpods_common::api::{AttemptFailure, PodReason};
use maroonedpods_common::{names, sizing};

use super::report::report;
use super::{Context, Decision, Note, Write, attempt, csrs, place};
use crate::objects::record;
use crate::placement;
use crate::view::{NodeView, PodView, VM_GONE};

/// What a pod gets beyond its grace period before its VM is taken away.
const GRACE_MARGIN: SignedDuration = SignedDuration::from_secs(30);
const DEFAULT_FINISHED_POD_TTL: SignedDuration = SignedDuration::from_secs(60);

/// Why a release is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The record's deletion was asked for, by us or by a person.
    RecordGoing,
    /// The pod is gone, or going without ever having been lifted.
    PodGone,
    /// The pod has finished, and its time for logs is over.
    Finished,
    /// The pod was to be deleted and its kubelet did not confirm in time.
    GraceOver,
    /// The gate was lifted for a VM that had failed.
    LiftedTooSoon,
    /// A user removed our gate: we do not place the pod any more.
    GateRemoved,
    /// The pod asks for a node by name since its VM was begun, so it would never run on its own.
    NamesNodes,
    /// The pod asks for another VM than the one that was begun for it.
    Replanned,
    /// The pod was released to its node and did not start there.
    NotStarted,
    /// The VM ended, or is gone.
    VmLost,
    /// The guest rebooted: a disk that a pod wrote to is not fresh.
    Rebooted,
}

/// Whether a release is due, and why.
pub(super) fn due(c: &Context) -> Option<Why> {
    if c.record.metadata.deletion_timestamp.is_some() {
        return Some(Why::RecordGoing);
    }
    let Some(pod) = &c.observed.pod else {
        return Some(Why::PodGone);
    };
    if pod.lifted() {
        return lifted_due(c, pod);
    }
    if pod.terminal || pod.deletion_deadline.is_some() {
        return Some(Why::PodGone);
    }
    if pod.gate_index.is_none() {
        return Some(Why::GateRemoved);
    }
    if pod.names_nodes {
        return Some(Why::NamesNodes);
    }
    replanned(c, pod).then_some(Why::Replanned)
}

/// Whether the gated pod has changed so that its VM does not suit it: it asks for another place, or for more than its Node
/// has. A record of an earlier release does not say what was asked for.
fn replanned(c: &Context, pod: &PodView) -> bool {
    let spec = &c.record.spec;
    let asked = &spec.placement.asked;
    let asks_otherwise = !asked.is_empty() && placement::asked(pod).as_ref() != Some(asked);
    // Which tolerations are the VM's too is the configuration's word, and a later one does not touch the VM.
    let settings = c
        .observed
        .settings
        .as_ref()
        .filter(|s| s.hash == spec.config_hash);
    let tolerates_otherwise = settings.is_some_and(|settings| {
        let now = placement::tolerations(&pod.tolerations, &settings.spec.placement.host_taints);
        now.iter()
            .any(|toleration| !spec.placement.tolerations.contains(toleration))
    });
    let fits = pod
        .request
        .as_ref()
        .is_ok_and(|request| sizing::has_room(&spec.resources, *request));
    asks_otherwise || tolerates_otherwise || !fits
}

fn lifted_due(c: &Context, pod: &PodView) -> Option<Why> {
    let ages = &c.observed.ages;
    if pod.terminal && ages.finished >= finished_pod_ttl(c) {
        return Some(Why::Finished);
    }
    if pod.deletion_deadline.is_some() && ages.deleting >= stop_deadline(pod) {
        return Some(Why::GraceOver);
    }
    match attempt::failed_for(c).map(str::parse) {
        Some(Ok(AttemptFailure::NotStarted)) => return Some(Why::NotStarted),
        Some(_) => return Some(Why::LiftedTooSoon),
        None => {}
    }
    match &c.observed.vmi {
        None => return Some(Why::VmLost),
        Some(vmi) if vmi.ended() || Some(&vmi.uid) != c.status.vmi_uid.as_ref() => return Some(Why::VmLost),
        Some(_) => {}
    }
    rebooted(c).then_some(Why::Rebooted)
}

/// Whether the guest has booted again since its kubelet joined.
pub(super) fn rebooted(c: &Context) -> bool {
    let booted_as = c.status.boot_id.as_ref().filter(|id| !id.is_empty());
    let boots_as = c
        .observed
        .node
        .as_ref()
        .map(|n| &n.boot_id)
        .filter(|id| !id.is_empty());
    booted_as.is_some() && boots_as.is_some() && booted_as != boots_as
}

/// How long a pod that is to be deleted may take.
pub(super) fn stop_deadline(pod: &PodView) -> SignedDuration {
    pod.deletion_grace.saturating_add(GRACE_MARGIN)
}

pub(super) fn finished_pod_ttl(c: &Context) -> SignedDuration {
    c.observed
        .settings
        .as_ref()
        .map_or(DEFAULT_FINISHED_POD_TTL, |s| s.finished_pod_ttl)
}

pub(super) fn decide(c: &Context, why: Why) -> Decision {
    let mut decision = Decision::wait().insist_on_live_view();
    let losing = c.observed.pod.as_ref().filter(|p| p.lifted() && !p.terminal);
    if let Some(pod) = losing {
        let (reason, message) = match why {
            Why::NotStarted => (PodReason::NotStarted, c.status.message.as_str()),
            _ => (PodReason::NodeLost, explain(why)),
        };
        // Once the record is on its way out, what the pod says is why.
        let known = why == Why::RecordGoing && says_why(pod);
        let report = report(pod, false, reason, message).filter(|_| !known);
        decision = decision.writes(mark_not_ready(pod)).writes(report);
    }
    if let Some(pod) = c.observed.pod.as_ref().filter(|_| why == Why::GateRemoved) {
        decision = decision.writes(report(pod, false, PodReason::GateRemoved, explain(why)));
    }
    if let Some(pod) = c.observed.pod.as_ref().filter(|_| why == Why::Replanned) {
        decision = decision.writes(report(pod, false, PodReason::Replanned, explain(why)));
    }
    if why != Why::RecordGoing {
        decision = decision.write(delete_record(c));
        if let Some(note) = note(c, why) {
            decision = decision.note(note);
        }
    }
    if let Some(vmi) = &c.observed.vmi {
        let delete = (!vmi.deleting).then(|| Write::DeleteVmi(vmi.reference()));
        return decision.writes(delete).writes(place::follow(c));
    }
    if let Some(pod) = losing {
        decision = decision.write(fail_pod(c, pod));
    }
    if let Some(pod) = c
        .observed
        .pod
        .as_ref()
        .filter(|p| p.lifted() && p.deletion_deadline.is_some())
    {
        decision = decision.write(Write::DeletePod(pod.reference()));
    }
    decision = decision.writes(credentials(c));
    match &c.observed.node {
        Some(node) => decision.writes(node_writes(c, node)),
        // A flood of requests must not hold the record up. What is left of it goes without one.
        None => decision
            .writes(remove_finalizer(c))
            .writes(csrs::deletions(&c.observed.csrs)),
    }
}

pub(super) fn delete_record(c: &Context) -> Write {
    Write::DeleteRecord(c.record_ref())
}

fn remove_finalizer(c: &Context) -> Option<Write> {
    let finalizers = c.record.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers
        .iter()
        .position(|f| f == names::FINALIZER)
        .map(|index| Write::RemoveFinalizer {
            record: c.record_ref(),
            index,
        })
}

/// Deletes the Node, and then the CSRs that it and its token filed: the Node does not wait for them.
pub(super) fn node_writes(c: &Context, node: &NodeView) -> Vec<Write> {
    match (node.deleting, node.finalizers) {
        (false, _) => std::iter::once(Write::DeleteNode(node.reference()))
            .chain(csrs::deletions(&c.observed.csrs))
            .collect(),
        (true, true) => vec![Write::StripNodeFinalizers(node.reference())],
        (true, false) => Vec::new(),
    }
}

/// Both Secrets of the attempt, unless they went when the kubelet joined.
pub(super) fn credentials(c: &Context) -> Option<Write> {
    (!record::has_joined(&c.status)).then(|| revoke(c))
}

/// Both Secrets of the attempt.
pub(super) fn revoke(c: &Context) -> Write {
    Write::RevokeCredentials {
        record: c.record.clone(),
        attempt: c.attempt(),
    }
}

/// The report of a pod that asks for a node by name, which its own node cannot be.
pub(super) fn names_nodes(pod: &PodView) -> Option<Write> {
    report(pod, false, PodReason::NamesNodes, explain(Why::NamesNodes))
}

/// A pod that never started has a reason of its own, as if its kubelet had rejected it: the next one of its controller waits.
fn fail_pod(c: &Context, pod: &PodView) -> Write {
    let (reason, message) = if attempt::failed_for(c) == Some(AttemptFailure::NotStarted.into()) {
        (PodReason::NotStarted.into(), c.status.message.as_str())
    } else {
        (VM_GONE, "the virtual machine that the pod ran on is gone")
    };
    Write::FailPod {
        pod: pod.reference(),
        reason,
        message: message.to_owned(),
    }
}

fn says_why(pod: &PodView) -> bool {
    let given = [PodReason::NodeLost, PodReason::NotStarted];
    pod.condition
        .as_ref()
        .is_some_and(|said| given.iter().any(|reason| said.gives(*reason)))
}

fn mark_not_ready(pod: &PodView) -> Option<Write> {
    pod.ready.then(|| Write::PodNotReady(pod.reference()))
}

fn explain(why: Why) -> &'static str {
    match why {
        Why::RecordGoing => "the pod's MaroonedNode was deleted, so its VM is deleted too",
        Why::PodGone | Why::Finished => "the pod has ended, so its VM is deleted",
        Why::GraceOver => "the pod's kubelet did not stop it within its grace period, so its VM is deleted",
        Why::GateRemoved => {
            "the gate maroonedpods.io/gate was removed, not by the reconciler; the pod stays without a node"
        }
        Why::NamesNodes => {
            "node selector or affinity ask for a node by its name, and the pod's own node is made for it: create the pod \
             again without kubernetes.io/hostname and metadata.name in them"
        }
        Why::Replanned => {
            "the pod was changed while it waited and asks for another VM; the one that was begun is deleted, and another \
             follows"
        }
        Why::NotStarted => "the pod did not start on its node in time",
        Why::VmLost => "the pod's VM has ended",
        Why::LiftedTooSoon => "the gate was lifted for an earlier VM of the pod; it cannot run on another",
        Why::Rebooted => "the pod's VM rebooted; a rebooted VM is destroyed",
    }
}

fn note(c: &Context, why: Why) -> Option<Note> {
    c.observed.pod.as_ref()?;
    match why {
        Why::VmLost | Why::Rebooted | Why::GraceOver | Why::LiftedTooSoon => {
            Some(Note::warning(PodReason::NodeLost, explain(why)))
        }
        Why::GateRemoved => Some(Note::warning(PodReason::GateRemoved, explain(why))),
        Why::NamesNodes => Some(Note::warning(PodReason::NamesNodes, explain(why))),
        Why::Replanned => Some(Note::normal(PodReason::Replanned, explain(why))),
        // The failed attempt has its own.
        Why::NotStarted | Why::RecordGoing | Why::PodGone | Why::Finished => None,
    }
}
