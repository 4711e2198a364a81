//! The rules of a rotation, without clock or client.
//!
//! Trust comes first and goes last: the API servers trust a new CA before any pod serves a leaf of it, and an old
//! one until every pod is seen to serve the new leaf. Nothing but what is stored and what is live tells how far a
//! rotation is, so whoever leads next goes on where the last one stopped.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::pair::{Bundle, Flaw, Pair};

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a new pair is valid.
    pub lifetime: Duration,
    /// How long before its end a pair is replaced.
    pub renew_before: Duration,
    /// How long every API server may take to learn of a bundle.
    pub settle: Duration,
}

/// What was read. The bundles must have been read before the pairs: then a bundle that a next pair was already
/// published in comes with that next pair, or with what became of it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The pair that webhook pods are given.
    pub current: Result<Pair, Flaw>,
    /// The pair that comes after it, if there is one in the making.
    pub next: Option<Result<Pair, Flaw>>,
    /// Somebody asked for a new pair.
    pub asked: bool,
    /// What the API servers are told to trust, by entry of the webhook configuration.
    pub bundles: Vec<Bundle>,
    /// For how long we have seen the bundles unchanged.
    pub unchanged_for: Duration,
    /// For how long every webhook pod that could be found has served the current pair; `None` when they do not,
    /// or were not asked.
    pub served_for: Option<Duration>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make a pair: beside the current one, or in its place where nobody's trust can be lost.
    Issue {
        /// Beside it.
        overlap: bool,
    },
    /// Have the API servers trust this, in every entry.
    Publish(Bundle),
    /// The API servers may not know of the next pair's CA yet.
    Settle,
    /// Put the next pair in the current one's place.
    Promote,
    /// Find out whether every webhook pod serves the current pair, until it has been so for a while.
    Probe,
    /// All is as it should be.
    Rest,
}

/// The next step.
#[must_use]
pub fn decide(seen: &Observed, now: Timestamp, rules: &Rules) -> Decision {
    let next = match &seen.next {
        Some(Ok(next)) => Some(next),
        // What was begun and cannot be finished is begun anew.
        Some(Err(_)) => return issue(seen),
        None => None,
    };
    let current = seen.current.as_ref().ok();
    let wanted = seen.asked || current.is_none_or(|pair| is_due(pair, now, rules));
    if wanted && next.is_none() {
        return issue(seen);
    }
    let mut needed = Bundle::default();
    for pair in current.into_iter().chain(next) {
        needed.extend(&pair.trust);
    }
    if seen.bundles.iter().any(|bundle| !bundle.contains(&needed)) {
        seen.bundles.iter().for_each(|bundle| needed.extend(bundle));
        return Decision::Publish(needed);
    }
    if next.is_some() {
        return if seen.unchanged_for < rules.settle {
            Decision::Settle
        } else {
            Decision::Promote
        };
    }
    if seen.bundles.iter().all(|bundle| *bundle == needed) {
        return Decision::Rest;
    }
    // A pod that was just starting when the others were asked has been found by now.
    match seen.served_for {
        Some(so_long) if so_long >= rules.settle => Decision::Publish(needed),
        _ => Decision::Probe,
    }
}

/// Whatever an API server trusts may be what a pod still serves, even if the Secret does not say so: garbage
/// leaves the last good pair in service. Only where nothing is trusted there is nothing to overlap with.
fn issue(seen: &Observed) -> Decision {
    Decision::Issue {
        overlap: seen.bundles.iter().any(|bundle| !bundle.is_empty()),
    }
}

fn is_due(pair: &Pair, now: Timestamp, rules: &Rules) -> bool {
    let margin = SignedDuration::try_from(rules.renew_before).unwrap_or(SignedDuration::MAX);
    pair.not_after.duration_since(now) <= margin
}

/// Since when something has been the same, by our own monotonic clock.
#[derive(Clone, Debug)]
pub struct Unchanged<T> {
    seen: Option<(T, Instant)>,
}

impl<T> Default for Unchanged<T> {
    fn default() -> Self {
        Self { seen: None }
    }
}

impl<T: PartialEq> Unchanged<T> {
    /// Takes note of what it is `now`, and says for how long it has been so.
    pub fn note(&mut self, value: T, now: Instant) -> Duration {
        match &self.seen {
            Some((seen, since)) if *seen == value => now.saturating_duration_since(*since),
            _ => {
                self.seen = Some((value, now));
                Duration::ZERO
            }
        }
    }

    /// For how long it has been `value`, if that is what was noted last.
    pub fn lasts(&self, value: &T, now: Instant) -> Option<Duration> {
        let (seen, since) = self.seen.as_ref()?;
        (seen == value).then(|| now.saturating_duration_since(*since))
    }

    /// It is no longer known.
    pub fn forget(&mut self) {
        self.seen = None;
    }
}

#[cfg(test)]
mod tests;
