//! The router without a socket.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use maroonedpods_webhook::http::{State, metrics_router, router};
use maroonedpods_webhook::metrics::Metrics;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tower::ServiceExt;

use super::{UID, operations, ordinary_pod, written};

pub struct Webhook {
    pub state: Arc<State>,
    pub admission: Router,
    pub plain: Router,
}

impl Webhook {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let state = Arc::new(State::new(Metrics::register(&mut registry)));
        let plain = metrics_router(Arc::clone(&state), registry);
        Self {
            admission: router(Arc::clone(&state)),
            state,
            plain,
        }
    }

    pub async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        send(router, Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
        send(&self.admission, Request::post(path).body(body.into()).unwrap()).await
    }

    /// The answer to a body that is answered with a review; it carries the uid, whatever else it says.
    pub async fn review(&self, path: &str, body: impl Into<Body>) -> Value {
        let (status, body) = self.post(path, body).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        assert_eq!(answer["response"]["uid"], UID);
        answer
    }
}

async fn send(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

pub async fn review(path: &str, review: &Value) -> Value {
    Webhook::new().review(path, written(review)).await
}

pub fn assert_untouched(answer: &Value) {
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    assert!(operations(answer).is_empty(), "{answer}");
}

/// Asserts a denial with this code, whose message contains `advice`.
pub fn assert_denied(answer: &Value, code: u16, advice: &str) {
    let response = &answer["response"];
    assert_eq!(response["allowed"], false, "{answer}");
    assert_eq!(response["status"]["code"], code, "{answer}");
    assert!(
        response["status"]["message"].as_str().unwrap().contains(advice),
        "{answer}"
    );
    assert!(operations(answer).is_empty(), "{answer}");
}

pub fn labelled(value: &str) -> Value {
    let mut pod = ordinary_pod();
    pod["metadata"]["labels"]["maroonedpods.io/maroon"] = value.into();
    pod
}
