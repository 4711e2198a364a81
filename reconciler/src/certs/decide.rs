//! The rules of a rotation, without a clock or a client.
//!
//! A CA is trusted first and removed last: the API servers trust a new CA before any pod serves a certificate of it,
//! and the old CA until every pod is observed to serve the new certificate. Only what is stored and what is live shows
//! how far a rotation is, so the next leader continues where the last one stopped.

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

/// What was read. The bundles must be read before the pairs: then a bundle with a next pair's CA in it comes together
/// with that next pair, or with what became of it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The pair that webhook pods are given.
    pub current: Result<Pair, Flaw>,
    /// The pair that comes after it, if one is being prepared.
    pub next: Option<Result<Pair, Flaw>>,
    /// A user requested a new pair.
    pub asked: bool,
    /// The CAs that the API servers are told to trust, for each entry of the webhook configuration.
    pub bundles: Vec<Bundle>,
    /// How long we have observed the bundles unchanged.
    pub unchanged_for: Duration,
    /// How long every webhook pod that could be found has served the current pair; `None` when they do not, or were
    /// not probed.
    pub served_for: Option<Duration>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make a pair: beside the current one, or in its place where no API server trusts any CA yet.
    Issue {
        /// Beside the current one.
        overlap: bool,
    },
    /// Have the API servers trust these CAs, in every entry.
    Publish(Bundle),
    /// The API servers may not know of the next pair's CA yet.
    Settle,
    /// Make the next pair the current one.
    Promote,
    /// Probe every webhook pod for the current pair, until all have served it for a while.
    Probe,
    /// Nothing to do.
    Rest,
}

/// The next step.
#[must_use]
pub fn decide(observed: &Observed, now: Timestamp, rules: &Rules) -> Decision {
    let next = match &observed.next {
        Some(Ok(next)) => Some(next),
        // A next pair that is unusable cannot be finished: make another.
        Some(Err(_)) => return issue(observed),
        None => None,
    };
    let current = observed.current.as_ref().ok();
    let wanted = observed.asked || current.is_none_or(|pair| is_due(pair, now, rules));
    if wanted && next.is_none() {
        return issue(observed);
    }
    let mut needed = Bundle::default();
    for pair in current.into_iter().chain(next) {
        needed.extend(&pair.trust);
    }
    if observed.bundles.iter().any(|bundle| !bundle.contains(&needed)) {
        observed.bundles.iter().for_each(|bundle| needed.extend(bundle));
        return Decision::Publish(needed);
    }
    if next.is_some() {
        return if observed.unchanged_for < rules.settle {
            Decision::Settle
        } else {
            Decision::Promote
        };
    }
    if observed.bundles.iter().all(|bundle| *bundle == needed) {
        return Decision::Rest;
    }
    // A pod that was still starting at the first probe has been found by now.
    match observed.served_for {
        Some(so_long) if so_long >= rules.settle => Decision::Publish(needed),
        _ => Decision::Probe,
    }
}

/// A pod may still serve a pair of any CA that an API server trusts, even if the Secret does not hold that pair:
/// webhook pods that find an unusable Secret keep the last good pair. So only where nothing is trusted there is
/// nothing to overlap with.
fn issue(observed: &Observed) -> Decision {
    Decision::Issue {
        overlap: observed.bundles.iter().any(|bundle| !bundle.is_empty()),
    }
}

fn is_due(pair: &Pair, now: Timestamp, rules: &Rules) -> bool {
    let margin = SignedDuration::try_from(rules.renew_before).unwrap_or(SignedDuration::MAX);
    pair.not_after.duration_since(now) <= margin
}

/// Since when a value has been the same, by our own monotonic clock.
#[derive(Clone, Debug)]
pub struct Unchanged<T> {
    observed: Option<(T, Instant)>,
}

impl<T> Default for Unchanged<T> {
    fn default() -> Self {
        Self { observed: None }
    }
}

impl<T: PartialEq> Unchanged<T> {
    /// Notes the value as it is `now`, and returns how long it has been so.
    pub fn note(&mut self, value: T, now: Instant) -> Duration {
        match &self.observed {
            Some((observed, since)) if *observed == value => now.saturating_duration_since(*since),
            _ => {
                self.observed = Some((value, now));
                Duration::ZERO
            }
        }
    }

    /// How long it has been `value`, if that is the value noted last.
    pub fn lasts(&self, value: &T, now: Instant) -> Option<Duration> {
        let (observed, since) = self.observed.as_ref()?;
        (observed == value).then(|| now.saturating_duration_since(*since))
    }

    /// Forgets the value: it is no longer known.
    pub fn forget(&mut self) {
        self.observed = None;
    }
}

#[cfg(test)]
mod tests;
