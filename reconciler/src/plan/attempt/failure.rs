//! How an attempt fails, what then goes, and when the next one is due.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use maroonedpods_common::api::{AttemptFailure, MaroonedNodeStatus, NodeCondition, Phase, PodReason};

use crate::objects::identity;
use crate::objects::record::set_condition;
use crate::plan::report::report;
use crate::plan::{Context, Decision, Note, Write, after, release};
use crate::view::{PodView, VmiView};

/// Deadlines of a stage while no configuration is there to ask.
const DEFAULT_DEADLINE: SignedDuration = SignedDuration::from_mins(5);
const DEFAULT_MAX_ATTEMPTS: u32 = 3;
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(5);
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_mins(5);
/// After all attempts of a round. An outage must not strand what was created in it.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_mins(10);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// Why an attempt failed.
pub(in crate::plan) struct Failure {
    pub(in crate::plan) reason: AttemptFailure,
    pub(in crate::plan) message: String,
}

pub(super) fn failure(c: &Context, vmi: &VmiView, expected_uid: &str) -> Option<Failure> {
    let failure = |reason, message| Some(Failure { reason, message });
    if vmi.uid != expected_uid {
        return failure(
            AttemptFailure::VmReplaced,
            "the VM was replaced by another one with the same name".to_owned(),
        );
    }
    if vmi.ended() {
        return failure(
            AttemptFailure::VmEnded,
            format!("the VM ended (phase {}) before its node was ready", vmi.phase),
        );
    }
    if let Some(address) = vmi.only_ipv6.as_ref().filter(|_| vmi.running()) {
        let message = format!(
            "the VM has the address {address} and no IPv4 address: marooned pods need a pod network with IPv4"
        );
        return failure(AttemptFailure::NoIpv4, message);
    }
    let node = c.observed.node.as_ref();
    if let Some(node) =
        node.filter(|n| !n.system_uuid.is_empty() && !n.system_uuid.eq_ignore_ascii_case(&firmware(c)))
    {
        let message = format!(
            "the node says it runs on machine {}, which is not its VM",
            node.system_uuid
        );
        return failure(AttemptFailure::IdentityMismatch, message);
    }
    if release::rebooted(c) {
        return failure(
            AttemptFailure::Rebooted,
            "the VM rebooted before its pod could run".to_owned(),
        );
    }
    let deadline = deadline(c, vmi);
    if c.now < deadline.at {
        return None;
    }
    let blocked = vmi
        .blocked
        .as_ref()
        .map(|b| format!(" ({b})"))
        .unwrap_or_default();
    failure(
        deadline.reason,
        format!("{} within {:#}{blocked}", deadline.what, deadline.allowed),
    )
}

pub(super) struct Deadline {
    pub(super) at: Timestamp,
    allowed: SignedDuration,
    reason: AttemptFailure,
    what: &'static str,
}

pub(super) fn deadline(c: &Context, vmi: &VmiView) -> Deadline {
    let (age, allowed, reason, what) = if vmi.running() {
        let what = "the VM's node was not ready";
        let ages = &c.observed.ages;
        // A ready node waits for as long as the owners of other gates take.
        let ready = c.observed.node.as_ref().is_some_and(|node| node.ready);
        let held = if ready { ages.free } else { ages.running };
        (
            ages.running.min(held),
            join_deadline(c),
            AttemptFailure::JoinDeadline,
            what,
        )
    } else {
        let what = "the VM did not run";
        (
            c.observed.ages.launched,
            boot_deadline(c),
            AttemptFailure::BootDeadline,
            what,
        )
    };
    Deadline {
        at: c.due(age, allowed),
        allowed,
        reason,
        what,
    }
}

/// Marks the attempt as failed, permanently: later passes read the mark, whatever the clock shows then.
pub(in crate::plan) fn fail(c: &Context, vmi: Option<&VmiView>, failure: &Failure) -> Decision {
    let mut status = c.status.clone();
    status.message.clone_from(&failure.message);
    set_condition(
        &mut status,
        NodeCondition::Launched,
        false,
        failure.reason,
        &failure.message,
        c.now,
    );
    Decision::wait()
        .insist_on_live_view()
        .writes(c.record_status(status))
        .writes(
            vmi.filter(|v| !v.deleting)
                .map(|v| Write::DeleteVmi(v.reference())),
        )
        .note(Note::warning(
            failure.reason,
            format!("attempt {}: {}", c.attempt(), failure.message),
        ))
}

/// After a failed attempt: everything of it goes, then the next one is due after a pause.
pub(super) fn clean_up(c: &Context, pod: &PodView) -> Decision {
    let attempt = c.attempt();
    let allowed = max_attempts(c);
    let why = &c.status.message;
    let failed = format!("attempt {} of {allowed} failed: {why}", in_round(c, attempt));
    let going = report(
        pod,
        false,
        PodReason::Retrying,
        format!("{failed}; its VM, Node and Secrets are deleted before the next attempt"),
    );
    let decision = Decision::wait().insist_on_live_view();
    if let Some(vmi) = &c.observed.vmi {
        let delete = (!vmi.deleting).then(|| Write::DeleteVmi(vmi.reference()));
        return decision.writes(delete).writes(going);
    }
    if let Some(node) = &c.observed.node {
        return decision.writes(release::node_writes(c, node)).writes(going);
    }
    // Only the status below forgets the attempt: until then its Secrets can be named.
    let decision = decision.writes(release::credentials(c));
    if attempt.is_multiple_of(allowed) {
        let pause = long_pause(c, attempt);
        let until = after(c.now, pause);
        let status = MaroonedNodeStatus {
            attempts: attempt,
            phase: Phase::Failed,
            message: format!(
                "all {attempt} attempts failed, the last because {why}; the next is made at {}, or as soon as the \
                 configuration changes",
                until.strftime("%Y-%m-%dT%H:%M:%SZ")
            ),
            not_before: Some(Time(until)),
            ..MaroonedNodeStatus::default()
        };
        let exhausted = report(pod, false, PodReason::AttemptsExhausted, status.message.clone());
        let note = Note::warning(PodReason::AttemptsExhausted, status.message.clone());
        return decision
            .writes(c.record_status(status))
            .writes(exhausted)
            .note(note)
            .wake_at(until);
    }
    let pause = backoff(c, attempt);
    let until = after(c.now, pause);
    let status = MaroonedNodeStatus {
        attempts: attempt.saturating_add(1),
        message: format!("{failed}; the next starts after {pause:#}"),
        not_before: Some(Time(until)),
        ..MaroonedNodeStatus::default()
    };
    let retrying = report(pod, false, PodReason::Retrying, status.message.clone());
    decision
        .writes(c.record_status(status))
        .writes(retrying)
        .wake_at(until)
}

/// All attempts of a round have failed: a long pause, and then another round. What may have ended the cause ends the
/// pause: another configuration, or a cluster that was not as it must be, and is again.
pub(super) fn exhausted(c: &Context, pod: &PodView) -> Decision {
    let configured = c.observed.settings.as_ref();
    if configured.is_some_and(|now| now.hash != c.record.spec.config_hash) {
        // A record keeps what its VMs are built from, so another one takes its place.
        return Decision::wait().write(release::delete_record(c));
    }
    if c.observed.hold.is_none()
        && let Some(at) = pause_ends(c)
    {
        let report = report(pod, false, PodReason::AttemptsExhausted, c.status.message.clone());
        return Decision::wait().writes(report).wake_at(at);
    }
    // A launch that is held up goes on as soon as it may.
    Decision::wait().writes(c.record_status(MaroonedNodeStatus {
        attempts: c.attempt().saturating_add(1),
        ..MaroonedNodeStatus::default()
    }))
}

/// When the pause before the next attempt ends, if it has not ended. The time may be another leader's word: none waits
/// longer than the pause is.
pub(super) fn pause_ends(c: &Context) -> Option<Timestamp> {
    let Time(recorded) = c.status.not_before.as_ref()?;
    let attempt = c.attempt();
    let pause = if c.status.phase == Phase::Failed {
        long_pause(c, attempt)
    } else {
        backoff(c, attempt.saturating_sub(1))
    };
    Some((*recorded).min(c.due(c.observed.ages.pausing, pause))).filter(|at| *at > c.now)
}

fn max_attempts(c: &Context) -> u32 {
    let configured = c.observed.settings.as_ref().map(|s| s.spec.max_attempts);
    configured.unwrap_or(DEFAULT_MAX_ATTEMPTS).max(1)
}

/// Which attempt of its round one is, from 1.
fn in_round(c: &Context, attempt: u32) -> u32 {
    attempt.saturating_sub(1) % max_attempts(c) + 1
}

/// The pause after a failed attempt.
fn backoff(c: &Context, attempt: u32) -> SignedDuration {
    doubled(FIRST_BACKOFF, in_round(c, attempt), LONGEST_BACKOFF)
}

/// The pause after the last attempt of a round.
fn long_pause(c: &Context, attempt: u32) -> SignedDuration {
    doubled(FIRST_PAUSE, attempt / max_attempts(c), LONGEST_PAUSE)
}

/// `first` for the first time, twice as much for each after it, `longest` at most.
fn doubled(first: SignedDuration, nth: u32, longest: SignedDuration) -> SignedDuration {
    let factor = 2_i32.saturating_pow(nth.saturating_sub(1).min(16));
    first.saturating_mul(factor).min(longest)
}

fn firmware(c: &Context) -> String {
    identity::firmware_uuid(&c.record, c.attempt()).to_string()
}

pub(super) fn boot_deadline(c: &Context) -> SignedDuration {
    c.observed.settings.as_ref().map_or(DEFAULT_DEADLINE, |s| s.boot)
}

pub(super) fn join_deadline(c: &Context) -> SignedDuration {
    c.observed.settings.as_ref().map_or(DEFAULT_DEADLINE, |s| s.join)
}
