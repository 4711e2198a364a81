//! What never comes into our log, whatever its level.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// kube logs an answer that it cannot decode at this target, whole: environments, tokens and all. The errors that its
/// calls return tell us enough.
const LOGS_BODIES: &str = "kube_client::client";

/// The filter, without what would write bodies of answers.
#[must_use]
pub fn without_bodies(filter: Targets) -> Targets {
    filter.with_target(LOGS_BODIES, LevelFilter::ERROR)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[test]
    fn whatever_level_is_asked_for_no_body_is_written() {
        for level in [
            "info",
            "trace",
            "kube_client::client=trace",
            "kube_client=debug,info",
        ] {
            let filter = without_bodies(level.parse().unwrap());
            let (_, of_bodies) = filter.iter().find(|(target, _)| *target == LOGS_BODIES).unwrap();
            assert_eq!(of_bodies, LevelFilter::ERROR, "{filter}");
            assert!(
                !filter.would_enable(LOGS_BODIES, &tracing::Level::WARN),
                "{filter}"
            );
        }
    }
}
