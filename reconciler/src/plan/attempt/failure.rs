//! How an attempt fails, what then goes, and when the next one is due.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use maroonedpods_common::api::{MaroonedNodeStatus, Phase, condition};

use crate::identity;
use crate::plan::report::{reason, report};
use crate::plan::{Context, Note, Plan, Write, after, release};
use crate::record::set_condition;
use crate::view::{PodView, VmiView};

/// Deadlines of a stage while no configuration is there to ask.
const DEFAULT_DEADLINE: SignedDuration = SignedDuration::from_mins(5);
const DEFAULT_MAX_ATTEMPTS: u32 = 3;
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(5);
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_mins(5);

/// Why an attempt failed.
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

pub(super) fn failure(c: &Context, vmi: &VmiView, expected_uid: &str) -> Option<Failure> {
    let failure = |reason, message| Some(Failure { reason, message });
    if vmi.uid != expected_uid {
        return failure(
            "VMReplaced",
            "somebody replaced the VM by another of its name".to_owned(),
        );
    }
    if vmi.ended() {
        return failure(
            "VMEnded",
            format!("the VM ended (phase {}) before its node was ready", vmi.phase),
        );
    }
    let node = c.view.node.as_ref();
    if let Some(node) =
        node.filter(|n| !n.system_uuid.is_empty() && !n.system_uuid.eq_ignore_ascii_case(&firmware(c)))
    {
        let message = format!(
            "the node says it runs on machine {}, which is not its VM",
            node.system_uuid
        );
        return failure("IdentityMismatch", message);
    }
    if release::rebooted(c) {
        return failure("Rebooted", "the VM rebooted before its pod could run".to_owned());
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
    reason: &'static str,
    what: &'static str,
}

pub(super) fn deadline(c: &Context, vmi: &VmiView) -> Deadline {
    let launched = c.status.stages.launched.as_ref().map_or(c.now, |t| t.0);
    if vmi.running() {
        // KubeVirt's clock may differ from ours; neither the past nor the future may stretch the stage.
        let since = vmi
            .running_since
            .unwrap_or(launched)
            .clamp(launched, c.now.max(launched));
        let allowed = join_deadline(c);
        Deadline {
            at: after(since, allowed),
            allowed,
            reason: "JoinDeadline",
            what: "the VM's node was not ready",
        }
    } else {
        let allowed = boot_deadline(c);
        Deadline {
            at: after(launched, allowed),
            allowed,
            reason: "BootDeadline",
            what: "the VM did not run",
        }
    }
}

/// Marks the attempt as failed, for good: what follows reads the mark, whatever the clock says later.
pub(super) fn fail(c: &Context, vmi: Option<&VmiView>, failure: &Failure) -> Plan {
    let mut status = c.status.clone();
    status.message.clone_from(&failure.message);
    set_condition(
        &mut status,
        condition::LAUNCHED,
        false,
        failure.reason,
        &failure.message,
        c.now,
    );
    Plan::wait()
        .insist_on_live_view()
        .writes(c.record_status(status))
        .writes(vmi.filter(|v| !v.deleting).map(|v| Write::DeleteVmi {
            name: v.name.clone(),
            uid: v.uid.clone(),
        }))
        .note(Note::warning(
            failure.reason,
            format!("attempt {}: {}", c.attempt(), failure.message),
        ))
}

/// After a failed attempt: everything of it goes, then the next one is due after a backoff.
pub(super) fn clean_up(c: &Context, pod: &PodView) -> Plan {
    let attempt = c.attempt();
    let allowed = c
        .view
        .settings
        .as_ref()
        .map_or(DEFAULT_MAX_ATTEMPTS, |s| s.spec.max_attempts);
    let why = &c.status.message;
    let failed = format!("attempt {attempt} of {allowed} failed: {why}");
    let going = report(
        pod,
        false,
        reason::RETRYING,
        format!("{failed}; what is left of it goes first"),
    );
    let plan = Plan::wait().insist_on_live_view();
    if let Some(vmi) = &c.view.vmi {
        let delete = (!vmi.deleting).then(|| Write::DeleteVmi {
            name: vmi.name.clone(),
            uid: vmi.uid.clone(),
        });
        return plan.writes(delete).writes(going);
    }
    if let Some(node) = &c.view.node {
        return plan.writes(release::node_writes(c, node)).writes(going);
    }
    // Only the status below forgets the attempt: until then its Secrets can be named.
    let plan = plan.writes(release::credentials(c));
    let mut status = MaroonedNodeStatus {
        attempts: attempt,
        ..MaroonedNodeStatus::default()
    };
    if attempt >= allowed {
        status.phase = Phase::Failed;
        status.message = format!(
            "all {attempt} attempts failed, the last because {why}; delete the pod to give up or try anew"
        );
        let exhausted = report(pod, false, reason::ATTEMPTS_EXHAUSTED, status.message.clone());
        let note = Note::warning(reason::ATTEMPTS_EXHAUSTED, status.message.clone());
        return plan.writes(c.record_status(status)).writes(exhausted).note(note);
    }
    let pause = backoff(attempt);
    status.attempts = attempt + 1;
    status.message = format!("{failed}; the next starts after {pause:#}");
    status.not_before = Some(Time(after(c.now, pause)));
    let retrying = report(pod, false, reason::RETRYING, status.message.clone());
    plan.writes(c.record_status(status))
        .writes(retrying)
        .wake_at(after(c.now, pause))
}

fn backoff(failed_attempts: u32) -> SignedDuration {
    let factor = 2_i32.saturating_pow(failed_attempts.saturating_sub(1).min(16));
    FIRST_BACKOFF.saturating_mul(factor).min(LONGEST_BACKOFF)
}

fn firmware(c: &Context) -> String {
    identity::firmware_uuid(c.record_uid(), c.attempt()).to_string()
}

pub(super) fn boot_deadline(c: &Context) -> SignedDuration {
    c.view.settings.as_ref().map_or(DEFAULT_DEADLINE, |s| s.boot)
}

pub(super) fn join_deadline(c: &Context) -> SignedDuration {
    c.view.settings.as_ref().map_or(DEFAULT_DEADLINE, |s| s.join)
}
