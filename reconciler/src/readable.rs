//! Objects whose status a guest writes, read so that no guest can make them unreadable.
//!
//! A kubelet may write any text that the API server takes for a time, and that is more than our types can hold (the
//! year 9999 ends a day later for the API server). One such Pod or Node would fail whole lists, and with them the
//! watch that all pods depend on.

use std::borrow::Cow;
use std::ops::Deref;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// A `K` as it was sent; or, where its status cannot be read, the same object with nothing in its status but the
/// phase and what its conditions say.
#[derive(Clone, Debug)]
pub struct Readable<K>(K);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Readable<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        K::deserialize(&object)
            .or_else(|error| {
                let name = &object["metadata"]["name"];
                tracing::warn!(%name, %error, "a status cannot be read and counts as empty");
                if let Some(fields) = object.as_object_mut() {
                    let status = fields.remove("status").unwrap_or_default();
                    fields.insert("status".to_owned(), essence(&status));
                }
                K::deserialize(&object)
            })
            .map(Self)
            .map_err(D::Error::custom)
    }
}

/// Phase, and type, status and reason of each condition: what decisions go by that is no time and no number.
fn essence(status: &Value) -> Value {
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let conditions: Vec<_> = conditions
        .filter_map(|c| {
            let (type_, holds) = (text(&c["type"])?, text(&c["status"])?);
            Some(json!({"type": type_, "status": holds, "reason": text(&c["reason"])}))
        })
        .collect();
    json!({"phase": text(&status["phase"]), "conditions": conditions})
}

impl<K> Deref for Readable<K> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.0
    }
}

impl<K: Resource> Resource for Readable<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Node, Pod};

    /// The last second that the API server takes.
    const TOO_LATE: &str = "9999-12-31T23:59:59Z";

    #[test]
    fn a_time_that_we_cannot_hold_costs_the_status_only() {
        let ended = json!({"terminated": {"exitCode": 0, "finishedAt": TOO_LATE}});
        let pod = json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Succeeded", "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": ended}]},
        });
        assert!(
            serde_json::from_value::<Pod>(pod.clone()).is_err(),
            "the test needs a time that is too late"
        );
        let read: Readable<Pod> = serde_json::from_value(pod).unwrap();
        let status = read.status.as_ref().unwrap();
        assert_eq!(status.phase.as_deref(), Some("Succeeded"));
        assert!(status.container_statuses.is_none());
        assert_eq!(read.spec.as_ref().unwrap().containers.len(), 1);
    }

    #[test]
    fn a_readable_status_is_kept_and_a_broken_object_is_an_error() {
        let node: Readable<Node> = serde_json::from_value(json!({
            "metadata": {"name": "n"}, "status": {"phase": "x", "addresses": [{"type": "InternalIP", "address": "a"}]},
        }))
        .unwrap();
        assert!(node.status.as_ref().unwrap().addresses.is_some());
        assert!(serde_json::from_value::<Readable<Node>>(json!({"metadata": []})).is_err());
    }
}
