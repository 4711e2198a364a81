//! After the gate is lifted: the pod runs on its own node, and we watch.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use maroonedpods_common::api::{AttemptFailure, NodeCondition, NodeReason, Phase};
use maroonedpods_common::names;

use super::attempt::{self, Failure};
use super::release::{finished_pod_ttl, stop_deadline};
use super::{Context, Decision, Note, Write, after, csrs, network_policies, place};
use crate::binding::Demands;
use crate::objects::record::set_condition;
use crate::view::PodView;

/// While no configuration is there to ask.
const DEFAULT_START_DEADLINE: SignedDuration = SignedDuration::from_mins(30);
/// Objects that are read one after the other may show different moments of another leader's lift. After this long they
/// cannot.
const RECORD_WITHIN: SignedDuration = SignedDuration::from_secs(5);
/// How soon to ask again when a disruption budget holds an eviction back.
const EVICTION_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// How soon to look again whether a pod's claims have their volumes: they are not watched.
const CLAIMS_RETRY: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn decide(c: &Context, pod: &PodView) -> Decision {
    if !lifted_by_its_attempt(c) {
        let judged_at = c.due(c.observed.ages.lifted, RECORD_WITHIN);
        return if c.now < judged_at {
            Decision::wait().wake_at(judged_at)
        } else {
            attempt::fail(c, c.observed.vmi.as_ref(), &lifted_too_soon())
        };
    }
    let mut decision = bind(c, pod)
        .and(lifted(c, pod))
        .writes(csrs::decide(c))
        .writes(place::follow(c));
    if pod.terminal {
        return decision.wake_at(c.due(c.observed.ages.finished, finished_pod_ttl(c)));
    }
    if pod.deletion_deadline.is_some() {
        return decision.wake_at(c.due(c.observed.ages.deleting, stop_deadline(pod)));
    }
    if !pod.started && pod.foreign_gates.is_empty() {
        let allowed = start_deadline(c);
        let at = c.due(c.observed.ages.lifted, allowed);
        if c.now >= at {
            return attempt::fail(c, c.observed.vmi.as_ref(), &not_started(pod, allowed));
        }
        decision = decision.wake_at(at);
    }
    if c.observed.vmi.as_ref().is_some_and(|v| v.evacuating) {
        decision = decision
            .wake_at(after(c.now, EVICTION_RETRY))
            .write(Write::EvictPod(pod.reference()));
    }
    decision
}

/// Whether the record is where a lift leaves it: on record, or about to be.
fn lifted_by_its_attempt(c: &Context) -> bool {
    let mut taints = c.observed.node.iter().flat_map(|node| &node.taints);
    match c.status.phase {
        Phase::Lifted => true,
        Phase::Registered => taints.all(|taint| taint.key != names::STARTUP_TAINT),
        Phase::Pending | Phase::Launched | Phase::Failed => false,
    }
}

/// A lift that was on its way while its attempt failed. The patch tests the pod's version, which every report of a
/// failure or a new start changes, so this needs a report that was lost. The pod is pinned to a Node that must not run
/// it.
fn lifted_too_soon() -> Failure {
    Failure {
        reason: AttemptFailure::LiftedTooSoon,
        message: "the gate was lifted for an earlier VM of the pod".to_owned(),
    }
}

fn start_deadline(c: &Context) -> SignedDuration {
    let configured = c.observed.settings.as_ref().map(|settings| settings.start);
    configured.unwrap_or(DEFAULT_START_DEADLINE)
}

/// The pod cannot go back behind its gate: it fails, and its controller may make another one.
fn not_started(pod: &PodView, allowed: SignedDuration) -> Failure {
    let why = match &pod.unscheduled {
        _ if pod.bound => "its kubelet has not taken it up",
        Some(why) => why,
        None => "no scheduler has bound it",
    };
    Failure {
        reason: AttemptFailure::NotStarted,
        message: format!("the pod did not start on its node within {allowed:#}: {why}"),
    }
}

/// Step 9, for a pod that no scheduler binds, or that its scheduler cannot place.
fn bind(c: &Context, pod: &PodView) -> Decision {
    if pod.bound || pod.terminal || pod.deletion_deadline.is_some() {
        return Decision::wait();
    }
    let (Some(packed), Some(node)) = (&pod.demands, &c.observed.node) else {
        return bind_ours(pod);
    };
    let met = |demands: &Demands| demands.met_by(&names::node_name(&pod.uid), node);
    let Some(demands) = packed.unpacked().filter(met) else {
        return Decision::wait();
    };
    if demands.claims.is_empty() {
        return bound(pod);
    }
    let decision = Decision::wait().insist_on_live_view();
    if c.observed.claims_bound {
        decision.and(bound(pod))
    } else {
        decision.wake_at(after(c.now, CLAIMS_RETRY))
    }
}

/// Step 9, for a pod that no scheduler binds: lifted before, or by the write before this one. Its Node was verified for
/// the lift, and no other pod may run there. If a user has deleted the Node since, Kubernetes' garbage collection takes the
/// pod once it is bound; unbound, the pod would wait for ever.
pub(super) fn bind_ours(pod: &PodView) -> Decision {
    // The API server binds no pod that any gate holds.
    if pod.ours_to_bind && pod.foreign_gates.is_empty() {
        bound(pod)
    } else {
        Decision::wait()
    }
}

/// The binding, with the words that a scheduler has for it.
fn bound(pod: &PodView) -> Decision {
    let message = format!(
        "Successfully assigned {}/{} to {}",
        pod.namespace,
        pod.name,
        names::node_name(&pod.uid)
    );
    Decision::wait()
        .write(Write::BindPod(pod.reference()))
        .note(Note::normal("Scheduled", message))
}

/// The reports on pod and record once the gate is lifted; nothing where they are there already.
pub(super) fn lifted(c: &Context, pod: &PodView) -> Decision {
    let said = if pod.terminal || pod.deletion_deadline.is_some() {
        Decision::wait()
    } else {
        network_policies::ready(c.observed, pod)
    };
    said.writes(lifted_status(c))
}

fn lifted_status(c: &Context) -> Option<Write> {
    if c.status.phase == Phase::Lifted {
        return None;
    }
    let mut status = c.status.clone();
    status.phase = Phase::Lifted;
    // It may have changed since the kubelet joined; from now on it is the pod's and stays.
    if let Some(node) = &c.observed.node {
        status.address.clone_from(&node.address);
    }
    status.stages.ready = Some(Time(c.now));
    status.stages.lifted = Some(Time(c.now));
    set_condition(
        &mut status,
        NodeCondition::Ready,
        true,
        NodeReason::NodeVerified,
        "the node is ready and this VM's own",
        c.now,
    );
    set_condition(
        &mut status,
        NodeCondition::Lifted,
        true,
        NodeReason::GateLifted,
        "the pod may be bound to its node",
        c.now,
    );
    c.record_status(status)
}
