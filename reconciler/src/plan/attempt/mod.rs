//! Steps 2 to 8: from a record to a lifted gate, one VM at a time, at most `maxAttempts` of them.

mod failure;

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use maroonedpods_common::api::{AttemptFailure, MaroonedNode, NodeCondition, NodeReason, Phase, PodReason};
use maroonedpods_common::names;

pub(super) use failure::{Failure, fail};
use failure::{boot_deadline, clean_up, deadline, exhausted, failure, join_deadline, pause_ends};

use super::report::{report, report_again};
use super::{Context, Decision, Note, Write, after, csrs, network_policies, place, taints};
use crate::objects::lift::Lift;
use crate::objects::node;
use crate::objects::record::{self, set_condition};
use crate::placement;
use crate::view::{NodeView, PodView, VmiView};

/// A token outlives the deadlines by this, so that the deadline is what people see.
const TOKEN_MARGIN: SignedDuration = SignedDuration::from_secs(60);
/// A launch younger than this is reported as one; naming each short step would cost a write apiece.
const DETAIL_AFTER: SignedDuration = SignedDuration::from_secs(5);
/// The node controller removes its taints within 5 s; a wait for them is reported only after that.
const TAINTS_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// How soon to look again while a former owner's VMI is collected.
const FOREIGN_VMI_RETRY: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn decide(c: &Context, pod: &PodView) -> Decision {
    if c.status.phase == Phase::Failed {
        // No guest of this record runs, so pending requests come from earlier ones; and the pause is long.
        return exhausted(c, pod).writes(csrs::deletions(&c.observed.csrs));
    }
    if has_failed(c) {
        return clean_up(c, pod).writes(place::follow(c));
    }
    let Some(vmi) = &c.observed.vmi else {
        return match &c.status.vmi_uid {
            None => launch(c, pod),
            Some(_) => fail(
                c,
                None,
                &Failure {
                    reason: AttemptFailure::VmGone,
                    message: "the VM was deleted before its node was ready".to_owned(),
                },
            ),
        };
    };
    if vmi.owner_uid.as_deref() != Some(c.record_uid()) {
        // Left by a deleted record of the same pod; garbage collection takes it, then the name is free.
        let message = "a VM of an earlier record still has this pod's name; waiting until it is gone";
        return Decision::wait()
            .writes(report(pod, false, PodReason::VmBlocked, message))
            .wake_at(after(c.now, FOREIGN_VMI_RETRY));
    }
    let Some(vmi_uid) = &c.status.vmi_uid else {
        return Decision::wait().writes(launched(c, vmi));
    };
    if let Some(failure) = failure(c, vmi, vmi_uid) {
        return fail(c, Some(vmi), &failure);
    }
    advance(c, pod, vmi)
}

/// Whether the attempt under way is marked as failed: it is never taken up again.
pub(super) fn has_failed(c: &Context) -> bool {
    failed_for(c).is_some()
}

/// The reason for which the attempt under way is marked as failed, as the record has it.
pub(super) fn failed_for<'a>(c: &'a Context<'_>) -> Option<&'a str> {
    let launched = record::condition(&c.status, NodeCondition::Launched);
    launched
        .filter(|launched| launched.status == "False")
        .map(|failed| failed.reason.as_str())
}

/// Step 2.
fn launch(c: &Context, pod: &PodView) -> Decision {
    if let Some(why) = &c.observed.hold {
        return Decision::wait().writes(report(pod, false, PodReason::ClusterNotReady, why.clone()));
    }
    if let Some(decision) = network_policies::wait(c.observed, pod) {
        return decision;
    }
    if let Some(at) = pause_ends(c) {
        return Decision::wait()
            .writes(report(pod, false, PodReason::Retrying, c.status.message.clone()))
            .wake_at(at);
    }
    let lifetime = boot_deadline(c)
        .saturating_add(join_deadline(c))
        .saturating_add(TOKEN_MARGIN);
    let record = as_kubevirt_accepts(c);
    let attempt = c.attempt();
    // A launch that was refused and is tried again keeps saying why, until it succeeds.
    let was_refused = pod
        .condition
        .as_ref()
        .is_some_and(|said| said.gives(PodReason::Refused));
    let launching = report(
        pod,
        false,
        PodReason::Launching,
        "a virtual machine is being started for this pod",
    );
    // Asked first, so that a credential is not made at each try and taken back again.
    let ask = was_refused.then(|| Write::TryVmi {
        record: record.clone(),
        attempt,
    });
    Decision::wait()
        .writes(launching.filter(|_| !was_refused))
        .writes(ask)
        .write(Write::IssueCredentials {
            record: record.clone(),
            attempt,
            lifetime_seconds: lifetime.as_secs(),
        })
        .write(Write::CreateVmi { record, attempt })
        .taken_back_by(super::release::revoke(c))
        .note(Note::normal(
            "VMCreating",
            format!("starting VM {}", names::vmi_name(&pod.uid, attempt)),
        ))
}

/// The record as VMs are made of it now: whether KubeVirt accepts `rebootPolicy` may not have been known yet when it was
/// made, or have changed with a feature gate. Without it, a VM is destroyed once its kubelet reports another boot.
fn as_kubevirt_accepts(c: &Context) -> Arc<MaroonedNode> {
    let mut record = c.record.clone();
    let known = c.observed.terminate_on_reboot;
    if let Some(accepted) = known.filter(|&accepted| accepted != record.spec.vm.terminate_on_reboot) {
        Arc::make_mut(&mut record).spec.vm.terminate_on_reboot = accepted;
    }
    record
}

fn launched(c: &Context, vmi: &VmiView) -> Option<Write> {
    let mut status = c.status.clone();
    status.phase = Phase::Launched;
    status.attempts = c.attempt();
    status.not_before = None;
    status.message = String::new();
    status.vmi_name = Some(vmi.name.clone());
    status.vmi_uid = Some(vmi.uid.clone());
    status.stages.launched = Some(Time(c.now));
    set_condition(
        &mut status,
        NodeCondition::Launched,
        true,
        NodeReason::VmCreated,
        "the VM exists",
        c.now,
    );
    c.record_status(status)
}

/// Steps 4 to 8, whichever are due.
fn advance(c: &Context, pod: &PodView, vmi: &VmiView) -> Decision {
    let decision = Decision::wait().wake_at(deadline(c, vmi).at);
    // Until its Node is there, the guest gets no certificate.
    let Some(node) = &c.observed.node else {
        return match place::create(c, vmi) {
            Some(create) => decision.write(create),
            None => progress(c, pod, vmi, decision),
        };
    };
    let decision = decision
        .writes(csrs::decide(c))
        .writes(place::correct(c, vmi, node));
    if node.system_uuid.is_empty() {
        return progress(c, pod, vmi, decision);
    }
    if c.status.phase != Phase::Registered {
        return decision
            .write(super::release::revoke(c))
            .writes(registered(c, node))
            .note(Note::normal(
                "NodeJoined",
                format!("node {} has joined", names::node_name(&pod.uid)),
            ));
    }
    let agreed = |address: &&String| vmi.address.as_ref().is_none_or(|vmis| vmis == *address);
    let Some(address) = node.address.as_ref().filter(agreed) else {
        return progress(c, pod, vmi, decision);
    };
    if !node.ready || !vmi.running() || vmi.deleting {
        return progress(c, pod, vmi, decision);
    }
    if let Err(why) = verify(c, pod, node) {
        return fail(
            c,
            Some(vmi),
            &Failure {
                reason: AttemptFailure::IdentityMismatch,
                message: why.to_owned(),
            },
        );
    }
    lift(c, pod, node, address, decision)
}

/// Step 7, beyond what [`failure`] has checked already.
fn verify(c: &Context, pod: &PodView, node: &NodeView) -> Result<(), &'static str> {
    if Some(&node.uid) != c.status.node_uid.as_ref() {
        return Err("the node was deleted and created again, not by the reconciler");
    }
    if node.deleting {
        return Err("the node is being deleted, not by the reconciler");
    }
    if node.labelled_for.as_deref() != Some(pod.uid.as_str()) {
        return Err("the node lost the labels that make it this pod's own");
    }
    let wanted = node::lasting_taints(&c.record);
    let carries = |w: &k8s_openapi::api::core::v1::Taint| {
        node.taints
            .iter()
            .any(|t| t.key == w.key && t.value == w.value && t.effect == w.effect)
    };
    if wanted.iter().all(carries) {
        Ok(())
    } else {
        Err("the node lost the taints that keep other pods off")
    }
}

/// Step 8, and step 9 of a pod that no scheduler binds.
fn lift(c: &Context, pod: &PodView, node: &NodeView, address: &str, decision: Decision) -> Decision {
    let Some(gate_index) = pod.gate_index else {
        return decision;
    };
    if !placement::fits(pod, node) {
        let message = "the VM's node is ready, but does not have the labels that the pod selects: the VM's host may have lost them";
        return decision.writes(report(pod, false, PodReason::Joining, message));
    }
    if !pod.foreign_gates.is_empty() {
        // The pod is judged anew when they go: a queue adds selectors with that.
        let message = format!(
            "the pod's node is ready; other scheduling gates still hold the pod: {}",
            pod.foreign_gates.join(", ")
        );
        return decision.writes(report(pod, false, PodReason::WaitingForOtherGates, message));
    }
    let taints = taints::in_the_way(c, pod, node);
    if !taints.is_empty() {
        return tainted(c, pod, &taints, decision);
    }
    if let Some(wait) = network_policies::wait(c.observed, pod) {
        return decision.and(wait);
    }
    let startup = node.taints.iter().position(|t| t.key == names::STARTUP_TAINT);
    decision
        .writes(startup.map(|index| Write::RemoveStartupTaint {
            node: node.reference(),
            index,
        }))
        .write(Write::LiftGate(Box::new(Lift {
            pod: pod.reference(),
            resource_version: pod.resource_version.clone(),
            gate_index,
            placement: pod.placement.clone(),
            taint_key: c.record.spec.vm.taint_key.clone(),
            address: address.to_owned(),
        })))
        .note(Note::normal(
            "GateLifted",
            format!("node {} is ready and reserved for this pod", node.name),
        ))
        .and(super::serve::bind_ours(pod))
        .and(super::serve::lifted(c, pod))
}

/// A ready node that the pod may not have yet. The deadline to join still holds.
fn tainted(c: &Context, pod: &PodView, taints: &[String], decision: Decision) -> Decision {
    let tell_at = c.due(c.observed.ages.ready, TAINTS_AFTER);
    if c.now < tell_at {
        return decision.wake_at(tell_at);
    }
    let taints = taints.join(", ");
    let message = format!(
        "the VM's node is ready, but still carries a taint that the pod does not tolerate for good: {taints}"
    );
    decision.writes(report_again(pod, PodReason::Joining, &message))
}

fn registered(c: &Context, node: &NodeView) -> Option<Write> {
    let mut status = c.status.clone();
    status.phase = Phase::Registered;
    status.node_uid = Some(node.uid.clone());
    status.boot_id = Some(node.boot_id.clone());
    status.address.clone_from(&node.address);
    status.stages.registered = Some(Time(c.now));
    let message = "the kubelet speaks with its own certificate; the join credential is deleted";
    set_condition(
        &mut status,
        NodeCondition::Registered,
        true,
        NodeReason::KubeletJoined,
        message,
        c.now,
    );
    c.record_status(status)
}

/// Reports what the pod waits for, once the wait is long enough to report.
fn progress(c: &Context, pod: &PodView, vmi: &VmiView, decision: Decision) -> Decision {
    let detail_at = c.due(c.observed.ages.launched, DETAIL_AFTER);
    if c.now < detail_at {
        return decision.wake_at(detail_at);
    }
    let (reason, message) = match &vmi.blocked {
        _ if vmi.running() && c.status.phase == Phase::Registered => (
            PodReason::Joining,
            "the VM's node has joined and is not ready yet".to_owned(),
        ),
        _ if vmi.running() => (
            PodReason::Joining,
            "the VM runs; its node has not joined yet".to_owned(),
        ),
        Some(blocked) => (PodReason::VmBlocked, format!("the VM cannot start: {blocked}")),
        // The pod has this reason since the launch, unless that was refused at first. A separate report would exceed the
        // limit of S7.
        None => (
            PodReason::Launching,
            format!("the VM is starting (phase {})", vmi.phase),
        ),
    };
    decision.writes(report(pod, false, reason, message))
}
