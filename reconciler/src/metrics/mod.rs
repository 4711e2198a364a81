//! What operators watch. No pod names in labels; every label has few values.

mod census;
mod progress;

use std::time::Duration;

use jiff::Timestamp;
use maroonedpods_common::api::MaroonedNode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::api::CallError;
use crate::observe::Caches;
use crate::plan::Write;

use census::Watched;
use progress::{Progress, progress};

/// Why the plan gives an attempt up.
const FAILURES: [&str; 8] = [
    "BootDeadline",
    "JoinDeadline",
    "VMEnded",
    "VMGone",
    "VMReplaced",
    "Rebooted",
    "IdentityMismatch",
    "NoIPv4",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

/// Why an attempt failed, as the record says it: few words, all of them the plan's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    reason: String,
}

/// All of the reconciler's metrics.
pub struct Metrics {
    registry: Registry,
    writes: Family<Kind, Counter>,
    failed_passes: Family<Reason, Counter>,
    csr_refused: Family<Reason, Counter>,
    events_dropped: Counter,
    events_refused: Counter,
    orphans_deleted: Family<Kind, Counter>,
    leader: Gauge,
    shed_connections: Counter,
    lift_seconds: Histogram,
    nodes: Family<Phase, Gauge>,
    certificate_end: Gauge,
    certificate_rotations: Counter,
    pass_seconds: Histogram,
    stage_seconds: Family<Stage, Histogram>,
    failed_attempts: Family<Failure, Counter>,
    watch_failures: Family<Kind, Counter>,
    unreadable: Family<Kind, Counter>,
    watched: Watched,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("maroonedpods");
        let r = &mut registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "What this program was built from", build);
        let watched = Watched::default();
        r.register_collector(Box::new(watched.clone()));
        let stage: fn() -> Histogram = || Histogram::new(exponential_buckets(0.5, 2.0, 11));
        let metrics = Self {
            writes: add_new(r, "writes", "Writes to the API server that succeeded, by kind"),
            failed_passes: add_new(r, "failed_passes", "Passes that ended in an error"),
            csr_refused: add_new(r, "csr_refused", "Certificate requests refused, by reason"),
            events_dropped: add_new(r, "events_dropped", "Events that found the queue full"),
            events_refused: add_new(r, "events_refused", "Events that the API server did not take"),
            orphans_deleted: add_new(r, "orphans_deleted", "Leftovers that the sweep deleted"),
            leader: add_new(r, "leader", "1 while this replica acts"),
            shed_connections: add_new(r, "shed_connections", "Connections ended to make room for others"),
            lift_seconds: add(
                r,
                "gate_to_lift_seconds",
                "From a pod's creation to its lifted gate",
                Histogram::new(exponential_buckets(0.25, 2.0, 12)),
            ),
            nodes: add_new(r, "nodes", "Records, by phase"),
            certificate_end: add_new(
                r,
                "webhook_certificate_not_after_seconds",
                "When the webhook's certificate ends, in Unix seconds; 0 where this replica does not keep it",
            ),
            certificate_rotations: add_new(
                r,
                "webhook_certificate_rotations",
                "Pairs that webhook pods were given",
            ),
            // From a pass that only looked to one that waited for calls that were never answered.
            pass_seconds: add(
                r,
                "pass_seconds",
                "Time that passes took",
                Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            ),
            stage_seconds: add(
                r,
                "stage_seconds",
                "Time from stage to stage: launch (record to VM), join (VM to kubelet), lift (kubelet to lifted gate)",
                Family::new_with_constructor(stage),
            ),
            failed_attempts: add_new(
                r,
                "failed_attempts",
                "VMs that did not become their pod's node, by reason",
            ),
            watch_failures: add_new(
                r,
                "watch_failures",
                "Watches that failed and were made anew, by what they watch",
            ),
            unreadable: add_new(
                r,
                "unreadable_objects",
                "Objects in lists and watches that could not be read and were skipped, by what they are",
            ),
            watched,
            registry,
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Alerts on increases need the zero before the first one.
    fn begin_at_zero(&self) {
        for kind in ["create_vmi", "deny_csr"] {
            self.writes.get_or_create(&Kind { kind }).inc_by(0);
        }
        for reason in [
            "deadline",
            "unexpected",
            "precondition",
            "throttled",
            "refused",
            "api",
        ] {
            self.failed_passes.get_or_create(&Reason { reason }).inc_by(0);
        }
        for kind in ["vmi", "join_secret", "token", "node", "csr"] {
            self.orphans_deleted.get_or_create(&Kind { kind }).inc_by(0);
        }
        for kind in [
            "pods",
            "maroonednodes",
            "nodes",
            "vmis",
            "csrs",
            "networkpolicies",
        ] {
            self.watch_failures.get_or_create(&Kind { kind }).inc_by(0);
            self.unreadable.get_or_create(&Kind { kind }).inc_by(0);
        }
        for reason in FAILURES {
            let reason = reason.to_owned();
            self.failed_attempts.get_or_create(&Failure { reason }).inc_by(0);
        }
    }

    /// The `OpenMetrics` text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _: Result<(), _> = encode(&mut text, &self.registry);
        text
    }

    /// Counts pods and VMs from these caches, whenever metrics are read.
    pub fn count_from(&self, caches: &Caches) {
        self.watched.attach(caches);
    }

    /// Counts a write that succeeded, and what it says of the record as it was before.
    pub fn written(&self, write: &Write, record: Option<&MaroonedNode>) {
        self.writes.get_or_create(&Kind { kind: write.kind() }).inc();
        if let Write::DecideCsr {
            deny: Some((reason, _)),
            ..
        } = write
        {
            self.csr_refused.get_or_create(&Reason { reason }).inc();
        }
        if let (Write::RecordStatus { status, .. }, Some(record)) = (write, record) {
            self.progressed(progress(record, status));
        }
    }

    fn progressed(&self, progress: Progress) {
        for (stage, seconds) in progress.stages {
            self.stage_seconds
                .get_or_create(&Stage { stage })
                .observe(seconds);
        }
        if let Some(reason) = progress.failed {
            self.failed_attempts.get_or_create(&Failure { reason }).inc();
        }
    }

    /// Observes how long a pass took.
    pub fn passed(&self, time: Duration) {
        self.pass_seconds.observe(time.as_secs_f64());
    }

    /// Counts a watch that failed.
    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_failures.get_or_create(&Kind { kind }).inc();
    }

    /// Counts an object that could not be read.
    pub fn unreadable(&self, kind: &'static str) {
        self.unreadable.get_or_create(&Kind { kind }).inc();
    }

    /// Counts a pass that failed.
    pub fn failed_pass(&self, error: &CallError) {
        let reason = match error {
            CallError::Deadline => "deadline",
            CallError::Unexpected(_) => "unexpected",
            e if e.is_conflict() || e.is_invalid() => "precondition",
            e if e.is_too_many_requests() => "throttled",
            e if e.is_refusal() => "refused",
            CallError::Kube(_) | CallError::Precondition(_) => "api",
        };
        self.failed_passes.get_or_create(&Reason { reason }).inc();
    }

    /// Counts an event that found the queue full.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Counts an event that the API server did not take.
    pub fn event_refused(&self) {
        self.events_refused.inc();
    }

    /// Counts a leftover that the sweep deleted.
    pub fn orphan_deleted(&self, kind: &'static str) {
        self.orphans_deleted.get_or_create(&Kind { kind }).inc();
    }

    /// Reports whether this replica acts.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Counts connections that were ended to make room for others.
    pub(crate) fn shed_connections(&self) -> Counter {
        self.shed_connections.clone()
    }

    /// Observes the time from a pod's creation to its lifted gate, in seconds.
    pub fn lifted(&self, seconds: f64) {
        self.lift_seconds.observe(seconds);
    }

    /// Reports when the webhook's certificate ends.
    pub fn set_certificate_end(&self, end: Timestamp) {
        self.certificate_end.set(end.as_second());
    }

    /// Counts a pair that webhook pods were given.
    pub fn certificate_rotated(&self) {
        self.certificate_rotations.inc();
    }

    /// Sets how many records are in a phase.
    pub fn set_nodes(&self, phase: &'static str, count: u32) {
        self.nodes.get_or_create(&Phase { phase }).set(i64::from(count));
    }
}

fn add_new<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    add(registry, name, help, M::default())
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}
