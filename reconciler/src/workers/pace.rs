//! A rate limit on writes that others can provoke: another client can undo our report as often as it likes, and each
//! time we would write it again.

use std::time::{Duration, Instant};

/// This many writes are not delayed: more than the reports of one failing attempt.
const BURST: u32 = 10;
/// After these, one write per period.
const PERIOD: Duration = Duration::from_secs(10);

/// The writes that are left.
#[derive(Debug)]
pub(crate) struct Pace {
    left: u32,
    /// When the wait for the next write began.
    since: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            left: BURST,
            since: None,
        }
    }
}

impl Pace {
    /// Uses one write at `now`. If none is left: how long until the next one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        if self.left == 0 {
            let waited = self.since.map_or(Duration::ZERO, |since| now - since);
            return Err(PERIOD.saturating_sub(waited));
        }
        self.left -= 1;
        self.since.get_or_insert(now);
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        while let Some(next) = self.since.map(|since| since + PERIOD).filter(|next| *next <= now) {
            self.left += 1;
            self.since = (self.left < BURST).then_some(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_there_is_one_in_a_period() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let burst = (0..BURST).filter(|_| pace.take(start).is_ok()).count();
        assert_eq!(burst, 10);
        assert_eq!(pace.take(start), Err(PERIOD));
        assert_eq!(pace.take(start + PERIOD / 4), Err(PERIOD / 4 * 3));
        assert_eq!(pace.take(start + PERIOD), Ok(()));
        assert_eq!(pace.take(start + PERIOD), Err(PERIOD));
    }

    #[test]
    fn a_client_that_undoes_every_write_provokes_a_few_a_minute() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let tries = (0..6000).map(|tenth| start + Duration::from_millis(100) * tenth);
        let written = tries.filter(|now| pace.take(*now).is_ok()).count();
        assert_eq!(written, 10 + 59);
    }

    #[test]
    fn an_unused_rate_limit_is_full_again() {
        let start = Instant::now();
        let mut pace = Pace::default();
        while pace.take(start).is_ok() {}
        let later = start + PERIOD * 1000;
        assert_eq!((0..20).filter(|_| pace.take(later).is_ok()).count(), 10);
    }
}
