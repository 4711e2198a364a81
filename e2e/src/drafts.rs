//! Drafts of pods, opted in or not, and what can be read off the pods that they become.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;
use maroonedpods_common::names;
use serde_json::{Value, json};

use crate::pods::{condition, phase};

/// A pod's `spec` that runs until it is stopped. No service account token, whose volume has a random name; a short
/// grace period, by half of which a namespace waits before it looks again whether its pods are gone.
#[must_use]
pub fn spec() -> Value {
    json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "app", "image": "registry.example/app"}],
    })
}

/// An ordinary pod, which opts in or out of nothing.
#[must_use]
pub fn ordinary(name: &str) -> Pod {
    with_spec(name, spec())
}

/// A pod with this `spec`.
///
/// # Panics
/// If `spec` is not a pod's spec.
#[must_use]
#[allow(clippy::expect_used)]
pub fn with_spec(name: &str, spec: Value) -> Pod {
    let spec: PodSpec = serde_json::from_value(spec).expect("a pod's spec");
    let mut pod = Pod {
        spec: Some(spec),
        ..Pod::default()
    };
    pod.metadata.name = Some(name.to_owned());
    pod
}

/// `pod` with the opt-in label set to `value`.
#[must_use]
pub fn labelled(mut pod: Pod, value: &str) -> Pod {
    pod.labels_mut()
        .insert(names::MAROON_LABEL.to_owned(), value.to_owned());
    pod
}

/// A pod that opts in.
#[must_use]
pub fn marooned(name: &str) -> Pod {
    labelled(ordinary(name), names::MAROON_TRUE)
}

/// Whether the pod is Running and Ready.
#[must_use]
pub fn runs(pod: &Pod) -> bool {
    phase(pod) == "Running" && condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

/// The node that the pod is bound to; empty for none.
#[must_use]
pub fn node(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Reason of the condition `maroonedpods.io/NodeReady`; empty where the pod has none.
#[must_use]
pub fn reason(pod: &Pod) -> String {
    let ours = condition(pod, names::NODE_READY_CONDITION);
    ours.map(|(_, reason)| reason).unwrap_or_default()
}

/// Names of the pod's scheduling gates.
#[must_use]
pub fn gates(pod: &Pod) -> Vec<&str> {
    let gates = pod.spec.iter().flat_map(|s| s.scheduling_gates.iter().flatten());
    gates.map(|gate| gate.name.as_str()).collect()
}

/// Whether the pod bears any mark of ours in spec, status or annotations: gate, selector, toleration, condition.
#[must_use]
pub fn bears_our_mark(pod: &Pod) -> bool {
    json!([pod.spec, pod.status, pod.annotations()])
        .to_string()
        .contains("maroonedpods")
}
