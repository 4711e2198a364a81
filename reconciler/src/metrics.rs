//! What operators watch. No pod names in labels; every label has few values.

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::api::CallError;
use crate::plan::Write;

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

/// All of the reconciler's metrics.
pub struct Metrics {
    registry: Registry,
    writes: Family<Kind, Counter>,
    failed_passes: Family<Reason, Counter>,
    csr_refused: Family<Reason, Counter>,
    events_dropped: Counter,
    orphans_deleted: Family<Kind, Counter>,
    leader: Gauge,
    lift_seconds: Histogram,
    nodes: Family<Phase, Gauge>,
    certificate_end: Gauge,
    certificate_rotations: Counter,
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
        let writes = Family::default();
        registry.register(
            "writes",
            "Writes to the API server that succeeded, by kind",
            writes.clone(),
        );
        let failed_passes = Family::default();
        registry.register(
            "failed_passes",
            "Passes that ended in an error",
            failed_passes.clone(),
        );
        let csr_refused = Family::default();
        registry.register(
            "csr_refused",
            "Certificate requests refused, by reason",
            csr_refused.clone(),
        );
        let events_dropped = Counter::default();
        registry.register(
            "events_dropped",
            "Events that found the queue full",
            events_dropped.clone(),
        );
        let orphans_deleted = Family::default();
        registry.register(
            "orphans_deleted",
            "Leftovers that the sweep deleted",
            orphans_deleted.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "1 while this replica acts", leader.clone());
        let lift_seconds = Histogram::new(exponential_buckets(0.25, 2.0, 12));
        registry.register(
            "gate_to_lift_seconds",
            "From a pod's creation to its lifted gate",
            lift_seconds.clone(),
        );
        let nodes = Family::default();
        registry.register("nodes", "Records, by phase", nodes.clone());
        let certificate_end = Gauge::default();
        registry.register(
            "webhook_certificate_not_after_seconds",
            "When the webhook's certificate ends, in Unix seconds; 0 where this replica does not keep it",
            certificate_end.clone(),
        );
        let certificate_rotations = Counter::default();
        registry.register(
            "webhook_certificate_rotations",
            "Pairs that webhook pods were given",
            certificate_rotations.clone(),
        );
        Self {
            registry,
            writes,
            failed_passes,
            csr_refused,
            events_dropped,
            orphans_deleted,
            leader,
            lift_seconds,
            nodes,
            certificate_end,
            certificate_rotations,
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

    /// Counts a write that succeeded.
    pub fn written(&self, write: &Write) {
        self.writes.get_or_create(&Kind { kind: write.kind() }).inc();
        if let Write::DecideCsr {
            deny: Some((reason, _)),
            ..
        } = write
        {
            self.csr_refused.get_or_create(&Reason { reason }).inc();
        }
    }

    /// Counts a pass that failed.
    pub fn failed_pass(&self, error: &CallError) {
        let reason = match error {
            CallError::Deadline => "deadline",
            CallError::Unexpected(_) => "unexpected",
            e if e.is_conflict() || e.is_invalid() => "precondition",
            e if e.is_refusal() => "refused",
            CallError::Kube(_) => "api",
        };
        self.failed_passes.get_or_create(&Reason { reason }).inc();
    }

    /// Counts an event that found the queue full.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Counts a leftover that the sweep deleted.
    pub fn orphan_deleted(&self, kind: &'static str) {
        self.orphans_deleted.get_or_create(&Kind { kind }).inc();
    }

    /// Says whether this replica acts.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Observes the time from a pod's creation to its lifted gate, in seconds.
    pub fn lifted(&self, seconds: f64) {
        self.lift_seconds.observe(seconds);
    }

    /// Says when the webhook's certificate ends.
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
