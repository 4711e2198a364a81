use k8s_openapi::api::core::v1::Node;
use maroonedpods_common::names;
use serde_json::{Value, json};

use super::*;

const NODE: &str = "marooned-8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

fn of(spec: &Value) -> Option<Demands> {
    let mut whole = json!({"containers": []});
    json_patch::merge(&mut whole, spec);
    Demands::of("pod", &serde_json::from_value(whole).unwrap())
}

fn spread(key: &str, more: &Value) -> Value {
    let mut constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}}});
    json_patch::merge(&mut constraint, more);
    constraint
}

fn over_hosts() -> Value {
    json!({"topologySpreadConstraints": [spread(names::HOSTNAME_LABEL, &json!({}))]})
}

fn affinity(kind: &str, key: &str) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": key, "labelSelector": {"matchLabels": {"app": "a"}}}]}}})
}

fn with(spec: &Value) -> Option<Demands> {
    let mut whole = over_hosts();
    json_patch::merge(&mut whole, spec);
    of(&whole)
}

/// A node like ours, with these taints on top.
fn node(taints: &Value) -> NodeView {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": NODE, "uid": "u", "labels": {
            "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "a", "cores": "4"}},
        "spec": {"taints": taints},
    }))
    .unwrap();
    NodeView::of(&node).unwrap()
}

fn met(demands: Option<Demands>) -> bool {
    demands.unwrap().met_by(NODE, &node(&json!([])))
}

#[test]
fn we_bind_only_what_the_scheduler_refuses_for_the_missing_label() {
    let soft = spread(
        names::HOSTNAME_LABEL,
        &json!({"whenUnsatisfiable": "ScheduleAnyway"}),
    );
    for theirs in [
        json!({}),
        json!({"topologySpreadConstraints": [soft]}),
        json!({"topologySpreadConstraints": [spread("topology.kubernetes.io/zone", &json!({}))]}),
        affinity("podAntiAffinity", names::HOSTNAME_LABEL),
        affinity("podAffinity", "topology.kubernetes.io/zone"),
        json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"topologyKey": names::HOSTNAME_LABEL}}]}}}),
    ] {
        assert!(of(&theirs).is_none(), "{theirs}");
    }
    assert!(of(&over_hosts()).is_some());
    assert!(of(&affinity("podAffinity", names::HOSTNAME_LABEL)).is_some());
    assert!(with(&affinity("podAntiAffinity", names::HOSTNAME_LABEL)).is_some());
}

#[test]
fn devices_are_left_to_the_scheduler_and_zones_were_met_by_the_vm() {
    let zone = "topology.kubernetes.io/zone";
    for theirs in [affinity("podAntiAffinity", zone), affinity("podAffinity", zone)] {
        assert!(met(with(&theirs)), "{theirs}");
    }
    assert!(with(&json!({"resourceClaims": [{"name": "gpu"}]})).is_none());
}

#[test]
fn a_spread_over_zones_too_needs_a_node_that_has_one() {
    let over = |key: &str| {
        of(
            &json!({"topologySpreadConstraints": [spread(names::HOSTNAME_LABEL, &json!({})), spread(key, &json!({}))]}),
        )
    };
    assert!(met(over("topology.kubernetes.io/zone")));
    assert!(!met(over("rack")));
}

#[test]
fn selector_and_node_affinity_hold_as_for_the_scheduler() {
    assert!(met(with(&json!({"nodeSelector": {"kubernetes.io/os": "linux"}}))));
    assert!(!met(with(&json!({"nodeSelector": {"disk": "fast"}}))));
    let wants = |terms: Value| {
        with(&json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}))
    };
    let label = |key: &str, operator: &str, values: Value| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
    for (operator, values, holds) in [
        ("In", json!(["4", "8"]), true),
        ("In", json!(["8"]), false),
        ("NotIn", json!(["8"]), true),
        ("NotIn", json!(["4"]), false),
        ("Exists", json!([]), true),
        ("DoesNotExist", json!([]), false),
        ("Gt", json!(["3"]), true),
        ("Gt", json!(["4"]), false),
        ("Lt", json!(["5"]), true),
        ("Lt", json!(["x"]), false),
        ("Near", json!(["4"]), false),
    ] {
        assert_eq!(
            met(wants(label("cores", operator, values.clone()))),
            holds,
            "{operator} {values}"
        );
    }
    assert!(met(wants(label("gone", "DoesNotExist", json!([])))));
    assert!(met(wants(label("gone", "NotIn", json!(["4"])))));
    assert!(!met(wants(label("gone", "Gt", json!(["4"])))));
    let field = |value: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [value]}]}]);
    assert!(met(wants(field(NODE))));
    assert!(!met(wants(field("host-1"))));
    assert!(!met(wants(json!([{}]))), "an empty term matches nothing");
    let either = json!([label("gone", "Exists", json!([]))[0], field(NODE)[0]]);
    assert!(met(wants(either)), "one term is enough");
}

#[test]
fn a_taint_that_is_not_tolerated_waits() {
    let taint = json!([{"key": names::CLASS_TAINT, "value": "true", "effect": "NoExecute"}]);
    for (toleration, holds) in [
        (json!({"key": names::CLASS_TAINT, "value": "true"}), true),
        (
            json!({"key": names::CLASS_TAINT, "operator": "Exists", "effect": "NoExecute"}),
            true,
        ),
        (json!({"operator": "Exists"}), true),
        (json!({"key": names::CLASS_TAINT, "value": "false"}), false),
        (
            json!({"key": names::CLASS_TAINT, "value": "true", "effect": "NoSchedule"}),
            false,
        ),
        (json!({"key": "other", "operator": "Exists"}), false),
        (
            json!({"key": names::CLASS_TAINT, "operator": "Lt", "value": "5"}),
            false,
        ),
    ] {
        let demands = with(&json!({"tolerations": [toleration]})).unwrap();
        assert_eq!(demands.met_by(NODE, &node(&taint)), holds, "{toleration}");
    }
    let soft = json!([{"key": "k", "effect": "PreferNoSchedule"}]);
    assert!(with(&json!({})).unwrap().met_by(NODE, &node(&soft)));
}

#[test]
fn claims_are_named_as_their_objects_are() {
    let volumes = json!({"volumes": [
        {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}},
        {"name": "scratch", "ephemeral": {}},
        {"name": "plain", "emptyDir": {}}]});
    assert_eq!(with(&volumes).unwrap().claims, ["mine", "pod-scratch"]);
}
