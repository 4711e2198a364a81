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

/// Periods with which two leaders could overlap, or a leader could not renew in time.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimingsError {
    /// The holder must give up before others may take over.
    #[error("the lease duration ({0:?}) must be longer than the renew deadline ({1:?})")]
    LeaseDuration(Duration, Duration),
    /// One retry, jitter included, must fit into the renew deadline.
    #[error("the renew deadline ({0:?}) must be longer than 1.2 times the retry period ({1:?})")]
    RenewDeadline(Duration, Duration),
    /// Retrying without a pause would flood the API server.
    #[error("the retry period must be longer than 0")]
    RetryPeriod,
}

impl Timings {
    /// Periods by client-go's rules: lease duration > renew deadline > 1.2 × retry period > 0.
    pub fn new(
        lease_duration: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, TimingsError> {
        if retry_period.is_zero() {
            return Err(TimingsError::RetryPeriod);
        }
        if renew_deadline <= retry_period.mul_f64(JITTER) {
            return Err(TimingsError::RenewDeadline(renew_deadline, retry_period));
        }
        if lease_duration <= renew_deadline {
            return Err(TimingsError::LeaseDuration(lease_duration, renew_deadline));
        }
        Ok(Self {
            lease_duration,
            renew_deadline,
            retry_period,
        })
    }

    /// How long after its last renewal a holder gives up.
    pub(super) fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    /// The pause between a holder's renewals.
    pub(super) fn retry_period(&self) -> Duration {
        self.retry_period
    }

    /// The pause between a candidate's tries: up to 2.2 retry periods, so that candidates do not move in step.
    pub(super) fn jittered_retry(&self, random: u32) -> Duration {
        self.retry_period
            .mul_f64(1.0 + JITTER * f64::from(random) / f64::from(u32::MAX))
    }

    /// How long one try may take: two of them fit into the renew deadline.
    pub(super) fn try_deadline(&self) -> Duration {
        self.renew_deadline / 2
    }

    /// Rounded up to what a Lease can say: others waiting too long is safe, too short is not.
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

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn timings_follow_client_go() {
        let timings = |lease, renew, retry| Timings::new(secs(lease), secs(renew), secs(retry));
        assert_eq!(timings(15, 10, 2), Ok(Timings::default()));
        assert_eq!(
            timings(10, 10, 2),
            Err(TimingsError::LeaseDuration(secs(10), secs(10)))
        );
        assert_eq!(
            timings(15, 6, 5),
            Err(TimingsError::RenewDeadline(secs(6), secs(5)))
        );
        assert_eq!(timings(15, 10, 0), Err(TimingsError::RetryPeriod));
    }

    #[test]
    fn a_part_of_a_second_counts_as_a_whole_one() {
        let short = Timings::new(Duration::from_millis(1200), secs(1), Duration::from_millis(200));
        assert_eq!(short.map(|timings| timings.lease_duration_seconds()), Ok(2));
    }

    #[test]
    fn jitter_stays_in_bounds() {
        let timings = Timings::default();
        assert_eq!(timings.jittered_retry(0), secs(2));
        assert_eq!(timings.jittered_retry(u32::MAX), Duration::from_millis(4400));
    }
}
