use std::cell::Cell;

use k8s_openapi::api::core::v1::Pod as TypedPod;
use maroonedpods_common::admission::MIRROR_ANNOTATION;
use maroonedpods_common::names::{CLASS_LABEL, HOSTNAME_LABEL, MAROON_LABEL};
use maroonedpods_testing::odd_pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The rule must see the partial pod, which the webhook reads, as it sees the typed one, which the reconciler reads.
fn assert_seen_as_typed(pod: &Value) {
    let text = pod.to_string();
    let partial: Pod<'_> = serde_json::from_str(&text).unwrap();
    let typed: TypedPod = serde_json::from_value(pod.clone()).unwrap();
    assert_eq!(partial.view(), PodView::from(&typed), "{text}");
}

/// The facts of a view that differ from those of an empty pod.
fn facts(view: &PodView<'_>) -> [bool; 10] {
    let PodView {
        opt_in,
        daemon_set_owned,
        mirror,
        node_name,
        names_nodes,
        gated,
        scheduler_name,
        has_claims,
        class_selector,
        tolerations,
    } = view;
    [
        opt_in.is_some(),
        *daemon_set_owned,
        *mirror,
        !node_name.is_empty(),
        *names_nodes,
        *gated,
        !scheduler_name.is_empty(),
        *has_claims,
        class_selector.is_some(),
        !tolerations.is_empty(),
    ]
}

/// Lists of more than [`MAX_ITEMS`], which no pod has, are the exception: the webhook reads their beginning.
#[test]
fn whatever_both_read_both_see_alike() {
    let seen = Cell::new([0; 10]);
    let cases = ProptestConfig {
        cases: 4000,
        ..ProptestConfig::default()
    };
    proptest!(cases, |(pod in odd_pod())| {
        let typed: Result<TypedPod, _> = serde_json::from_value(pod.clone());
        let Ok(typed) = typed else { return Ok(()) };
        let text = pod.to_string();
        let partial: Result<Pod<'_>, _> = serde_json::from_str(&text);
        // What the API server's types accept, the webhook reads.
        let partial = partial.map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        let (view, expected) = (partial.view(), PodView::from(&typed));
        prop_assert_eq!(&view, &expected);
        let mut counts = seen.get();
        counts.iter_mut().zip(facts(&view)).for_each(|(count, holds)| *count += usize::from(holds));
        seen.set(counts);
    });
    let seen = seen.get();
    assert!(
        seen.iter().all(|pods| *pods > 0),
        "pods that have each of the facts: {seen:?}"
    );
}

#[test]
fn the_partial_pod_looks_like_the_typed_one() {
    assert_seen_as_typed(&json!({}));
    assert_seen_as_typed(&json!({"metadata": null, "spec": null}));
    assert_seen_as_typed(&json!({
        "metadata": {"labels": null, "annotations": null, "ownerReferences": null},
        "spec": {"containers": [], "nodeName": null, "nodeSelector": null, "schedulingGates": null,
                 "tolerations": null, "affinity": null, "schedulerName": null, "volumes": null,
                 "resourceClaims": null},
    }));
    assert_seen_as_typed(&json!({
        "metadata": {
            "labels": {MAROON_LABEL: "enf\"orced", "a": "b"},
            "annotations": {MIRROR_ANNOTATION: ""},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u"}],
        },
        "spec": {
            "containers": [],
            "nodeName": "node-1",
            "nodeSelector": {CLASS_LABEL: "x", "disk": "ssd"},
            "schedulingGates": [{"name": "a"}, {"name": GATE}],
            "schedulerName": "s",
            "tolerations": [{"operator": "Exists"}, {"key": "k", "value": "v", "tolerationSeconds": 7}],
        },
    }));
}

#[test]
fn the_nodes_that_a_pod_names_are_seen_as_in_the_typed_one() {
    let named = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]});
    let on_host =
        json!({"matchExpressions": [{"key": HOSTNAME_LABEL, "operator": "In", "values": ["n", "m"]}]});
    let zone = json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}], "matchFields": []});
    let empty = json!({"matchExpressions": [], "matchFields": null});
    for (terms, names) in [
        (json!([named, on_host, empty]), true),
        (json!([named, zone]), false),
        (json!([empty]), false),
        (json!([]), false),
    ] {
        let required = json!({"nodeSelectorTerms": terms});
        let affinity = json!({
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []},
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required},
        });
        let pod = json!({"spec": {"containers": [], "affinity": affinity}});
        assert_seen_as_typed(&pod);
        let text = pod.to_string();
        let read: Pod<'_> = serde_json::from_str(&text).unwrap();
        assert_eq!(read.view().names_nodes, names, "{pod}");
    }
    for odd in [
        json!({}),
        json!({"nodeAffinity": null}),
        json!({"nodeAffinity": {}}),
    ] {
        assert_seen_as_typed(&json!({"spec": {"containers": [], "affinity": odd}}));
    }
    assert_seen_as_typed(&json!({"spec": {"containers": [], "nodeSelector": {HOSTNAME_LABEL: "n"}}}));
}

#[test]
fn claims_are_seen_as_in_the_typed_pod() {
    let plain = json!({"name": "plain", "emptyDir": {}, "persistentVolumeClaim": null, "ephemeral": null});
    let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}});
    let scratch = json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
    for (field, items, claims) in [
        ("volumes", json!([plain, claim]), true),
        ("volumes", json!([scratch, plain]), true),
        ("volumes", json!([plain]), false),
        ("volumes", json!([]), false),
        ("resourceClaims", json!([{"name": "gpu"}]), true),
        ("resourceClaims", json!([]), false),
    ] {
        let pod = json!({"spec": {"containers": [], field: items}});
        assert_seen_as_typed(&pod);
        let text = pod.to_string();
        let read: Pod<'_> = serde_json::from_str(&text).unwrap();
        assert_eq!(read.view().has_claims, claims, "{pod}");
    }
}

#[test]
fn a_container_of_the_wrong_type_is_an_error() {
    for pod in [
        r#"{"metadata": []}"#,
        r#"{"metadata": {"labels": ["true"]}}"#,
        r#"{"spec": {"nodeSelector": []}}"#,
        r#"{"spec": {"tolerations": {}}}"#,
        r#"{"spec": {"affinity": {"nodeAffinity": []}}}"#,
        r#"{"spec": {"nodeName": 1}}"#,
        r#"{"spec": {"volumes": [{"persistentVolumeClaim": []}]}}"#,
    ] {
        assert!(serde_json::from_str::<Pod<'_>>(pod).is_err(), "{pod}");
    }
}

#[test]
fn what_was_expected_in_place_of_the_wrong_type_is_said() {
    for (pod, expected) in [
        (r#"{"metadata": []}"#, "expected an object or null"),
        (r#"{"spec": {"tolerations": {}}}"#, "expected a list"),
        (
            r#"{"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": {}}}}}}"#,
            "expected a list or null",
        ),
    ] {
        let error = serde_json::from_str::<Pod<'_>>(pod).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn of_a_long_list_the_first_1024_are_read() {
    let gated = |position: usize| {
        let mut gates = vec![json!({"name": "other"}); 2000];
        gates[position] = json!({"name": GATE});
        let text = json!({"spec": {"schedulingGates": gates}}).to_string();
        serde_json::from_str::<Pod<'_>>(&text).unwrap().view().gated
    };
    assert!(gated(0) && gated(1023));
    assert!(!gated(1024) && !gated(1999));
}

#[test]
fn text_is_borrowed_unless_escaped() {
    let borrowed: Text<'_> = serde_json::from_str(r#""plain""#).unwrap();
    assert!(matches!(borrowed.0, Cow::Borrowed("plain")));
    let owned: Text<'_> = serde_json::from_str(r#""\u0061""#).unwrap();
    assert_eq!(owned.as_str(), "a");
}
