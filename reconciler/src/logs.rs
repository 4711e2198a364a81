//! What never comes into our log, whatever its level.

use tracing_subscriber::EnvFilter;

/// kube writes an answer that it cannot decode to the log, whole: environments, tokens and all. What we ask for by
/// kube's own calls we hear of by their errors.
const NO_BODIES: &str = "kube_client::client=error";

/// The filter, without what would write bodies of answers.
#[must_use]
pub fn without_bodies(filter: EnvFilter) -> EnvFilter {
    match NO_BODIES.parse() {
        Ok(directive) => filter.add_directive(directive),
        // It is a constant, and a test holds it to the syntax.
        Err(_) => filter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_level_is_asked_for_no_body_is_written() {
        for level in [
            "info",
            "trace",
            "kube_client::client=trace",
            "kube_client=debug,info",
        ] {
            let filter = without_bodies(EnvFilter::new(level)).to_string();
            assert!(
                filter.contains("kube_client::client=error") && !filter.contains("kube_client::client=trace"),
                "{filter}"
            );
        }
    }
}
