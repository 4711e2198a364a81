//! The election's rules, without a clock or a client.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::timings::Timings;

/// The lease as this process last saw it, and since when it has looked like that.
///
/// Only our own monotonic clock counts: a lease expires when *we* have seen no change for its whole duration. Other
/// machines' clocks wrote the times in it; those are for people.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observed {
    spec: LeaseSpec,
    since: Instant,
}

impl Observed {
    /// Updates the observation with what was just read: `None` if there is no lease.
    pub(super) fn update(previous: Option<Self>, spec: Option<LeaseSpec>, now: Instant) -> Option<Self> {
        let spec = spec?;
        Some(
            previous
                .filter(|previous| previous.spec == spec)
                .unwrap_or(Self { spec, since: now }),
        )
    }

    /// The holder's identity; empty if the holder released the lease.
    pub(super) fn holder(&self) -> &str {
        self.spec.holder_identity.as_deref().unwrap_or_default()
    }

    fn is_expired(&self, now: Instant) -> bool {
        let seconds = self
            .spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        now.saturating_duration_since(self.since) >= Duration::from_secs(seconds.unwrap_or_default())
    }
}

/// Our role in the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Candidate,
    Holder,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is no lease: create it.
    Create,
    /// The lease is ours: renew it.
    Renew,
    /// The lease is free: write our identity into it.
    TakeOver,
    /// Another process holds the lease: wait.
    Wait,
}

/// The next step. A holder never takes over: a lease that no longer names the holder is lost even if it is free
/// again, because another process may have led in between.
pub(super) fn decide(
    standing: Standing,
    observed: Option<&Observed>,
    now: Instant,
    identity: &str,
) -> Decision {
    match (observed, standing) {
        (None, _) => Decision::Create,
        (Some(lease), _) if lease.holder() == identity => Decision::Renew,
        (Some(lease), Standing::Candidate) if lease.holder().is_empty() || lease.is_expired(now) => {
            Decision::TakeOver
        }
        (Some(_), _) => Decision::Wait,
    }
}

/// The lease to write over `current` for this decision; `wall` is for people. `None` if nothing is to be written.
pub(super) fn claim(
    decision: Decision,
    current: Option<LeaseSpec>,
    identity: &str,
    timings: &Timings,
    wall: Timestamp,
) -> Option<LeaseSpec> {
    let current = current.unwrap_or_default();
    let transitions = current.lease_transitions.unwrap_or_default();
    let (acquire_time, lease_transitions) = match decision {
        Decision::Create => (Some(MicroTime(wall)), 0),
        Decision::TakeOver => (Some(MicroTime(wall)), transitions.saturating_add(1)),
        Decision::Renew => (current.acquire_time.clone(), transitions),
        Decision::Wait => return None,
    };
    Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(timings.lease_duration_seconds()),
        lease_transitions: Some(lease_transitions),
        acquire_time,
        renew_time: Some(MicroTime(wall)),
        ..current
    })
}

/// The lease that a holder leaves behind: free at once, and expired after a second for clients that do not treat an
/// empty holder as free.
pub(super) fn released(current: LeaseSpec, wall: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(MicroTime(wall)),
        renew_time: Some(MicroTime(wall)),
        ..current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "me";

    fn lease(holder: &str, duration: i32, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(duration),
            lease_transitions: Some(4),
            acquire_time: Some(MicroTime(at(100))),
            renew_time: Some(MicroTime(at(renewed))),
            ..LeaseSpec::default()
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_lease_has_one_next_step() {
        use Standing::{Candidate, Holder};
        let start = Instant::now();
        let no_duration = LeaseSpec {
            lease_duration_seconds: None,
            ..lease("other", 0, 0)
        };
        let no_holder = LeaseSpec {
            holder_identity: None,
            ..lease("", 15, 0)
        };
        for (standing, spec, age, expected) in [
            (Candidate, None, 0, Decision::Create),
            (Holder, None, 0, Decision::Create),
            (Candidate, Some(lease(ME, 15, 0)), 0, Decision::Renew),
            (Holder, Some(lease(ME, 15, 0)), 99, Decision::Renew),
            (Candidate, Some(lease("other", 15, 0)), 0, Decision::Wait),
            (Candidate, Some(lease("other", 15, 0)), 14, Decision::Wait),
            (Candidate, Some(lease("other", 15, 0)), 15, Decision::TakeOver),
            (Candidate, Some(lease("", 15, 0)), 0, Decision::TakeOver),
            (Candidate, Some(no_holder), 0, Decision::TakeOver),
            (Candidate, Some(no_duration), 0, Decision::TakeOver),
            (Candidate, Some(lease("other", -1, 0)), 0, Decision::TakeOver),
            // A holder that finds another identity in the lease, or none, has lost it.
            (Holder, Some(lease("other", 15, 0)), 0, Decision::Wait),
            (Holder, Some(lease("other", 15, 0)), 99, Decision::Wait),
            (Holder, Some(lease("", 1, 0)), 99, Decision::Wait),
        ] {
            let observed = Observed::update(None, spec, start);
            let step = decide(standing, observed.as_ref(), start + secs(age), ME);
            assert_eq!(step, expected, "{standing:?} {observed:?} after {age} s");
        }
    }

    #[test]
    fn every_change_restarts_the_wait() {
        let start = Instant::now();
        let read = |observed, renewed, after| {
            let observed = Observed::update(observed, Some(lease("other", 15, renewed)), start + secs(after));
            let step = decide(Standing::Candidate, observed.as_ref(), start + secs(after), ME);
            (observed, step)
        };
        let (observed, step) = read(None, 1, 0);
        assert_eq!(step, Decision::Wait);
        let (observed, step) = read(observed, 2, 14);
        assert_eq!(step, Decision::Wait);
        let (observed, step) = read(observed, 2, 28);
        assert_eq!(step, Decision::Wait);
        let (observed, step) = read(observed, 2, 29);
        assert_eq!(step, Decision::TakeOver);
        // A renewal counts even if its wall clock ran backwards.
        let (_, step) = read(observed, 0, 30);
        assert_eq!(step, Decision::Wait);
    }

    #[test]
    fn a_deleted_lease_is_forgotten() {
        let start = Instant::now();
        let seen = Observed::update(None, Some(lease("other", 15, 0)), start);
        let gone = Observed::update(seen, None, start + secs(20));
        assert_eq!(gone, None);
        let back = Observed::update(gone, Some(lease("other", 15, 0)), start + secs(21));
        assert_eq!(
            decide(Standing::Candidate, back.as_ref(), start + secs(35), ME),
            Decision::Wait,
            "seen again 14 s ago"
        );
    }

    #[test]
    fn a_claim_keeps_what_it_must() {
        let timings = Timings::default();
        let write = |step, current| claim(step, current, ME, &timings, at(500));
        let created = LeaseSpec {
            lease_transitions: Some(0),
            acquire_time: Some(MicroTime(at(500))),
            ..lease(ME, 15, 500)
        };
        assert_eq!(write(Decision::Create, None), Some(created));
        let taken = LeaseSpec {
            lease_transitions: Some(5),
            acquire_time: Some(MicroTime(at(500))),
            ..lease(ME, 15, 500)
        };
        assert_eq!(
            write(Decision::TakeOver, Some(lease("other", 30, 200))),
            Some(taken)
        );
        assert_eq!(
            write(Decision::Renew, Some(lease(ME, 30, 200))),
            Some(lease(ME, 15, 500))
        );
        assert_eq!(write(Decision::Wait, Some(lease("other", 30, 200))), None);
    }

    #[test]
    fn a_released_lease_is_free_at_once() {
        let left = released(lease(ME, 15, 200), at(500));
        assert_eq!(
            left,
            LeaseSpec {
                acquire_time: Some(MicroTime(at(500))),
                ..lease("", 1, 500)
            }
        );
        let now = Instant::now();
        let observed = Observed::update(None, Some(left), now);
        assert_eq!(
            decide(Standing::Candidate, observed.as_ref(), now, "other"),
            Decision::TakeOver
        );
    }
}
