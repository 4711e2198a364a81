//! What to do next for one pod: a pure function of what was observed.
//!
//! Guarantees: no I/O, no clock, no randomness; every write carries the precondition that makes it safe to
//! repeat; writes that cannot be taken back are planned from a live view only.
//! Assumptions: all that was observed belongs to the one pod UID. Caveats: a plan may be empty because something must
//! be waited for; [`Decision::wake`] then says when looking again is worth it even if nothing changes.

mod admit;
mod attempt;
mod context;
mod csrs;
mod decision;
mod kind;
mod network_policies;
mod place;
mod release;
mod report;
mod serve;
mod taints;
#[cfg(test)]
mod tests;
mod write;

use jiff::Timestamp;
use maroonedpods_common::api::PodReason;

use crate::view::{Observed, PodView};

use context::{Context, after};
pub use decision::Decision;
pub use kind::WriteKind;
pub use write::{Note, PodReport, Write};

/// Decides the next step for one pod.
#[must_use]
pub fn decide(observed: &Observed, now: Timestamp) -> Decision {
    Decision {
        pod: observed.pod.clone(),
        ..step(observed, now)
    }
}

/// The report that the API server refused what the pod needs, or nothing where the pod has that condition already.
#[must_use]
pub fn refused(pod: &PodView, message: &str) -> Option<Write> {
    report::report(pod, false, PodReason::Refused, message)
}

/// The report that a gated pod waits for KubeVirt, or nothing where it does not wait or has that condition already.
#[must_use]
pub fn provider_missing(pod: &PodView) -> Option<Write> {
    let waits = pod.gate_index.is_some() && !pod.exempt && pod.deletion_deadline.is_none();
    let message = "the cluster has no VirtualMachineInstances: KubeVirt is not installed, or not reachable";
    waits
        .then(|| report::report(pod, false, PodReason::ProviderMissing, message))
        .flatten()
}

fn step(observed: &Observed, now: Timestamp) -> Decision {
    let Some(record) = observed.record.clone() else {
        return without_record(observed, now);
    };
    let context = Context {
        observed,
        status: record.status.clone().unwrap_or_default(),
        record,
        now,
    };
    if let Some(why) = release::due(&context) {
        return release::decide(&context, why);
    }
    let Some(pod) = &observed.pod else {
        return Decision::wait();
    };
    if pod.lifted() {
        serve::decide(&context, pod)
    } else {
        attempt::decide(&context, pod)
    }
}

/// Requests under a name without a record come from a guest whose VM is gone. They are deleted as they arrive, because
/// it may file them without end.
fn without_record(observed: &Observed, now: Timestamp) -> Decision {
    let decision = admit::decide(observed, now);
    Decision {
        done: decision.done && observed.csrs.len() <= csrs::MAX_DELETIONS,
        ..decision.writes(csrs::deletions(&observed.csrs))
    }
}
