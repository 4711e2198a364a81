//! Pods as JSON, in odd shapes: with fields that are missing, null, empty or of another type, and strings that mean
//! something to the admission rule in places where they mean nothing.
//!
//! Most of such a pod is usual, so that many are pods to whoever reads them.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

const OPT_IN: &str = "maroonedpods.io/maroon";
const CLASS: &str = "maroonedpods.node-restriction.kubernetes.io/marooned";
const HOSTNAME: &str = "kubernetes.io/hostname";
const MIRROR: &str = "kubernetes.io/config.mirror";
const GATE: &str = "maroonedpods.io/gate";

/// Strings that mean something to the rule.
const WORDS: [&str; 17] = [
    "",
    "true",
    "false",
    "enforced",
    "Exists",
    "Equal",
    "NoSchedule",
    "NoExecute",
    GATE,
    "maroonedpods.io/marooned",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "DaemonSet",
    "apps/v1",
    "default-scheduler",
    "persistentVolumeClaim",
    "ephemeral",
];

/// `apiVersion` and `kind` of owners: of `DaemonSet`s, and of what is almost one.
const OWNERS: [(&str, &str); 7] = [
    ("apps/v1", "DaemonSet"),
    ("apps/v1beta2", "DaemonSet"),
    ("apps/v1", "ReplicaSet"),
    ("apps/v1", ""),
    ("apps.kruise.io/v1alpha1", "DaemonSet"),
    ("", "DaemonSet"),
    ("batch/v1", "Job"),
];

/// Any pod.
pub fn odd_pod() -> impl Strategy<Value = Value> {
    object(vec![
        ("metadata", mostly(metadata()).boxed()),
        ("spec", mostly(spec()).boxed()),
        ("status", mostly(object(vec![("phase", text())])).boxed()),
    ])
}

fn metadata() -> impl Strategy<Value = Value> {
    let opt_in = mostly(select(vec!["true", "false", "yes"]).prop_map(Value::from));
    let labels = object(vec![(OPT_IN, opt_in.boxed())]);
    let annotations = object(vec![(MIRROR, text())]);
    // Rare, so that most pods get as far as a patch.
    let annotations = prop_oneof![9 => Just(json!({"a": "b"})), 1 => annotations];
    let any_owner = object(vec![("apiVersion", text()), ("kind", text()), ("name", text())]);
    let owner = select(&OWNERS[..])
        .prop_map(|(version, kind)| json!({"apiVersion": version, "kind": kind, "name": "o", "uid": "u"}));
    let owners = prop_oneof![9 => list(any_owner), 1 => list(owner)];
    object(vec![
        ("labels", mostly(labels).boxed()),
        ("annotations", mostly(annotations).boxed()),
        ("ownerReferences", owners.boxed()),
    ])
}

fn spec() -> impl Strategy<Value = Value> {
    let seconds = mostly((0..400_i64).prop_map(Value::from));
    let toleration = object(vec![
        ("key", text()),
        ("operator", text()),
        ("value", text()),
        ("effect", text()),
        ("tolerationSeconds", seconds.boxed()),
    ]);
    let node_name = prop_oneof![9 => Just(json!("")), 1 => text()];
    let selector = object(vec![(CLASS, mostly(Just(json!("true"))).boxed())]);
    let host = object(vec![(HOSTNAME, mostly(Just(json!("n"))).boxed())]);
    let selector = prop_oneof![9 => selector, 1 => host];
    let affinity = prop_oneof![3 => Just(json!({"podAffinity": {}})), 1 => affinity()];
    let scheduler = select(vec![
        "",
        "default-scheduler",
        "default-scheduler",
        "maroonedpods",
        "s",
    ])
    .prop_map(Value::from);
    let claim = object(vec![("claimName", text())]);
    let volume = object(vec![
        ("name", text()),
        ("emptyDir", mostly(Just(json!({}))).boxed()),
        ("persistentVolumeClaim", mostly(claim).boxed()),
        ("ephemeral", mostly(Just(json!({}))).boxed()),
    ]);
    let volumes = prop_oneof![3 => Just(json!([{"name": "v", "emptyDir": {}}])), 1 => list(volume)];
    let resource_claims = prop_oneof![9 => Just(json!([])), 1 => list(object(vec![("name", text())]))];
    let containers = || {
        let usual = list(object(vec![("name", text()), ("image", text())]));
        prop_oneof![9 => usual, 1 => odd()].boxed()
    };
    object(vec![
        ("nodeName", node_name.boxed()),
        ("nodeSelector", mostly(selector).boxed()),
        ("schedulingGates", list(object(vec![("name", text())]))),
        ("tolerations", list(toleration)),
        ("schedulerName", mostly(scheduler).boxed()),
        ("volumes", volumes.boxed()),
        ("resourceClaims", resource_claims.boxed()),
        ("affinity", mostly(affinity).boxed()),
        ("containers", containers()),
        ("initContainers", containers()),
    ])
}

/// A required node affinity, which may name nodes or not.
fn affinity() -> impl Strategy<Value = Value> {
    let key = select(vec!["metadata.name", HOSTNAME, "zone"]).prop_map(Value::from);
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

/// One of [`WORDS`], or any string.
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
