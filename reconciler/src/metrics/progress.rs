//! What a record's new status says happened: stages reached, an attempt failed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use maroonedpods_common::api::{AttemptFailure, MaroonedNode, MaroonedNodeStatus, NodeCondition};

use super::labels::Stage;
use crate::objects::record;

/// What happened between two statuses of a record.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Progress {
    /// Stages that ended now, and how long each took, in seconds; about, because recorded times are whole seconds.
    pub(super) stages: Vec<(Stage, f64)>,
    /// Why the attempt failed, where it failed now.
    pub(super) failed: Option<AttemptFailure>,
}

/// Compares the record as it was with the status that was written to it.
pub(super) fn progress(before: &MaroonedNode, after: &MaroonedNodeStatus) -> Progress {
    let created = before.metadata.creation_timestamp.as_ref();
    let nothing = MaroonedNodeStatus::default();
    let was = before.status.as_ref().unwrap_or(&nothing);
    // An attempt after a failed one begins when its backoff ends.
    let begun = was.not_before.as_ref().or(created);
    let (old, new) = (&was.stages, &after.stages);
    let stages = [
        (Stage::Launch, begun, &old.launched, &new.launched),
        (
            Stage::Join,
            new.launched.as_ref(),
            &old.registered,
            &new.registered,
        ),
        (Stage::Lift, new.registered.as_ref(), &old.lifted, &new.lifted),
    ];
    Progress {
        stages: stages
            .into_iter()
            .filter_map(|(stage, from, old, new)| match (from, old, new) {
                (Some(from), None, Some(to)) => Some((stage, seconds(from, to))),
                _ => None,
            })
            .collect(),
        failed: failure(after).filter(|_| failure(was).is_none()),
    }
}

fn seconds(from: &Time, to: &Time) -> f64 {
    to.0.duration_since(from.0).as_secs_f64().max(0.0)
}

/// A failed attempt is marked by its condition Launched being False, with the reason.
fn failure(status: &MaroonedNodeStatus) -> Option<AttemptFailure> {
    record::condition(status, NodeCondition::Launched)
        .filter(|launched| launched.status == "False")
        .and_then(|launched| launched.reason.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(status: Value) -> MaroonedNodeStatus {
        serde_json::from_value(status).unwrap()
    }

    fn record(status: &Value) -> MaroonedNode {
        serde_json::from_value(json!({
            "apiVersion": "maroonedpods.io/v1alpha1", "kind": "MaroonedNode",
            "metadata": {"name": "marooned-u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "podRef": {"namespace": "n", "name": "p", "uid": "u"},
                "resources": {"cpu": 1, "memoryMi": 1, "diskMi": 1, "reservedMemoryMi": 1, "reservedCpuMilli": 1},
                "configHash": "",
                "vm": {"nodeImage": "", "taintKey": "", "join": {"serverURL": ""}, "options": {}},
            },
            "status": status,
        }))
        .unwrap()
    }

    fn at(second: u32) -> String {
        format!("2026-01-01T00:00:{second:02}Z")
    }

    #[test]
    fn each_stage_is_timed_once_from_the_one_before() {
        let launched = json!({"stages": {"launched": at(2)}});
        let registered = json!({"stages": {"launched": at(2), "registered": at(20)}});
        let lifted =
            json!({"stages": {"launched": at(2), "registered": at(20), "ready": at(25), "lifted": at(25)}});
        for (before, after, stages) in [
            (json!({}), &launched, vec![(Stage::Launch, 2.0)]),
            (launched.clone(), &registered, vec![(Stage::Join, 18.0)]),
            (registered.clone(), &lifted, vec![(Stage::Lift, 5.0)]),
            (lifted.clone(), &lifted, vec![]),
        ] {
            assert_eq!(progress(&record(&before), &status(after.clone())).stages, stages);
        }
    }

    #[test]
    fn a_retry_is_timed_from_the_end_of_its_backoff() {
        let before = record(&json!({"attempts": 2, "notBefore": at(30)}));
        let after = status(json!({"attempts": 2, "stages": {"launched": at(33)}}));
        assert_eq!(progress(&before, &after).stages, [(Stage::Launch, 3.0)]);
    }

    #[test]
    fn a_clock_that_was_set_back_gives_no_negative_time() {
        let before = record(&json!({"notBefore": at(30)}));
        let after = status(json!({"stages": {"launched": at(10)}}));
        assert_eq!(progress(&before, &after).stages, [(Stage::Launch, 0.0)]);
    }

    #[test]
    fn a_failed_attempt_counts_once() {
        let failed = json!({"conditions": [{"type": "Launched", "status": "False", "reason": "JoinDeadline",
            "message": "", "lastTransitionTime": at(1)}]});
        let fails = progress(&record(&json!({})), &status(failed.clone()));
        assert_eq!(fails.failed, Some(AttemptFailure::JoinDeadline));
        let again = progress(&record(&failed), &status(failed));
        assert_eq!(again, Progress::default());
    }
}
