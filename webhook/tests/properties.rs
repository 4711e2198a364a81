//! What holds for any pod, however odd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use maroonedpods_common::admission::{OptOut, Outcome, PodView, decide};
use maroonedpods_testing::odd_pod;
use maroonedpods_webhook::metrics::AdmissionResult;
use maroonedpods_webhook::review::{Answer, answer};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

mod support;
use support::{UID, creation, operations, patched, written};

const OUR_PATHS: [&str; 5] = [
    "/metadata/labels/maroonedpods.io~1maroon",
    "/spec/schedulingGates/-",
    "/spec/nodeSelector/maroonedpods.node-restriction.kubernetes.io~1marooned",
    "/spec/schedulerName",
    "/spec/tolerations/-",
];
const PARENTS: [&str; 6] = [
    "/metadata",
    "/metadata/labels",
    "/spec",
    "/spec/schedulingGates",
    "/spec/nodeSelector",
    "/spec/tolerations",
];

fn opt_out() -> impl Strategy<Value = OptOut> {
    select(vec![OptOut::Honoured, OptOut::Overruled])
}

/// The review that answers the creation of `pod`.
fn created(pod: &Value, opt_out: OptOut) -> (Value, AdmissionResult) {
    let Answer { status, body, result } = answer(creation(pod).to_string().as_bytes(), opt_out);
    assert_eq!(status, StatusCode::OK);
    let review: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(review["response"]["uid"], UID);
    (review, result)
}

/// Asserts that everything in `before` is in `after` unchanged. Null counts as absent, lists may grow at the end.
fn assert_kept(before: &Value, after: &Value) {
    match (before, after) {
        (Value::Null, _) => {}
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                assert_kept(value, &after[key]);
            }
        }
        (Value::Array(before), Value::Array(after)) => assert_eq!(before[..], after[..before.len()]),
        _ => assert_eq!(before, after),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_patch_adds_what_is_ours_and_nothing_more(pod in odd_pod(), opt_out in opt_out()) {
        let (review, result) = created(&pod, opt_out);
        let operations = operations(&review);
        prop_assert_eq!(result == AdmissionResult::Patched, !operations.is_empty());
        for operation in &operations {
            prop_assert_eq!(&operation["op"], "add");
            let path = operation["path"].as_str().unwrap();
            let creates_parent = PARENTS.contains(&path) && pod.pointer(path).is_none_or(Value::is_null);
            prop_assert!(OUR_PATHS.contains(&path) || creates_parent, "{}", operation);
        }
        let stored = patched(&pod, &review);
        let mut kept = pod.clone();
        // The one thing that is replaced.
        let name = kept.pointer_mut("/spec/schedulerName");
        if let Some(name) = name.filter(|name| **name == json!("") || **name == json!("default-scheduler")) {
            *name = Value::Null;
        }
        assert_kept(&kept, &stored);

        if result == AdmissionResult::Patched {
            let (again, result) = created(&stored, opt_out);
            prop_assert_eq!(result, AdmissionResult::Complete, "{} then {}", stored, again);
        }
    }

    /// The reconciler, whose pods are typed, sees in a pod what the webhook saw.
    #[test]
    fn a_pod_is_answered_as_the_rule_decides_on_the_typed_one(pod in odd_pod(), opt_out in opt_out()) {
        let typed: Result<Pod, _> = serde_json::from_value(pod.clone());
        let Ok(typed) = typed else { return Ok(()) };
        let (review, result) = created(&pod, opt_out);
        match decide(&PodView::from(&typed), opt_out) {
            Outcome::LeaveAlone(reason) => prop_assert_eq!(result, AdmissionResult::from(reason)),
            Outcome::Deny(why) => {
                prop_assert_eq!(result, AdmissionResult::Denied);
                prop_assert_eq!(&review["response"]["status"]["message"], &why);
            }
            Outcome::Add(_) => prop_assert_eq!(result, AdmissionResult::Patched),
        }
    }

    #[test]
    fn a_denial_has_a_message_and_no_patch(pod in odd_pod(), opt_out in opt_out()) {
        let (review, result) = created(&pod, opt_out);
        let denied = matches!(result, AdmissionResult::Denied | AdmissionResult::Invalid);
        prop_assert_eq!(&review["response"]["allowed"], !denied);
        if denied {
            prop_assert!(operations(&review).is_empty());
            prop_assert!(review["response"]["status"]["message"].as_str().is_some_and(|text| text.len() > 20));
        }
    }

    #[test]
    fn a_review_cut_anywhere_is_answered(pod in odd_pod(), cut in any::<prop::sample::Index>()) {
        let whole = written(&creation(&pod));
        let uid_ends = whole.find(UID).unwrap() + UID.len() + 1;
        let cut = cut.index(whole.len());
        let cut = (0..=cut).rev().find(|at| whole.is_char_boundary(*at)).unwrap();
        let Answer { status, body, result } = answer(&whole.as_bytes()[..cut], OptOut::Honoured);
        prop_assert_eq!(result, AdmissionResult::Invalid);
        if cut >= uid_ends {
            prop_assert_eq!(status, StatusCode::OK);
            let review: Value = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(&review["response"]["uid"], UID);
        } else if status != StatusCode::OK {
            prop_assert_eq!(status, StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn no_bytes_are_allowed_by_accident(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(answer(&bytes, OptOut::Honoured).result, AdmissionResult::Invalid);
    }
}
