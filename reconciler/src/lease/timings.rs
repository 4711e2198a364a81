//! The periods of an election.

use std::time::Duration;

/// How much longer than the retry period a candidate may wait, as a factor: client-go's `JitterFactor`.
const JITTER: f64 = 1.2;

/// The three periods of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    lease_duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

impl Timings {
    /// How long after its last renewal a holder gives up.
    pub(super) fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    /// The pause between a holder's renewals.
    pub(super) fn retry_period(&self) -> Duration {
        self.retry_period
    }

    /// The pause between a candidate's tries: up to 2.2 retry periods, so that candidates do not try in step.
    pub(super) fn jittered_retry(&self, random: u32) -> Duration {
        self.retry_period
            .mul_f64(1.0 + JITTER * f64::from(random) / f64::from(u32::MAX))
    }

    /// How long one try may take: two of them fit into the renew deadline.
    pub(super) fn try_deadline(&self) -> Duration {
        self.renew_deadline / 2
    }

    /// Rounded up to whole seconds, which is what a Lease holds: that other candidates wait too long is safe, too
    /// short is not.
    pub(super) fn lease_duration_seconds(&self) -> i32 {
        let seconds = self.lease_duration.as_secs() + u64::from(self.lease_duration.subsec_nanos() > 0);
        i32::try_from(seconds).unwrap_or(i32::MAX)
    }
}

impl Default for Timings {
    /// client-go's: 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_periods_are_client_gos() {
        let timings = Timings::default();
        assert_eq!(timings.lease_duration_seconds(), 15);
        assert_eq!(timings.renew_deadline(), Duration::from_secs(10));
        assert_eq!(timings.retry_period(), Duration::from_secs(2));
    }

    /// Otherwise two leaders could overlap, or a leader could not renew in time.
    #[test]
    fn the_periods_keep_the_rules_of_client_go() {
        let Timings {
            lease_duration,
            renew_deadline,
            retry_period,
        } = Timings::default();
        assert!(lease_duration > renew_deadline);
        assert!(renew_deadline > retry_period.mul_f64(JITTER));
        assert!(!retry_period.is_zero());
    }

    #[test]
    fn a_part_of_a_second_counts_as_a_whole_one() {
        let short = Timings {
            lease_duration: Duration::from_millis(1200),
            ..Timings::default()
        };
        assert_eq!(short.lease_duration_seconds(), 2);
    }

    #[test]
    fn jitter_stays_in_bounds() {
        let timings = Timings::default();
        assert_eq!(timings.jittered_retry(0), Duration::from_secs(2));
        assert_eq!(timings.jittered_retry(u32::MAX), Duration::from_millis(4400));
        let middle = timings.jittered_retry(u32::MAX / 2);
        assert!(
            middle.abs_diff(Duration::from_millis(3200)) < Duration::from_millis(1),
            "{middle:?}"
        );
    }

    #[test]
    fn two_tries_fit_into_the_renew_deadline() {
        assert_eq!(Timings::default().try_deadline(), Duration::from_secs(5));
    }

    #[test]
    fn whole_seconds_stay_and_what_no_lease_can_hold_is_the_longest() {
        let of = |lease_duration| Timings {
            lease_duration,
            ..Timings::default()
        };
        assert_eq!(of(Duration::from_secs(15)).lease_duration_seconds(), 15);
        assert_eq!(
            of(Duration::from_secs(1 << 40)).lease_duration_seconds(),
            i32::MAX
        );
    }
}
