//! What to do next for one pod: a pure function of what was observed.
//!
//! Guarantees: no I/O, no clock, no randomness; every write carries the precondition that makes it safe to
//! repeat; writes that cannot be taken back are planned from a live view only.
//! Assumptions: the view's parts belong to the one pod UID. Caveats: a plan may be empty because something must
//! be waited for; [`Plan::wake`] then says when looking again is worth it even if nothing changes.

mod admit;
mod attempt;
mod csrs;
mod place;
mod policies;
mod release;
mod report;
mod serve;
mod taints;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use maroonedpods_common::api::{MaroonedNode, MaroonedNodeStatus, VmResources};
use maroonedpods_common::text;

use crate::csr::Filed;
use crate::settings::Settings;
use crate::sightings::Ages;
use crate::view::{NodeView, PodView, VmiView};

pub(crate) use report::reason;
pub use write::{Note, PodReport, Write};

/// What is known of one pod UID and all that belongs to it.
#[derive(Clone, Debug)]
pub struct View {
    /// The UID that everything here belongs to.
    pub pod_uid: String,
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
    /// Read from the API server just now, not from a cache. CSRs excepted: writes to them carry their version.
    pub live: bool,
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

/// What to do now.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Writes, in order; the first that fails ends the pass.
    pub writes: Vec<Write>,
    /// The pod that `notes` are about.
    pub pod: Option<PodView>,
    /// Events for people, published once the writes went through.
    pub notes: Vec<Note>,
    /// Makes up for writes that went through when [`Write::CreateVmi`] is refused.
    pub take_back: Option<Write>,
    /// When to look again though nothing changed.
    pub wake: Option<Timestamp>,
    /// The pod waits until its namespace may have one more VM.
    pub waits_for_place: bool,
    /// Nothing is left to do for this UID, ever.
    pub done: bool,
    /// What this plan takes for absent must be absent at the API server, not only in a cache.
    absence_must_be_proven: bool,
}

impl Plan {
    /// Whether this must not be decided from a cache.
    #[must_use]
    pub fn needs_live_view(&self) -> bool {
        self.absence_must_be_proven || self.writes.iter().any(Write::needs_live_view)
    }

    fn wait() -> Self {
        Self::default()
    }

    fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    fn writes(mut self, writes: impl IntoIterator<Item = Write>) -> Self {
        self.writes.extend(writes);
        self
    }

    fn taken_back_by(mut self, write: Write) -> Self {
        self.take_back = Some(write);
        self
    }

    fn note(mut self, note: Note) -> Self {
        self.notes.push(note);
        self
    }

    /// This plan and then the other's writes and notes.
    fn and(mut self, other: Self) -> Self {
        self.writes.extend(other.writes);
        self.notes.extend(other.notes);
        self
    }

    fn insist_on_live_view(mut self) -> Self {
        self.absence_must_be_proven = true;
        self
    }

    fn wake_at(mut self, at: Timestamp) -> Self {
        self.wake = Some(self.wake.map_or(at, |set| set.min(at)));
        self
    }
}

/// Decides the next step for one pod.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    Plan {
        pod: view.pod.clone(),
        ..step(view, now)
    }
}

/// The report that the API server refused what the pod needs, or nothing where the pod says so already.
#[must_use]
pub fn refused(pod: &PodView, message: &str) -> Option<Write> {
    report::report(pod, false, report::reason::REFUSED, message)
}

/// The report that a gated pod waits for KubeVirt, or nothing where it does not wait or says so already.
#[must_use]
pub fn provider_missing(pod: &PodView) -> Option<Write> {
    let waits = pod.gate_index.is_some() && !pod.exempt && pod.deletion_deadline.is_none();
    let message = "the cluster has no VirtualMachineInstances: KubeVirt is not installed, or not reachable";
    waits
        .then(|| report::report(pod, false, report::reason::PROVIDER_MISSING, message))
        .flatten()
}

fn step(view: &View, now: Timestamp) -> Plan {
    let Some(record) = view.record.clone() else {
        return without_record(view, now);
    };
    let context = Context {
        view,
        status: record.status.clone().unwrap_or_default(),
        record,
        now,
    };
    if let Some(why) = release::due(&context) {
        return release::plan(&context, why);
    }
    let Some(pod) = &view.pod else { return Plan::wait() };
    if pod.lifted() {
        serve::plan(&context, pod)
    } else {
        attempt::plan(&context, pod)
    }
}

/// Whoever files requests under a name that has no record is a guest of the past. They are taken away as they come, for
/// it may file them without end.
fn without_record(view: &View, now: Timestamp) -> Plan {
    let plan = admit::plan(view, now);
    Plan {
        done: plan.done && view.csrs.len() <= csrs::MAX_DELETIONS,
        ..plan.writes(csrs::deletions(&view.csrs))
    }
}

/// `span` after `at`, at most the end of time: guests and users write times into objects, and a sum that overflows
/// panics.
fn after(at: Timestamp, span: SignedDuration) -> Timestamp {
    at.saturating_add(span).unwrap_or(Timestamp::MAX)
}

/// A view with a record, as the steps below read it.
struct Context<'a> {
    view: &'a View,
    record: Arc<MaroonedNode>,
    status: MaroonedNodeStatus,
    now: Timestamp,
}

impl Context<'_> {
    /// When what is of this age has reached `allowed`.
    fn due(&self, age: SignedDuration, allowed: SignedDuration) -> Timestamp {
        after(self.now, allowed.saturating_sub(age).max(SignedDuration::ZERO))
    }

    fn record_uid(&self) -> &str {
        self.record.metadata.uid.as_deref().unwrap_or_default()
    }

    fn attempt(&self) -> u32 {
        self.status.attempts.max(1)
    }

    /// The write that makes `status` the record's, or nothing where it is that already.
    fn record_status(&self, mut status: MaroonedNodeStatus) -> Option<Write> {
        status.message = text::sentence(&status.message).into_owned();
        (status != self.status).then(|| Write::RecordStatus {
            name: self.record.metadata.name.clone().unwrap_or_default(),
            resource_version: self.record.metadata.resource_version.clone().unwrap_or_default(),
            status: Box::new(status),
        })
    }
}
