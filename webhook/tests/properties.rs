//! What holds for any pod, however odd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use maroonedpods_common::admission::{OptOut, PodView};
use maroonedpods_webhook::metrics::AdmissionResult;
use maroonedpods_webhook::review::{Answer, answer};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

mod support;
use support::{UID, creation, operations, patched, written};

const LABEL: &str = "maroonedpods.io/maroon";
const CLASS: &str = "maroonedpods.node-restriction.kubernetes.io/marooned";
const OUR_PATHS: [&str; 4] = [
    "/metadata/labels/maroonedpods.io~1maroon",
    "/spec/schedulingGates/-",
    "/spec/nodeSelector/maroonedpods.node-restriction.kubernetes.io~1marooned",
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

/// Strings that mean something to the rule.
const WORDS: [&str; 14] = [
    "",
    "true",
    "false",
    "enforced",
    "Exists",
    "Equal",
    "NoSchedule",
    "NoExecute",
    "maroonedpods.io/gate",
    "maroonedpods.io/marooned",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "DaemonSet",
    "apps/v1",
];

/// Such a string, or any.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![4 => select(&WORDS[..]).prop_map(str::to_owned), 1 => any::<String>()]
}

/// Any JSON.
fn odd() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..3).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Mostly what is usual in this place; else null, or anything at all.
fn mostly(usual: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    prop_oneof![40 => usual, 3 => Just(Value::Null), 1 => odd()]
}

/// An object with any of these members, and some unknown ones.
fn object(members: Vec<(&'static str, BoxedStrategy<Value>)>) -> impl Strategy<Value = Value> {
    let members: Vec<_> = members
        .into_iter()
        .map(|(key, value)| prop::option::of(value).prop_map(move |value| (key, value)))
        .collect();
    (members, prop::option::of((word(), odd()))).prop_map(|(members, unknown)| {
        let mut object = Map::new();
        if let Some((key, value)) = unknown {
            object.insert(format!("x{key}"), value);
        }
        object.extend(
            members
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?))),
        );
        object.into()
    })
}

fn text() -> BoxedStrategy<Value> {
    mostly(word().prop_map(Value::from)).boxed()
}

fn list(item: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    mostly(prop::collection::vec(item, 0..4).prop_map(Value::from)).boxed()
}

/// A required node affinity, which may name nodes or not.
fn affinity() -> impl Strategy<Value = Value> {
    let key = select(vec!["metadata.name", "kubernetes.io/hostname", "zone"]).prop_map(Value::from);
    let operator = select(vec!["In", "In", "NotIn", "Exists"]).prop_map(Value::from);
    let asked = || {
        object(vec![
            ("key", mostly(key.clone()).boxed()),
            ("operator", mostly(operator.clone()).boxed()),
        ])
    };
    let term = object(vec![
        ("matchExpressions", list(asked())),
        ("matchFields", list(asked())),
    ]);
    let required = object(vec![("nodeSelectorTerms", list(term))]);
    let node = object(vec![(
        "requiredDuringSchedulingIgnoredDuringExecution",
        mostly(required).boxed(),
    )]);
    object(vec![("nodeAffinity", mostly(node).boxed())])
}

fn pod() -> impl Strategy<Value = Value> {
    let opt_in = mostly(select(vec!["true", "false", "yes"]).prop_map(Value::from));
    let labels = object(vec![(LABEL, opt_in.boxed())]);
    let annotations = object(vec![("kubernetes.io/config.mirror", text())]);
    // Rare, so that most pods get as far as a patch.
    let annotations = prop_oneof![9 => Just(json!({"a": "b"})), 1 => annotations];
    let owner = object(vec![("apiVersion", text()), ("kind", text()), ("name", text())]);
    let metadata = object(vec![
        ("labels", mostly(labels).boxed()),
        ("annotations", mostly(annotations).boxed()),
        ("ownerReferences", list(owner)),
    ]);
    let toleration = object(vec![
        ("key", text()),
        ("operator", text()),
        ("value", text()),
        ("effect", text()),
        (
            "tolerationSeconds",
            mostly((0..400_i64).prop_map(Value::from)).boxed(),
        ),
    ]);
    let node_name = prop_oneof![9 => Just(json!("")), 1 => text()];
    let selector = object(vec![(CLASS, mostly(Just(json!("true"))).boxed())]);
    let host = object(vec![("kubernetes.io/hostname", mostly(Just(json!("n"))).boxed())]);
    let selector = prop_oneof![9 => selector, 1 => host];
    let affinity = prop_oneof![3 => Just(json!({"podAffinity": {}})), 1 => affinity()];
    let spec = object(vec![
        ("nodeName", node_name.boxed()),
        ("nodeSelector", mostly(selector).boxed()),
        ("schedulingGates", list(object(vec![("name", text())]))),
        ("tolerations", list(toleration)),
        ("affinity", mostly(affinity).boxed()),
        ("containers", odd().boxed()),
    ]);
    object(vec![
        ("metadata", mostly(metadata).boxed()),
        ("spec", mostly(spec).boxed()),
        ("status", odd().boxed()),
    ])
}

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
    fn a_patch_adds_what_is_ours_and_nothing_more(pod in pod(), opt_out in opt_out()) {
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
        assert_kept(&pod, &stored);

        if result == AdmissionResult::Patched {
            let (again, result) = created(&stored, opt_out);
            prop_assert_eq!(result, AdmissionResult::Complete, "{} then {}", stored, again);
        }
    }

    /// The webhook's reading of the affinity and the reconciler's, which is typed, are one.
    #[test]
    fn a_pod_that_names_its_node_gets_no_gate(pod in pod(), opt_out in opt_out()) {
        let mut whole = pod.clone();
        if let Some(spec) = whole.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("containers".to_owned(), json!([]));
        }
        if let Some(whole) = whole.as_object_mut() {
            whole.remove("status");
        }
        let typed: Result<Pod, _> = serde_json::from_value(whole);
        if let Ok(typed) = typed {
            let (_, result) = created(&pod, opt_out);
            let names_nodes = PodView::from(&typed).names_nodes;
            prop_assert!(!(names_nodes && result == AdmissionResult::Patched));
            prop_assert!(names_nodes || result != AdmissionResult::NamesNodes);
        }
    }

    #[test]
    fn a_denial_has_a_message_and_no_patch(pod in pod(), opt_out in opt_out()) {
        let (review, result) = created(&pod, opt_out);
        let denied = matches!(result, AdmissionResult::Denied | AdmissionResult::Invalid);
        prop_assert_eq!(&review["response"]["allowed"], !denied);
        if denied {
            prop_assert!(operations(&review).is_empty());
            prop_assert!(review["response"]["status"]["message"].as_str().is_some_and(|text| text.len() > 20));
        }
    }

    #[test]
    fn a_review_cut_anywhere_is_answered(pod in pod(), cut in any::<prop::sample::Index>()) {
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
