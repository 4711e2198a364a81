//! Leaves the placement of a lifted pod to the user who applies it.
//!
//! For server-side apply, tolerations are one value, and so is the node selector. The lift changes both, so the API
//! server records us as their owner, and the next `kubectl apply --server-side` of the same manifest would be refused
//! as a conflict with us. The webhook keeps ours in them at every update, so we need not own them.

use json_patch::Patch;
use serde::Deserialize;
use serde_json::Value;

use crate::objects::patch;
use crate::read::{Keep, Kind, View};

const PLACEMENT: [&str; 2] = ["f:nodeSelector", "f:tolerations"];

/// The owners of a lifted pod's fields. Any user can write this list, so it may be unreadable; the pod keeps it then.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owners {
    uid: String,
    #[serde(default)]
    managed_fields: Vec<Entry>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    operation: Option<String>,
    subresource: Option<String>,
    fields_v1: Option<Value>,
}

/// A pod, by its owners alone.
#[derive(Deserialize)]
pub struct Lifted {
    metadata: Owners,
}

impl View for Owners {
    const KIND: Kind = Kind::Pods;
    const KEEP: Keep = Keep::Fields(&[(
        "metadata",
        Keep::Fields(&[
            ("uid", Keep::All),
            (
                "managedFields",
                Keep::Each(&Keep::Fields(&[
                    ("operation", Keep::All),
                    ("subresource", Keep::All),
                    ("fieldsV1", Keep::All),
                ])),
            ),
        ]),
    )]);
    type Object = Lifted;

    fn read(pod: Lifted) -> Option<Self> {
        Some(pod.metadata)
    }
}

/// The patch after which no updater owns tolerations and node selector, right after a lift; nothing if no user applies
/// the pod server-side. (Before the lift the appliers owned them: an update takes fields from all others.)
#[must_use]
pub fn patch(lifted: &Owners) -> Option<Patch> {
    let entries = &lifted.managed_fields;
    if !entries.iter().any(|entry| is(entry, "Apply")) {
        return None;
    }
    let mut operations = vec![patch::test_uid(&lifted.uid)];
    // The last one first: a removal moves those behind it.
    for (index, entry) in entries.iter().enumerate().rev() {
        let Some(fields) = entry.fields_v1.as_ref().filter(|_| is(entry, "Update")) else {
            continue;
        };
        let Some(rest) = without_placement(fields) else {
            continue;
        };
        let index = index.to_string();
        let entry = ["metadata", "managedFields", &index];
        let path = ["metadata", "managedFields", &index, "fieldsV1"];
        operations.push(patch::test(&path, fields.clone()));
        operations.push(if is_empty(&rest) {
            patch::remove(&entry)
        } else {
            patch::replace(&path, rest)
        });
    }
    (operations.len() > 1).then_some(Patch(operations))
}

fn is(entry: &Entry, operation: &str) -> bool {
    entry.operation.as_deref() == Some(operation)
        && entry.subresource.as_deref().unwrap_or_default().is_empty()
}

/// The same set without the two; `None` where they are not in it. A field without members stands for itself, so an
/// empty `spec` must go too.
fn without_placement(fields: &Value) -> Option<Value> {
    let mut fields = fields.clone();
    let spec = fields.get_mut("f:spec")?.as_object_mut()?;
    let before = spec.len();
    spec.retain(|field, _| !PLACEMENT.contains(&field.as_str()));
    if spec.len() == before {
        return None;
    }
    if spec.is_empty() {
        fields.as_object_mut()?.remove("f:spec");
    }
    Some(fields)
}

fn is_empty(fields: &Value) -> bool {
    fields.as_object().is_some_and(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::view_of;
    use serde_json::json;

    fn disowned(entries: &Value) -> Option<Value> {
        let pod = json!({"metadata": {"name": "p", "uid": "u", "managedFields": entries}});
        let patch = patch(&view_of(&pod).unwrap())?;
        let mut after = pod;
        json_patch::patch(&mut after, &patch).unwrap();
        Some(after["metadata"]["managedFields"].clone())
    }

    fn entry(operation: &str, spec: &Value) -> Value {
        json!({"manager": "m", "operation": operation, "fieldsV1": {"f:spec": spec}})
    }

    #[test]
    fn only_the_placement_goes() {
        let applied = entry("Apply", &json!({"f:containers": {}}));
        let ours = entry("Update", &json!({"f:nodeSelector": {}, "f:tolerations": {}}));
        let other = entry("Update", &json!({"f:tolerations": {}, "f:hostname": {}}));
        assert_eq!(
            disowned(&json!([ours, applied, other, ours])),
            Some(json!([applied, entry("Update", &json!({"f:hostname": {}}))]))
        );
    }

    #[test]
    fn without_an_applier_nothing_is_written() {
        let ours = entry("Update", &json!({"f:tolerations": {}}));
        assert_eq!(disowned(&json!([ours])), None);
        let status = json!({"manager": "m", "operation": "Apply", "subresource": "status", "fieldsV1": {}});
        assert_eq!(disowned(&json!([ours, status])), None);
    }

    #[test]
    fn where_only_appliers_own_it_nothing_is_written() {
        let applied = entry("Apply", &json!({"f:tolerations": {}}));
        assert_eq!(
            disowned(&json!([applied, entry("Update", &json!({"f:hostname": {}}))])),
            None
        );
        assert_eq!(
            disowned(&json!([applied, {"manager": "m", "operation": "Update"}])),
            None
        );
    }
}
