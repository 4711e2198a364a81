//! Step 8 as a JSON patch: the one write after which the pod can be bound.

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use maroonedpods_common::admission::{self, Addition};
use maroonedpods_common::names;
use serde_json::{Value, json};

use crate::objects::patch;
use crate::view::ObjectRef;

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

/// Step 8 of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lift {
    /// The pod.
    pub pod: ObjectRef,
    /// The version of it that this was decided from.
    pub resource_version: String,
    /// Position of our gate.
    pub gate_index: usize,
    /// The pod's present shape.
    pub placement: Placement,
    /// The key that the identity taint is made of.
    pub taint_key: String,
    /// The Node's address.
    pub address: String,
}

/// Tests UID, version and gate, removes the gate, pins the pod to its own Node and lets it tolerate that Node's taints.
/// Notes the Node's address on the pod: its kubelet may report no other, which a guard sees to.
///
/// The API server applies it whole or not at all, and accepts selectors and tolerations only as additions
/// (KEP-3838), which these are. The version keeps out a patch that was held up on its way from an earlier attempt: each
/// failure and each new start is reported on the pod, which changes its version.
#[must_use]
pub fn patch(lift: &Lift) -> Patch {
    let (pod_uid, placement) = (lift.pod.uid.as_str(), &lift.placement);
    let gate_index = lift.gate_index.to_string();
    let gate = ["spec", "schedulingGates", &gate_index];
    let mut operations = vec![
        patch::test_uid(pod_uid),
        patch::test(&["metadata", "resourceVersion"], lift.resource_version.as_str()),
        patch::test(&["spec", "schedulingGates", &gate_index, "name"], names::GATE),
        patch::remove(&gate),
    ];
    if !placement.has_annotations {
        operations.push(patch::add(&["metadata", "annotations"], json!({})));
    }
    operations.push(patch::add(
        &["metadata", "annotations", names::ADDRESS_ANNOTATION],
        lift.address.as_str(),
    ));
    if !placement.has_node_selector {
        operations.push(patch::add(&["spec", "nodeSelector"], json!({})));
    }
    let select = |key: &str, value: &str| patch::add(&["spec", "nodeSelector", key], value);
    operations.push(select(names::IDENTITY_LABEL, pod_uid));
    if placement.missing.contains(&Addition::ClassSelector) {
        operations.push(select(names::CLASS_LABEL, names::CLASS_LABEL_VALUE));
    }
    if !placement.has_tolerations {
        operations.push(patch::add(&["spec", "tolerations"], json!([])));
    }
    let identity = names::identity_taint(&lift.taint_key);
    let own = names::TAINT_EFFECTS.map(|effect| toleration(&identity, pod_uid, effect));
    let class = placement.missing.iter().filter_map(|addition| match addition {
        Addition::Toleration(t) if t.key == names::CLASS_TAINT => Some(toleration(t.key, t.value, t.effect)),
        _ => None,
    });
    let tolerations = class.chain(own);
    operations.extend(tolerations.map(|value| patch::add(&["spec", "tolerations", patch::END], value)));
    Patch(operations)
}

fn toleration(key: &str, value: &str, effect: &str) -> Value {
    json!({"key": key, "operator": "Equal", "value": value, "effect": effect})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::PodView;

    const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

    fn metadata() -> Value {
        json!({"namespace": "ns", "name": "pod", "uid": UID, "resourceVersion": "7"})
    }

    fn lift_of(pod: &Value, gate_index: usize) -> Patch {
        let view = PodView::of(&serde_json::from_value(pod.clone()).unwrap()).unwrap();
        super::patch(&Lift {
            pod: view.reference(),
            resource_version: view.resource_version,
            gate_index,
            placement: view.placement,
            taint_key: "example.org".to_owned(),
            address: "192.0.2.7".to_owned(),
        })
    }

    fn lift(pod: Value) -> Value {
        let patch = lift_of(&pod, 1);
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
            let patch = lift_of(pod, index);
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
