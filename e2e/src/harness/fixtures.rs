//! Pods for tests to create, opted in or not.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;
use maroonedpods_common::names;
use serde_json::{Value, json};

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

/// A `DaemonSet` called `agent`, whose pods have the label `app=agent` and are [ordinary].
#[must_use]
pub fn daemon_set() -> Value {
    json!({
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": spec()},
        },
    })
}

/// A pod that opts in.
#[must_use]
pub fn marooned(name: &str) -> Pod {
    labelled(ordinary(name), names::MAROON_TRUE)
}

/// A pod that opts in, with the label `app` of its name, and with `more` merged into its spec (RFC 7396).
#[must_use]
pub fn marooned_with(name: &str, more: &Value) -> Pod {
    let mut spec = spec();
    json_patch::merge(&mut spec, more);
    let mut pod = labelled(with_spec(name, spec), names::MAROON_TRUE);
    pod.labels_mut().insert("app".to_owned(), name.to_owned());
    pod
}
