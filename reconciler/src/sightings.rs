//! How long this process has seen things as they are, by its own monotonic clock.
//!
//! Deadlines count from here. Timestamps in objects come from other clocks: a former leader's, KubeVirt's, the
//! guest's. One that is minutes off would end attempts that have hardly begun, or delete the logs of a pod whose end
//! no one has seen yet. The price: a process that takes over gives each stage under way its whole time again. That
//! only keeps things longer, by one deadline for each take-over.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::view::Observed;

/// Time since this process began to work.
pub type Uptime = SignedDuration;

/// Time since then.
#[must_use]
pub fn uptime(begun: Instant) -> Uptime {
    Uptime::try_from(begun.elapsed()).unwrap_or(Uptime::MAX)
}

/// How long each thing has been seen; zero where it is seen for the first time or does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// The attempt's VM exists.
    pub launched: SignedDuration,
    /// The attempt's VM runs.
    pub running: SignedDuration,
    /// The Node of the attempt's VM is ready.
    pub ready: SignedDuration,
    /// The record waits for the time in its status.
    pub pausing: SignedDuration,
    /// No gate of others holds the pod.
    pub free: SignedDuration,
    /// The gate is lifted.
    pub lifted: SignedDuration,
    /// The pod has finished.
    pub finished: SignedDuration,
    /// The pod is being deleted, with the deadline that it has now.
    pub deleting: SignedDuration,
}

/// What one worker has seen of its pod, and since when.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    vm: Option<(String, Stages)>,
    pause: Option<(Timestamp, Uptime)>,
    deletion: Option<(Timestamp, Uptime)>,
    free: Option<Uptime>,
    lifted: Option<Uptime>,
    finished: Option<Uptime>,
}

/// When a VM was first seen at each stage.
#[derive(Clone, Copy, Debug)]
struct Stages {
    launched: Uptime,
    running: Option<Uptime>,
    ready: Option<Uptime>,
}

impl Sightings {
    /// Takes in a view and returns how long each thing in it has been seen.
    pub fn see(&mut self, observed: &Observed, uptime: Uptime) -> Ages {
        let since =
            |seen: Option<Uptime>| seen.map_or(SignedDuration::ZERO, |seen| uptime.saturating_sub(seen));
        let stages = self.see_vm(observed, uptime);
        let pod = observed.pod.as_ref();
        let (lifted, over) = pod.map_or((false, false), |pod| (pod.lifted(), pod.terminal));
        let free = pod.is_some_and(|pod| pod.foreign_gates.is_empty());
        if !free {
            // Another gate may come and go, and each takes its own time.
            self.free = None;
        }
        let status = observed.record.as_ref().and_then(|record| record.status.as_ref());
        let until = status.and_then(|status| status.not_before.as_ref());
        Ages {
            launched: since(stages.map(|seen| seen.launched)),
            running: since(stages.and_then(|seen| seen.running)),
            ready: since(stages.and_then(|seen| seen.ready)),
            pausing: since(unchanged(&mut self.pause, until.map(|Time(at)| *at), uptime)),
            free: since(first(&mut self.free, free, uptime)),
            lifted: since(first(&mut self.lifted, lifted, uptime)),
            finished: since(first(&mut self.finished, over, uptime)),
            deleting: since(unchanged(
                &mut self.deletion,
                pod.and_then(|pod| pod.deletion_deadline),
                uptime,
            )),
        }
    }

    fn see_vm(&mut self, observed: &Observed, uptime: Uptime) -> Option<Stages> {
        let vmi = observed.vmi.as_ref()?;
        let known = self.vm.take().filter(|(uid, _)| *uid == vmi.uid);
        let mut stages = known.map_or(
            Stages {
                launched: uptime,
                running: None,
                ready: None,
            },
            |(_, stages)| stages,
        );
        first(&mut stages.running, vmi.running(), uptime);
        first(
            &mut stages.ready,
            observed.node.as_ref().is_some_and(|node| node.ready),
            uptime,
        );
        self.vm = Some((vmi.uid.clone(), stages));
        Some(stages)
    }
}

/// Since when the condition has been seen to hold, if it holds. A stage that the VM falls back from keeps its start:
/// otherwise a guest could restart its deadline.
fn first(seen: &mut Option<Uptime>, holds: bool, uptime: Uptime) -> Option<Uptime> {
    if holds {
        seen.get_or_insert(uptime);
    }
    seen.filter(|_| holds)
}

/// Since when `seen` has had its present value.
fn unchanged(
    seen: &mut Option<(Timestamp, Uptime)>,
    now: Option<Timestamp>,
    uptime: Uptime,
) -> Option<Uptime> {
    *seen = now.map(|now| match *seen {
        Some((before, since)) if before == now => (before, since),
        _ => (now, uptime),
    });
    seen.map(|(_, since)| since)
}
