//! Pods and parameters for the attempts.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use maroonedpods_e2e::harness::fixtures;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// All of admission, and nothing stored.
pub fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

/// A pod with `spec` merged into the usual one, and this metadata.
pub fn pod(metadata: &Value, more: &Value) -> Pod {
    let mut spec = fixtures::spec();
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let mut pod = from::<Pod>(json!({"metadata": metadata, "spec": spec}));
    if pod.metadata.name.is_none() {
        pod.metadata.generate_name = Some("pod-".to_owned());
    }
    pod
}

pub async fn create(pods: &Api<Pod>, metadata: Value, spec: Value) -> kube::Result<Pod> {
    pods.create(&dry_run(), &pod(&metadata, &spec)).await
}

/// The mirror of a static pod of this node, as its kubelet makes it.
pub fn mirror(node: &Node) -> Pod {
    let name = node.name_any();
    let owner =
        json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid(), "controller": true});
    let metadata = json!({"name": format!("static-{name}"), "labels": {"app": "victim"}, "ownerReferences": [owner],
        "annotations": {"kubernetes.io/config.mirror": "h", "kubernetes.io/config.hash": "h"}});
    pod(&metadata, &json!({"nodeName": name}))
}
