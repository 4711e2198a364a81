//! The rule's additions as a JSON Patch (RFC 6902).

use json_patch::jsonptr::{Pointer, PointerBuf};
use json_patch::{AddOperation, Patch, PatchOperation};
use maroonedpods_common::admission::Addition;
use maroonedpods_common::admission::update::Lost;
use maroonedpods_common::names::{
    CLASS_LABEL, CLASS_LABEL_VALUE, GATE, IDENTITY_LABEL, MAROON_LABEL, MAROON_TRUE, SCHEDULER_NAME,
};
use serde_json::{Result, Value, json, to_value};

use crate::pod::Pod;

const METADATA: &Pointer = Pointer::from_static("/metadata");
const LABELS: &Pointer = Pointer::from_static("/metadata/labels");
const SPEC: &Pointer = Pointer::from_static("/spec");
const GATES: &Pointer = Pointer::from_static("/spec/schedulingGates");
const NODE_SELECTOR: &Pointer = Pointer::from_static("/spec/nodeSelector");
const TOLERATIONS: &Pointer = Pointer::from_static("/spec/tolerations");
/// Member of [`SPEC`]: an `add` of a member that is there replaces it.
const SCHEDULER: &str = "schedulerName";
/// The place behind the last item of a list.
const END: &str = "-";

/// The patch that makes `additions` to `pod`: `add` operations only, every missing parent created before its
/// first child.
pub fn adding_patch(pod: &Pod<'_>, additions: &[Addition]) -> Result<Patch> {
    let mut patch = Builder::of(pod);
    for addition in additions {
        match addition {
            Addition::Label => patch.add(LABELS, MAROON_LABEL, MAROON_TRUE.into()),
            Addition::Gate => patch.add(GATES, END, json!({"name": GATE})),
            Addition::ClassSelector => patch.add(NODE_SELECTOR, CLASS_LABEL, CLASS_LABEL_VALUE.into()),
            Addition::SchedulerName => patch.add(SPEC, SCHEDULER, SCHEDULER_NAME.into()),
            Addition::Toleration(toleration) => patch.add(TOLERATIONS, END, to_value(toleration)?),
        }
    }
    Ok(Patch(patch.operations))
}

/// The patch that gives `pod` back what it lost.
pub fn restoring_patch(pod: &Pod<'_>, lost: &Lost<'_>) -> Result<Patch> {
    let mut patch = Builder::of(pod);
    for (key, value) in [
        (CLASS_LABEL, lost.class_selector),
        (IDENTITY_LABEL, lost.identity_selector),
    ] {
        if let Some(value) = value {
            patch.add(NODE_SELECTOR, key, value.into());
        }
    }
    if let Some(name) = lost.scheduler_name {
        patch.add(SPEC, SCHEDULER, name.into());
    }
    for toleration in &lost.tolerations {
        patch.add(TOLERATIONS, END, to_value(toleration)?);
    }
    Ok(Patch(patch.operations))
}

struct Builder {
    operations: Vec<PatchOperation>,
    missing: Vec<Container>,
}

/// An object or a list that the pod lacks.
struct Container {
    path: &'static Pointer,
    empty: Value,
}

/// Parents come before their children.
fn missing_containers(pod: &Pod<'_>) -> Vec<Container> {
    let metadata = pod.metadata.as_ref();
    let spec = pod.spec.as_ref();
    let labels = metadata.and_then(|metadata| metadata.labels.as_ref());
    let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
    let selector = spec.and_then(|spec| spec.node_selector.as_ref());
    let tolerations = spec.and_then(|spec| spec.tolerations.as_ref());
    let containers = [
        (METADATA, json!({}), metadata.is_some()),
        (LABELS, json!({}), labels.is_some()),
        (SPEC, json!({}), spec.is_some()),
        (GATES, json!([]), gates.is_some()),
        (NODE_SELECTOR, json!({}), selector.is_some()),
        (TOLERATIONS, json!([]), tolerations.is_some()),
    ];
    let missing = containers.into_iter().filter(|(.., present)| !present);
    missing
        .map(|(path, empty, _)| Container { path, empty })
        .collect()
}

impl Builder {
    fn of(pod: &Pod<'_>) -> Self {
        Self {
            operations: Vec::with_capacity(8),
            missing: missing_containers(pod),
        }
    }

    /// Adds the member or item `key` of `container`, and before it what it is in, where the pod lacks that.
    fn add(&mut self, container: &Pointer, key: &str, value: Value) {
        let around = |missing: &mut Container| container.starts_with(missing.path);
        let created = self.missing.extract_if(.., around);
        self.operations
            .extend(created.map(|missing| add(missing.path.to_buf(), missing.empty)));
        self.operations
            .push(add(container.with_trailing_token(key), value));
    }
}

fn add(path: PointerBuf, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(pod: &str, additions: &[Addition]) -> Value {
        let pod: Pod<'_> = serde_json::from_str(pod).unwrap();
        to_value(adding_patch(&pod, additions).unwrap()).unwrap()
    }

    #[test]
    fn missing_parents_are_created_once_and_in_order() {
        let expected = json!([
            {"op": "add", "path": "/metadata", "value": {}},
            {"op": "add", "path": "/metadata/labels", "value": {}},
            {"op": "add", "path": "/metadata/labels/maroonedpods.io~1maroon", "value": "true"},
            {"op": "add", "path": "/spec", "value": {}},
            {"op": "add", "path": "/spec/schedulingGates", "value": []},
            {"op": "add", "path": "/spec/schedulingGates/-", "value": {"name": "maroonedpods.io/gate"}},
            {"op": "add", "path": "/spec/nodeSelector", "value": {}},
            {"op": "add",
             "path": "/spec/nodeSelector/maroonedpods.node-restriction.kubernetes.io~1marooned", "value": "true"},
            {"op": "add", "path": "/spec/schedulerName", "value": "maroonedpods"},
        ]);
        let additions = [
            Addition::Label,
            Addition::Gate,
            Addition::ClassSelector,
            Addition::SchedulerName,
        ];
        assert_eq!(patch("{}", &additions), expected);
        assert_eq!(patch(r#"{"metadata": null, "spec": null}"#, &additions), expected);
    }

    #[test]
    fn existing_parents_are_kept() {
        let pod = r#"{"metadata": {"labels": {}}, "spec": {"schedulingGates": [], "nodeSelector": {}}}"#;
        let additions = [Addition::Label, Addition::Gate, Addition::ClassSelector];
        assert_eq!(patch(pod, &additions).as_array().unwrap().len(), additions.len());
    }

    #[test]
    fn keys_are_escaped() {
        let mut patch = Builder::of(&Pod::default());
        patch.missing.clear();
        patch.add(SPEC, "x~y/z", Value::Null);
        assert_eq!(patch.operations[0].path().as_str(), "/spec/x~0y~1z");
    }
}
