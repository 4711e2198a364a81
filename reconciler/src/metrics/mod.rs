//! What operators watch. Labels hold no pod names, and each has few values.

mod census;
mod labels;
mod progress;

use std::time::Duration;

use jiff::Timestamp;
use maroonedpods_common::api::{AttemptFailure, MaroonedNode, Phase};
use maroonedpods_server::program::register_build_info;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use crate::api::CallError;
use crate::csr::Refusal;
use crate::observe::Caches;
use crate::plan::{Write, WriteKind};
use crate::read::Kind;

use census::Watched;
pub use labels::Leftover;
use labels::{ByValue, PassFailure, Stage};
use progress::{Progress, progress};

/// All of the reconciler's metrics.
pub struct Metrics {
    registry: Registry,
    writes: ByValue<WriteKind, Counter>,
    failed_passes: ByValue<PassFailure, Counter>,
    csr_refused: ByValue<Refusal, Counter>,
    events_dropped: Counter,
    events_refused: Counter,
    orphans_deleted: ByValue<Leftover, Counter>,
    leader: Gauge,
    shed_connections: Counter,
    lift_seconds: Histogram,
    nodes: ByValue<Phase, Gauge>,
    certificate_end: Gauge,
    certificate_rotations: Counter,
    pass_seconds: Histogram,
    stage_seconds: ByValue<Stage, Histogram>,
    failed_attempts: ByValue<AttemptFailure, Counter>,
    watch_failures: ByValue<Kind, Counter>,
    unreadable: ByValue<Kind, Counter>,
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
        register_build_info(r);
        let watched = Watched::default();
        r.register_collector(Box::new(watched.clone()));
        Self {
            writes: ByValue::new(
                r,
                "writes",
                "kind",
                "Writes to the API server that succeeded, by kind",
            ),
            failed_passes: ByValue::new(r, "failed_passes", "reason", "Passes that ended in an error"),
            csr_refused: ByValue::new(
                r,
                "csr_refused",
                "reason",
                "Certificate requests refused, by reason",
            ),
            events_dropped: add_new(r, "events_dropped", "Events that found the queue full"),
            events_refused: add_new(r, "events_refused", "Events that the API server did not take"),
            orphans_deleted: ByValue::new(r, "orphans_deleted", "kind", "Leftovers that the sweep deleted"),
            leader: add_new(r, "leader", "1 while this replica acts"),
            shed_connections: add_new(r, "shed_connections", "Connections ended to make room for others"),
            lift_seconds: add(
                r,
                "gate_to_lift_seconds",
                "From a pod's creation to its lifted gate",
                Histogram::new(exponential_buckets(0.25, 2.0, 12)),
            ),
            nodes: ByValue::new(r, "nodes", "phase", "Records, by phase"),
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
            stage_seconds: ByValue::with(
                r,
                "stage_seconds",
                "stage",
                "Time from stage to stage: launch (record to VM), join (VM to kubelet), lift (kubelet to lifted gate)",
                || Histogram::new(exponential_buckets(0.5, 2.0, 11)),
            ),
            failed_attempts: ByValue::new(
                r,
                "failed_attempts",
                "reason",
                "VMs that did not become their pod's node, by reason",
            ),
            watch_failures: ByValue::new(
                r,
                "watch_failures",
                "kind",
                "Watches that failed and were repeated, by what they watch",
            ),
            unreadable: ByValue::new(
                r,
                "unreadable_objects",
                "kind",
                "Objects in lists and watches that could not be read and were skipped, by what they are",
            ),
            watched,
            registry,
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

    /// Counts a write that succeeded, and the progress that it reports of the record, given as it was before.
    pub fn written(&self, write: &Write, record: Option<&MaroonedNode>) {
        self.writes.of(write.kind()).inc();
        if let Write::DecideCsr {
            deny: Some(refusal), ..
        } = write
        {
            self.csr_refused.of(*refusal).inc();
        }
        if let (Write::RecordStatus { status, .. }, Some(record)) = (write, record) {
            self.progressed(progress(record, status));
        }
    }

    fn progressed(&self, progress: Progress) {
        for (stage, seconds) in progress.stages {
            self.stage_seconds.of(stage).observe(seconds);
        }
        if let Some(reason) = progress.failed {
            self.failed_attempts.of(reason).inc();
        }
    }

    /// Observes how long a pass took.
    pub fn passed(&self, time: Duration) {
        self.pass_seconds.observe(time.as_secs_f64());
    }

    /// Counts a watch that failed.
    pub fn watch_failed(&self, kind: Kind) {
        self.watch_failures.of(kind).inc();
    }

    /// Counts an object that could not be read.
    pub fn unreadable(&self, kind: Kind) {
        self.unreadable.of(kind).inc();
    }

    /// Counts a pass that failed.
    pub fn failed_pass(&self, error: &CallError) {
        let reason = match error {
            CallError::Deadline => PassFailure::Deadline,
            CallError::Unexpected(_) => PassFailure::Unexpected,
            e if e.is_conflict() || e.is_invalid() => PassFailure::Precondition,
            e if e.is_too_many_requests() => PassFailure::Throttled,
            e if e.is_refusal() => PassFailure::Refused,
            CallError::Kube(_) | CallError::Precondition(_) => PassFailure::Api,
        };
        self.failed_passes.of(reason).inc();
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
    pub fn orphan_deleted(&self, leftover: Leftover) {
        self.orphans_deleted.of(leftover).inc();
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
    pub fn set_nodes(&self, phase: Phase, count: usize) {
        self.nodes.of(phase).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

fn add_new<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    add(registry, name, help, M::default())
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    /// The values of the label that this metric of a new registry has, one a line.
    fn values(text: &str, metric: &str, label: &str) -> String {
        let begin = format!("maroonedpods_{metric}{{{label}=\"");
        let samples = text.lines().filter_map(|line| line.strip_prefix(begin.as_str()));
        let mut values: Vec<_> = samples
            .map(|rest| {
                let (value, count) = rest.split_once("\"} ").unwrap();
                assert!(
                    count.parse::<f64>().unwrap().abs() < f64::EPSILON,
                    "{metric} {value}: {count}"
                );
                value
            })
            .collect();
        values.sort_unstable();
        values.join("\n")
    }

    fn all<E: VariantArray + Copy + Into<&'static str>>() -> String {
        let mut values: Vec<&str> = E::VARIANTS.iter().map(|value| (*value).into()).collect();
        values.sort_unstable();
        values.join("\n")
    }

    #[test]
    fn every_value_of_every_label_begins_at_zero() {
        let text = Metrics::new().text();
        for (metric, label, values_of_enum) in [
            ("writes_total", "kind", all::<WriteKind>()),
            ("failed_passes_total", "reason", all::<PassFailure>()),
            ("csr_refused_total", "reason", all::<Refusal>()),
            ("orphans_deleted_total", "kind", all::<Leftover>()),
            ("nodes", "phase", all::<Phase>()),
            ("stage_seconds_count", "stage", all::<Stage>()),
            ("failed_attempts_total", "reason", all::<AttemptFailure>()),
            ("watch_failures_total", "kind", all::<Kind>()),
            ("unreadable_objects_total", "kind", all::<Kind>()),
        ] {
            assert_eq!(values(&text, metric, label), values_of_enum, "{metric}");
        }
    }
}
