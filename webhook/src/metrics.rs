//! Metrics, registered with the registry that the caller brings.

mod labels;

use std::time::Instant;

use jiff::Timestamp;
use maroonedpods_server::program::register_build_info;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub use labels::{AdmissionResult, ReloadResult};

const PREFIX: &str = "maroonedpods_webhook";

/// The webhook's metrics. A clone counts into the same series.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<AdmissionResult, Counter>,
    duration: Histogram,
    inflight: Gauge,
    shed: Counter,
    reloads: Family<ReloadResult, Counter>,
    not_after: Gauge,
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
        // An alert on an increase needs the zero before the first one.
        for result in AdmissionResult::ALL {
            metrics.requests.get_or_create(result).inc_by(0);
        }
        for result in ReloadResult::ALL {
            metrics.reloads.get_or_create(result).inc_by(0);
        }
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
        register_build_info(registry);
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

    /// Sets when the certificate in service ends.
    pub fn serving_until(&self, not_after: Timestamp) {
        self.not_after.set(not_after.as_second());
    }

    /// Counts a change of the certificate files.
    pub fn reloaded(&self, result: ReloadResult) {
        self.reloads.get_or_create(&result).inc();
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
        self.metrics.requests.get_or_create(&result).inc();
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
