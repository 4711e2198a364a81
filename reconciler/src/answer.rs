//! What is read of an answer to a write: which object it was, and which version of it. The rest may be a tenant's or a
//! guest's, and could keep a write that went through from being noted.

use std::borrow::Cow;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// An object of kind `K`, by its name, UID, version and owners.
#[derive(Clone, Debug)]
pub struct Answer<K> {
    metadata: ObjectMeta,
    kind: PhantomData<K>,
}

#[derive(Deserialize)]
struct Text {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl<'de, K> Deserialize<'de> for Answer<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let meta = Text::deserialize(deserializer)?.metadata;
        Ok(Self {
            metadata: ObjectMeta {
                name: meta.name,
                namespace: meta.namespace,
                uid: meta.uid,
                resource_version: meta.resource_version,
                owner_references: meta.owner_references,
                ..ObjectMeta::default()
            },
            kind: PhantomData,
        })
    }
}

impl<K: Resource> Resource for Answer<K> {
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
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::ResourceExt;

    #[test]
    fn whatever_else_is_in_it_an_answer_is_read() {
        let answer: Answer<Pod> = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "resourceVersion": "7", "creationTimestamp": 3,
                "managedFields": [{"time": "9999-12-31T23:59:59Z"}]},
            "spec": [], "status": "odd",
        }))
        .unwrap();
        assert_eq!(
            (answer.name_any().as_str(), answer.resource_version().as_deref()),
            ("p", Some("7"))
        );
        assert_eq!(Answer::<Pod>::kind(&()), "Pod");
    }
}
