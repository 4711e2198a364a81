//! Step 8 as a JSON patch: the one write after which the scheduler goes on without us.

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use maroonedpods_common::admission::{self, Addition};
use maroonedpods_common::names;
use serde_json::{Value, json};

use crate::view::PodView;

/// What the lift patch needs to know of a pod's present shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    has_annotations: bool,
    has_node_selector: bool,
    has_tolerations: bool,
    /// What the webhook would add: missing on a pod that came with our gate and so never met the webhook.
    missing: Vec<Addition>,
}

impl Placement {
    /// Reads a pod's placement.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        Self {
            has_annotations: pod.metadata.annotations.is_some(),
            has_node_selector: spec.is_some_and(|s| s.node_selector.is_some()),
            has_tolerations: spec.is_some_and(|s| s.tolerations.is_some()),
            missing: admission::missing(&pod.into()),
        }
    }
}

/// Tests UID, version and gate, removes the gate, pins the pod to its own Node and lets it tolerate that Node's taints.
/// Notes the Node's address on the pod: its kubelet may report no other, which a guard sees to.
///
/// The API server applies it whole or not at all, and accepts selectors and tolerations only as additions
/// (KEP-3838), which these are. The version keeps a patch that was held up on its way from an attempt after its own:
/// the pod is told of each failure and each new start.
#[must_use]
pub fn patch(pod: &PodView, gate_index: usize, taint_key: &str, address: &str) -> Patch {
    let (pod_uid, placement) = (pod.uid.as_str(), &pod.placement);
    let gate = format!("/spec/schedulingGates/{gate_index}");
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": pod_uid}),
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": pod.resource_version}),
        json!({"op": "test", "path": format!("{gate}/name"), "value": names::GATE}),
        json!({"op": "remove", "path": gate}),
    ];
    if !placement.has_annotations {
        operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    let path = format!("/metadata/annotations/{}", escape(names::ADDRESS_ANNOTATION));
    operations.push(json!({"op": "add", "path": path, "value": address}));
    if !placement.has_node_selector {
        operations.push(json!({"op": "add", "path": "/spec/nodeSelector", "value": {}}));
    }
    let mut select = |key: &str, value: &str| {
        let path = format!("/spec/nodeSelector/{}", escape(key));
        operations.push(json!({"op": "add", "path": path, "value": value}));
    };
    select(names::IDENTITY_LABEL, pod_uid);
    if placement.missing.contains(&Addition::ClassSelector) {
        select(names::CLASS_LABEL, names::CLASS_LABEL_VALUE);
    }
    if !placement.has_tolerations {
        operations.push(json!({"op": "add", "path": "/spec/tolerations", "value": []}));
    }
    let identity = names::identity_taint(taint_key);
    let own = names::TAINT_EFFECTS.map(|effect| toleration(&identity, pod_uid, effect));
    let class = placement.missing.iter().filter_map(|addition| match addition {
        Addition::Toleration(t) if t.key == names::CLASS_TAINT => Some(toleration(t.key, t.value, t.effect)),
        _ => None,
    });
    for value in class.chain(own) {
        operations.push(json!({"op": "add", "path": "/spec/tolerations/-", "value": value}));
    }
    // The operations above are literals of the right shape; a test holds them to it.
    serde_json::from_value(Value::Array(operations)).unwrap_or_default()
}

fn toleration(key: &str, value: &str, effect: &str) -> Value {
    json!({"key": key, "operator": "Equal", "value": value, "effect": effect})
}

/// Escapes a key for a JSON pointer (RFC 6901).
#[must_use]
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

    fn view(pod: &Value) -> PodView {
        PodView::of(&serde_json::from_value(pod.clone()).unwrap()).unwrap()
    }

    fn metadata() -> Value {
        json!({"namespace": "ns", "name": "pod", "uid": UID, "resourceVersion": "7"})
    }

    fn lift(pod: Value) -> Value {
        let patch = patch(&view(&pod), 1, "example.org", "192.0.2.7");
        assert!(!patch.0.is_empty());
        let mut lifted = pod;
        json_patch::patch(&mut lifted, &patch).unwrap();
        lifted
    }

    #[test]
    fn a_bare_pod_is_pinned_and_keeps_foreign_gates() {
        let lifted = lift(json!({
            "metadata": metadata(),
            "spec": {"containers": [], "schedulingGates": [{"name": "kueue"}, {"name": names::GATE}]},
        }));
        assert_eq!(lifted["spec"]["schedulingGates"], json!([{"name": "kueue"}]));
        assert_eq!(lifted["spec"]["nodeSelector"][names::IDENTITY_LABEL], UID);
        assert_eq!(lifted["spec"]["nodeSelector"][names::CLASS_LABEL], "true");
        let tolerations = lifted["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(tolerations.len(), 4);
        assert_eq!(tolerations[3]["key"], "example.org/dedicated");
        assert_eq!(tolerations[3]["value"], UID);
        assert_eq!(
            lifted["metadata"]["annotations"],
            json!({names::ADDRESS_ANNOTATION: "192.0.2.7"})
        );
    }

    #[test]
    fn what_is_there_stays() {
        let mut annotated = metadata();
        annotated["annotations"] = json!({"mine": "too"});
        let lifted = lift(json!({
            "metadata": annotated,
            "spec": {"containers": [], "schedulingGates": [{"name": "kueue"}, {"name": names::GATE}],
                "nodeSelector": {"disk": "ssd", (names::CLASS_LABEL): "true"},
                "tolerations": [{"key": "mine", "operator": "Exists"}]},
        }));
        assert_eq!(lifted["spec"]["nodeSelector"]["disk"], "ssd");
        assert_eq!(lifted["spec"]["tolerations"][0]["key"], "mine");
        assert_eq!(lifted["metadata"]["annotations"]["mine"], "too");
    }

    #[test]
    fn another_pod_another_version_and_a_moved_gate_fail_the_tests() {
        let pod = json!({"metadata": metadata(), "spec": {"containers": [],
            "schedulingGates": [{"name": names::GATE}, {"name": "kueue"}]}});
        let fits = |pod: &Value, index| {
            let patch = patch(&view(pod), index, "k", "192.0.2.7");
            move |stored: &Value| json_patch::patch(&mut stored.clone(), &patch).is_ok()
        };
        assert!(fits(&pod, 0)(&pod));
        assert!(!fits(&pod, 1)(&pod));
        for field in ["uid", "resourceVersion"] {
            let mut other = pod.clone();
            other["metadata"][field] = json!("8");
            assert!(!fits(&pod, 0)(&other), "{field}");
        }
    }
}
