//! Metrics, registered with the registry that the caller brings.

use std::time::Instant;

use jiff::Timestamp;
use maroonedpods_common::admission::Reason;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

const PREFIX: &str = "maroonedpods_webhook";

/// What became of an admission request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdmissionResult {
    /// Allowed with a patch.
    Patched,
    /// Allowed: nothing was missing.
    Complete,
    /// Allowed: the pod opted out.
    OptedOut,
    /// Allowed: a `DaemonSet` owns the pod.
    DaemonSet,
    /// Allowed: the pod asks for a node by its name.
    NamesNodes,
    /// Allowed: a mirror pod.
    MirrorPod,
    /// Allowed with a patch: an update lacked what is ours.
    Restored,
    /// Allowed: neither a creation nor an update.
    OtherOperation,
    /// Allowed: a subresource.
    Subresource,
    /// Allowed: not a v1 Pod.
    ForeignKind,
    /// Denied by the rule.
    Denied,
    /// Denied: a scheduler would have made room on a marooned node.
    PreemptionRefused,
    /// The request was not understood: denied, or HTTP 400 where it had no uid.
    Invalid,
}

/// What became of a changed certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReloadResult {
    /// Served from now on.
    Success,
    /// Unusable; the last good one is served.
    Error,
}

/// The webhook's metrics. A clone counts into the same series.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<AdmissionLabels, Counter>,
    duration: Histogram,
    inflight: Gauge,
    shed: Counter,
    reloads: Family<ReloadLabels, Counter>,
    not_after: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AdmissionLabels {
    result: AdmissionResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: ReloadResult,
}

impl Metrics {
    /// Registers every metric under the prefix `maroonedpods_webhook_`.
    pub fn register(registry: &mut Registry) -> Self {
        // 50 µs to 3.3 s: a usual answer takes less than the first, the API server's patience ends at the last.
        let duration = Histogram::new(exponential_buckets(50e-6, 4.0, 9));
        let metrics = Self {
            requests: Family::default(),
            duration,
            inflight: Gauge::default(),
            shed: Counter::default(),
            reloads: Family::default(),
            not_after: Gauge::default(),
        };
        // An alert on errors needs the zero before the first one.
        for result in [ReloadResult::Success, ReloadResult::Error] {
            metrics.reloads.get_or_create(&ReloadLabels { result }).inc_by(0);
        }
        let result = AdmissionResult::Invalid;
        metrics
            .requests
            .get_or_create(&AdmissionLabels { result })
            .inc_by(0);
        let registry = registry.sub_registry_with_prefix(PREFIX);
        registry.register(
            "admission_requests",
            "Admission requests by result",
            metrics.requests.clone(),
        );
        registry.register(
            "admission_duration_seconds",
            "Time from a request's headers to its answer, its body's way here included",
            metrics.duration.clone(),
        );
        registry.register(
            "admission_inflight",
            "Admission requests being answered",
            metrics.inflight.clone(),
        );
        registry.register(
            "shed_connections",
            "Connections ended to make room for others",
            metrics.shed.clone(),
        );
        registry.register(
            "tls_reloads",
            "Changes of the certificate files by result",
            metrics.reloads.clone(),
        );
        registry.register(
            "tls_cert_not_after_seconds",
            "When the certificate in service ends, in Unix seconds",
            metrics.not_after.clone(),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What this program was built from", build);
        metrics
    }

    /// Counts a request in flight until the guard is dropped.
    #[must_use]
    pub fn start(&self) -> InFlight<'_> {
        self.inflight.inc();
        InFlight {
            metrics: self,
            started: Instant::now(),
        }
    }

    /// Counts connections that were ended to make room for others.
    pub(crate) fn shed_connections(&self) -> Counter {
        self.shed.clone()
    }

    /// Says when the certificate in service ends.
    pub fn serving_until(&self, not_after: Timestamp) {
        self.not_after.set(not_after.as_second());
    }

    /// Counts a change of the certificate files.
    pub fn reloaded(&self, result: ReloadResult) {
        self.reloads.get_or_create(&ReloadLabels { result }).inc();
    }
}

/// A request in flight. A client that goes away drops it without a result.
#[derive(Debug)]
pub struct InFlight<'a> {
    metrics: &'a Metrics,
    started: Instant,
}

impl InFlight<'_> {
    /// Counts the answer.
    pub fn finish(self, result: AdmissionResult) {
        self.metrics
            .requests
            .get_or_create(&AdmissionLabels { result })
            .inc();
        self.metrics
            .duration
            .observe(self.started.elapsed().as_secs_f64());
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.inflight.dec();
    }
}

impl From<Reason> for AdmissionResult {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::OptedOut => Self::OptedOut,
            Reason::DaemonSet => Self::DaemonSet,
            Reason::NamesNodes => Self::NamesNodes,
            Reason::MirrorPod => Self::MirrorPod,
            Reason::Complete => Self::Complete,
        }
    }
}

impl EncodeLabelValue for AdmissionResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Patched => "patched",
            Self::Complete => "complete",
            Self::OptedOut => "opted_out",
            Self::DaemonSet => "daemon_set",
            Self::NamesNodes => "names_nodes",
            Self::MirrorPod => "mirror_pod",
            Self::Restored => "restored",
            Self::OtherOperation => "other_operation",
            Self::Subresource => "subresource",
            Self::ForeignKind => "foreign_kind",
            Self::Denied => "denied",
            Self::PreemptionRefused => "preemption_refused",
            Self::Invalid => "invalid",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

impl EncodeLabelValue for ReloadResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Success => "success",
            Self::Error => "error",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}
