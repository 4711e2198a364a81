//! Reviews as the API server writes them, and answers taken apart.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod router;
pub mod server;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub const UID: &str = "705ab4f5-6393-11e8-b7cc-42010a800002";

/// The review of a pod's creation.
pub fn creation(pod: &Value) -> Value {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": UID,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "default",
            "operation": "CREATE",
            "userInfo": {"username": "someone", "groups": ["system:authenticated"]},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

/// A pod as the API server sends it after its own defaults and `DefaultTolerationSeconds`.
pub fn ordinary_pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "containers": [{"name": "web", "image": "web:1", "env": [{"name": "A", "value": "\"quoted\" \u{e9}"}]}],
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300},
            ],
        },
    })
}

/// The operations of the answer's patch, none where there is no patch.
pub fn operations(answer: &Value) -> Vec<Value> {
    let response = &answer["response"];
    let Some(patch) = response.get("patch") else {
        assert_eq!(response.get("patchType"), None);
        return Vec::new();
    };
    assert_eq!(response["patchType"], "JSONPatch");
    let bytes = STANDARD.decode(patch.as_str().unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The pod as the API server stores it after the answer.
pub fn patched(pod: &Value, answer: &Value) -> Value {
    let patch: json_patch::Patch = serde_json::from_value(operations(answer).into()).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

/// The review as the API server writes it: the uid before the object. (`Value` sorts its members.)
pub fn written(review: &Value) -> String {
    let mut review = review.clone();
    let mut request = review["request"].take();
    let uid = request.as_object_mut().unwrap().remove("uid").unwrap();
    let request = request.to_string().replacen('{', &format!("{{\"uid\":{uid},"), 1);
    let envelope = review.to_string();
    envelope.replacen("\"request\":null", &format!("\"request\":{request}"), 1)
}
