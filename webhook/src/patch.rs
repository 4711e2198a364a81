//! The rule's additions as a JSON Patch (RFC 6902), written as bytes.

use maroonedpods_common::admission::Addition;
use maroonedpods_common::admission::update::Lost;
use maroonedpods_common::names::{
    CLASS_LABEL, CLASS_LABEL_VALUE, GATE, IDENTITY_LABEL, MAROON_LABEL, MAROON_TRUE,
};
use serde::Serialize;

use crate::pod::Pod;

/// The patch that makes `additions` to `pod`: `add` operations only, every missing parent created before its
/// first child.
pub fn json_patch(pod: &Pod<'_>, additions: &[Addition]) -> serde_json::Result<Vec<u8>> {
    let mut patch = Patch::of(pod);
    for addition in additions {
        match addition {
            Addition::Label => patch.add(&member("/metadata/labels", MAROON_LABEL), &MAROON_TRUE)?,
            Addition::Gate => patch.add("/spec/schedulingGates/-", &Gate { name: GATE })?,
            Addition::ClassSelector => {
                patch.add(&member("/spec/nodeSelector", CLASS_LABEL), &CLASS_LABEL_VALUE)?;
            }
            Addition::Toleration(toleration) => patch.add("/spec/tolerations/-", toleration)?,
        }
    }
    Ok(patch.end())
}

/// The patch that gives `pod` back what it lost.
pub fn restoring_patch(pod: &Pod<'_>, lost: &Lost<'_>) -> serde_json::Result<Vec<u8>> {
    let mut patch = Patch::of(pod);
    for (key, value) in [
        (CLASS_LABEL, &lost.class_selector),
        (IDENTITY_LABEL, &lost.identity_selector),
    ] {
        if let Some(value) = value {
            patch.add(&member("/spec/nodeSelector", key), value)?;
        }
    }
    for toleration in &lost.tolerations {
        patch.add("/spec/tolerations/-", toleration)?;
    }
    Ok(patch.end())
}

#[derive(Serialize)]
struct Operation<'a, V> {
    op: &'static str,
    path: &'a str,
    value: &'a V,
}

#[derive(Serialize)]
struct Gate {
    name: &'static str,
}

struct Patch {
    bytes: Vec<u8>,
    missing: Vec<Parent>,
}

/// A container that the pod lacks.
struct Parent {
    path: &'static str,
    is_list: bool,
}

/// Parents come before their children.
fn missing_parents(pod: &Pod<'_>) -> Vec<Parent> {
    let metadata = pod.metadata.as_ref();
    let spec = pod.spec.as_ref();
    let parents = [
        ("/metadata", false, metadata.is_some()),
        (
            "/metadata/labels",
            false,
            metadata.is_some_and(|metadata| metadata.labels.is_some()),
        ),
        ("/spec", false, spec.is_some()),
        (
            "/spec/schedulingGates",
            true,
            spec.is_some_and(|spec| spec.scheduling_gates.is_some()),
        ),
        (
            "/spec/nodeSelector",
            false,
            spec.is_some_and(|spec| spec.node_selector.is_some()),
        ),
        (
            "/spec/tolerations",
            true,
            spec.is_some_and(|spec| spec.tolerations.is_some()),
        ),
    ];
    let missing = parents.into_iter().filter(|(.., present)| !present);
    missing
        .map(|(path, is_list, _)| Parent { path, is_list })
        .collect()
}

impl Patch {
    fn of(pod: &Pod<'_>) -> Self {
        Self {
            bytes: Vec::with_capacity(1024),
            missing: missing_parents(pod),
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.push(b']');
        self.bytes
    }

    fn add(&mut self, path: &str, value: &impl Serialize) -> serde_json::Result<()> {
        while let Some(index) = self
            .missing
            .iter()
            .position(|parent| path.starts_with(parent.path))
        {
            let parent = self.missing.remove(index);
            if parent.is_list {
                self.push(parent.path, &[(); 0])?;
            } else {
                self.push(parent.path, &serde_json::Map::new())?;
            }
        }
        self.push(path, value)
    }

    fn push(&mut self, path: &str, value: &impl Serialize) -> serde_json::Result<()> {
        self.bytes.push(if self.bytes.is_empty() { b'[' } else { b',' });
        serde_json::to_writer(
            &mut self.bytes,
            &Operation {
                op: "add",
                path,
                value,
            },
        )
    }
}

/// JSON Pointer (RFC 6901) to the member `key` of `parent`.
fn member(parent: &str, key: &str) -> String {
    format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn patch(pod: &str, additions: &[Addition]) -> Value {
        let pod: Pod<'_> = serde_json::from_str(pod).unwrap();
        serde_json::from_slice(&json_patch(&pod, additions).unwrap()).unwrap()
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
        ]);
        let additions = [Addition::Label, Addition::Gate, Addition::ClassSelector];
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
    fn pointers_are_escaped() {
        assert_eq!(member("/a", "x~y/z"), "/a/x~0y~1z");
    }
}
