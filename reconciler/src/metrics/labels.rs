//! Labelled metrics: one for each value of an enum, and the enums that only metrics have.

use std::fmt::Debug;
use std::marker::PhantomData;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use strum::{Display, IntoStaticStr, VariantArray};

type Label = (&'static str, &'static str);

/// Why a pass failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum PassFailure {
    /// The API server did not answer in time.
    Deadline,
    /// The answer cannot be read.
    Unexpected,
    /// A precondition no longer held.
    Precondition,
    /// The API server asked for fewer requests.
    Throttled,
    /// The API server refused the request.
    Refused,
    /// Any other error of the API server or the connection.
    Api,
}

/// Kinds of leftovers that the sweeps delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Leftover {
    /// A VMI.
    Vmi,
    /// A Secret with the seed of a guest.
    JoinSecret,
    /// A Secret with a bootstrap token.
    Token,
    /// A Node.
    Node,
    /// A certificate request.
    Csr,
}

/// Stages of a life that are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Stage {
    /// From the record to the VM.
    Launch,
    /// From the VM to the kubelet.
    Join,
    /// From the kubelet to the lifted gate.
    Lift,
}

/// A metric for each value of an enum. All exist from the start: alerts on increases need the zero before the first one.
pub(super) struct ByValue<E, M> {
    label: &'static str,
    metrics: Family<[Label; 1], M, fn() -> M>,
    values: PhantomData<fn(E)>,
}

impl<E, M> ByValue<E, M>
where
    E: VariantArray + Copy + Into<&'static str>,
    M: EncodeMetric + TypedMetric + Clone + Send + Sync + Debug + 'static,
{
    /// Registers a metric with one label.
    pub(super) fn new(registry: &mut Registry, name: &str, label: &'static str, help: &str) -> Self
    where
        M: Default,
    {
        Self::with(registry, name, label, help, M::default)
    }

    /// Registers a metric with one label, of values that `begin` makes.
    pub(super) fn with(
        registry: &mut Registry,
        name: &str,
        label: &'static str,
        help: &str,
        begin: fn() -> M,
    ) -> Self {
        let metrics = Family::new_with_constructor(begin);
        registry.register(name, help, metrics.clone());
        let by_value = Self {
            label,
            metrics,
            values: PhantomData,
        };
        for value in E::VARIANTS {
            by_value.of(*value);
        }
        by_value
    }

    /// The metric of a value.
    pub(super) fn of(&self, value: E) -> M {
        self.metrics.get_or_create_owned(&[(self.label, value.into())])
    }
}
