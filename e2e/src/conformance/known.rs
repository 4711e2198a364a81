//! The specs that cannot pass with marooned pods as they are, each with the reason.

use super::report::{Outcome, Results};

/// By design: nothing of them can be mended without giving up what MaroonedPods promises.
pub(super) const KNOWN: [(&str, &str); 1] = [(
    "[sig-node] Ephemeral Containers [NodeConformance] will start an ephemeral container in an existing pod [Conformance]",
    "it expects metadata.generation 1 of a pod that runs, and removing a scheduling gate makes it 2",
)];

/// What is not as expected, in words: a spec that did not pass and is not known for that, or that passed and is.
pub(super) fn surprises(known: &[(&str, &str)], ends: &Results) -> Vec<String> {
    ends.iter()
        .filter_map(|(spec, ended)| {
            let reason = known.iter().find(|(name, _)| name == spec).map(|(_, why)| why);
            match (ended.outcome == Outcome::Passed, reason) {
                (true, None) | (false, Some(_)) => None,
                (false, None) => Some(format!("{spec} should pass")),
                (true, Some(reason)) => Some(format!("{spec} passed, and was said not to: {reason}")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::report::Ended;

    #[test]
    fn a_failure_that_is_known_is_none_and_a_pass_that_is_not_expected_is_one() {
        let ended = |outcome| Ended {
            outcome,
            seconds: 1.0,
            reason: String::new(),
        };
        let ends = Results::from([
            ("good".to_owned(), ended(Outcome::Passed)),
            ("known".to_owned(), ended(Outcome::Failed)),
            ("mended".to_owned(), ended(Outcome::Passed)),
            ("new".to_owned(), ended(Outcome::Failed)),
            ("left out".to_owned(), ended(Outcome::Skipped)),
        ]);
        let known = [("known", "it cannot"), ("mended", "it could not")];
        assert_eq!(
            surprises(&known, &ends),
            [
                "left out should pass",
                "mended passed, and was said not to: it could not",
                "new should pass"
            ]
        );
    }
}
