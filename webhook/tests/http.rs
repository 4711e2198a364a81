//! Every request that the API server, or anybody else, may send: the router without a socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use maroonedpods_webhook::http::{State, metrics_router, router};
use maroonedpods_webhook::metrics::Metrics;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt;

mod support;
use support::{UID, creation, operations, ordinary_pod, patched, written};

struct Webhook {
    state: Arc<State>,
    admission: Router,
    plain: Router,
}

impl Webhook {
    fn new() -> Self {
        let mut registry = Registry::default();
        let state = Arc::new(State::new(Metrics::register(&mut registry)));
        let plain = metrics_router(Arc::clone(&state), registry);
        Self {
            admission: router(Arc::clone(&state)),
            state,
            plain,
        }
    }

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        send(router, Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
        send(&self.admission, Request::post(path).body(body.into()).unwrap()).await
    }

    /// The answer to a body that is answered with a review; it carries the uid, whatever else it says.
    async fn review(&self, path: &str, body: impl Into<Body>) -> Value {
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

async fn review(path: &str, review: &Value) -> Value {
    Webhook::new().review(path, written(review)).await
}

fn assert_untouched(answer: &Value) {
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    assert!(operations(answer).is_empty(), "{answer}");
}

/// Asserts a denial with this code, whose message contains `advice`.
fn assert_denied(answer: &Value, code: u16, advice: &str) {
    let response = &answer["response"];
    assert_eq!(response["allowed"], false, "{answer}");
    assert_eq!(response["status"]["code"], code, "{answer}");
    assert!(
        response["status"]["message"].as_str().unwrap().contains(advice),
        "{answer}"
    );
    assert!(operations(answer).is_empty(), "{answer}");
}

fn labelled(value: &str) -> Value {
    let mut pod = ordinary_pod();
    pod["metadata"]["labels"]["maroonedpods.io/maroon"] = value.into();
    pod
}

#[tokio::test]
async fn an_opted_in_pod_gets_the_constants() {
    let pod = ordinary_pod();
    let stored = patched(&pod, &review("/mutate", &creation(&pod)).await);

    let mut expected = pod;
    expected["metadata"]["labels"]["maroonedpods.io/maroon"] = "true".into();
    expected["spec"]["schedulingGates"] = json!([{"name": "maroonedpods.io/gate"}]);
    expected["spec"]["nodeSelector"] =
        json!({"maroonedpods.node-restriction.kubernetes.io/marooned": "true"});
    let tolerations = expected["spec"]["tolerations"].as_array_mut().unwrap();
    for effect in ["NoSchedule", "NoExecute"] {
        let key = "maroonedpods.io/marooned";
        tolerations.push(json!({"key": key, "operator": "Equal", "value": "true", "effect": effect}));
    }
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn a_lost_node_is_tolerated_for_30_seconds_where_nobody_said_otherwise() {
    let mut pod = ordinary_pod();
    pod["spec"]["tolerations"].as_array_mut().unwrap().remove(0);
    let stored = patched(&pod, &review("/mutate", &creation(&pod)).await);
    let seconds = |taint| {
        let tolerations = stored["spec"]["tolerations"].as_array().unwrap().iter();
        let matching = tolerations.filter(|toleration| toleration["key"] == taint);
        matching
            .map(|toleration| toleration["tolerationSeconds"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(seconds("node.kubernetes.io/not-ready"), [30]);
    assert_eq!(seconds("node.kubernetes.io/unreachable"), [300]);
}

#[tokio::test]
async fn reinvocation_adds_nothing() {
    for path in ["/mutate", "/mutate/enforced"] {
        let pod = ordinary_pod();
        let stored = patched(&pod, &review(path, &creation(&pod)).await);
        assert_untouched(&review(path, &creation(&stored)).await);
    }
}

#[tokio::test]
async fn opting_out_holds_unless_the_namespace_enforces() {
    let pod = labelled("false");
    assert_untouched(&review("/mutate", &creation(&pod)).await);
    // A changed label would hide the pod from the ReplicaSet that selects by it.
    let answer = review("/mutate/enforced", &creation(&pod)).await;
    assert_denied(&answer, 403, "remove the label");
}

#[tokio::test]
async fn a_pod_that_names_its_node_is_left_to_it_or_refused() {
    let mut agent = ordinary_pod();
    agent["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}});
    assert_untouched(&review("/mutate", &creation(&agent)).await);
    let says = "ask for a node by its name";
    assert_denied(&review("/mutate/enforced", &creation(&agent)).await, 403, says);
    agent["metadata"]["labels"]["maroonedpods.io/maroon"] = "true".into();
    assert_denied(&review("/mutate", &creation(&agent)).await, 403, says);
}

#[tokio::test]
async fn daemon_set_and_mirror_pods_are_left_alone() {
    let mut daemon = labelled("true");
    daemon["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true}]);
    let mut mirror = labelled("true");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    for pod in [daemon, mirror] {
        assert_untouched(&review("/mutate", &creation(&pod)).await);
        assert_untouched(&review("/mutate/enforced", &creation(&pod)).await);
    }
}

#[tokio::test]
async fn what_cannot_be_marooned_is_denied_with_advice() {
    let mut pinned = labelled("true");
    pinned["spec"]["nodeName"] = "node-1".into();
    assert_denied(
        &review("/mutate", &creation(&pinned)).await,
        403,
        "remove spec.nodeName",
    );

    let mut selected = labelled("true");
    selected["spec"]["nodeSelector"] = json!({"maroonedpods.node-restriction.kubernetes.io/marooned": "no"});
    assert_denied(
        &review("/mutate", &creation(&selected)).await,
        403,
        "remove it from the pod",
    );

    assert_denied(
        &review("/mutate", &creation(&labelled("yes"))).await,
        403,
        "set it to \"true\"",
    );
}

#[tokio::test]
async fn what_is_neither_birth_nor_change_of_a_pod_is_allowed_untouched() {
    let with = |changes: Value| {
        let mut review = creation(&ordinary_pod());
        for (key, value) in changes.as_object().unwrap() {
            review["request"][key] = value.clone();
        }
        review
    };
    let deployment = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let cases = [
        with(json!({"operation": "UPDATE", "oldObject": ordinary_pod()})),
        with(json!({"operation": "DELETE", "object": null, "oldObject": ordinary_pod()})),
        with(json!({"operation": "CONNECT", "subResource": "exec"})),
        with(json!({"subResource": "status"})),
        with(json!({"subResource": "binding", "kind": {"group": "", "version": "v1", "kind": "Binding"}})),
        with(json!({"kind": deployment, "object": {"spec": {"replicas": 1}}})),
        // An object that is no pod need not look like one.
        with(json!({"kind": deployment, "object": {"metadata": {"labels": []}, "spec": {"nodeName": 1}}})),
        with(json!({"kind": {"group": "", "version": "v2", "kind": "Pod"}})),
    ];
    for case in cases {
        assert_untouched(&review("/mutate", &case).await);
    }
}

const POD_UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

/// A pod whose author wrote one toleration and one selector.
fn authored() -> Value {
    let mut pod = labelled("true");
    pod["metadata"]["uid"] = POD_UID.into();
    pod["spec"]["tolerations"] = json!([{"key": "team", "operator": "Exists"}]);
    pod["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    pod
}

/// The same as it is stored once its gate is lifted.
fn lifted() -> Value {
    let mut pod = authored();
    pod["spec"]["nodeSelector"]["maroonedpods.node-restriction.kubernetes.io/marooned"] = "true".into();
    pod["spec"]["nodeSelector"]["maroonedpods.node-restriction.kubernetes.io/pod-uid"] = POD_UID.into();
    let tolerations = pod["spec"]["tolerations"].as_array_mut().unwrap();
    for (key, value) in [
        ("maroonedpods.io/marooned", "true"),
        ("corp.test/dedicated", POD_UID),
    ] {
        for effect in ["NoSchedule", "NoExecute"] {
            tolerations.push(json!({"key": key, "operator": "Equal", "value": value, "effect": effect}));
        }
    }
    pod
}

fn update(old: &Value, new: &Value) -> Value {
    let mut review = creation(new);
    review["request"]["operation"] = "UPDATE".into();
    review["request"]["oldObject"] = old.clone();
    review
}

#[tokio::test]
async fn an_update_gets_back_what_its_author_never_wrote() {
    let update = update(&lifted(), &authored());
    for path in ["/mutate", "/mutate/enforced"] {
        assert_eq!(patched(&authored(), &review(path, &update).await), lifted());
    }
}

#[tokio::test]
async fn an_update_gets_back_what_it_lacks_altogether() {
    let mut bare = authored();
    bare["spec"].as_object_mut().unwrap().remove("tolerations");
    bare["spec"].as_object_mut().unwrap().remove("nodeSelector");
    let stored = patched(&bare, &review("/mutate", &update(&lifted(), &bare)).await);
    assert_eq!(
        stored["spec"]["tolerations"].as_array().unwrap()[..],
        lifted()["spec"]["tolerations"].as_array().unwrap()[1..]
    );
    let selector = stored["spec"]["nodeSelector"].as_object().unwrap();
    assert_eq!(selector.len(), 2, "ours alone: {selector:?}");
}

#[tokio::test]
async fn an_update_that_takes_nothing_is_untouched() {
    let mut more = lifted();
    more["spec"]["tolerations"]
        .as_array_mut()
        .unwrap()
        .push(json!({"key": "more", "operator": "Exists"}));
    for (old, new) in [(lifted(), more), (authored(), authored()), (lifted(), lifted())] {
        assert_untouched(&review("/mutate", &update(&old, &new)).await);
    }
}

#[tokio::test]
async fn endless_lists_are_looked_at_in_part() {
    let mut pod = labelled("true");
    let empty = vec![json!({}); 500_000];
    pod["spec"]["tolerations"] = empty.clone().into();
    pod["spec"]["schedulingGates"] = empty.clone().into();
    pod["metadata"]["ownerReferences"] = empty.into();
    let answer = review("/mutate", &creation(&pod)).await;
    // The gate, the selector and the list that it is in, two tolerations: `{}` is one of a lost node.
    assert_eq!(operations(&answer).len(), 5, "{answer}");
}

#[tokio::test]
async fn a_dry_run_is_answered_the_same() {
    let mut dry = creation(&ordinary_pod());
    let real = review("/mutate", &dry).await;
    dry["request"]["dryRun"] = true.into();
    assert_eq!(review("/mutate", &dry).await, real);
}

#[tokio::test]
async fn without_a_uid_the_answer_is_a_plain_400() {
    let webhook = Webhook::new();
    let mut anonymous = creation(&ordinary_pod());
    anonymous["request"].as_object_mut().unwrap().remove("uid");
    for body in [
        "",
        "null",
        "{}",
        "[]",
        "{\"request\": null}",
        "\u{0}",
        &anonymous.to_string(),
    ] {
        let (status, text) = webhook.post("/mutate", body.to_owned()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(text.len() > 10, "{text}");
    }
}

#[tokio::test]
async fn whatever_is_wrong_the_answer_carries_the_uid() {
    let good = creation(&ordinary_pod());
    let text = written(&good);
    let truncated = &text[..text.len() - 20];
    let trailing = format!("{text}x");
    let mut other_version = good.clone();
    other_version["apiVersion"] = "admission.k8s.io/v1beta1".into();
    let mut other_kind = good.clone();
    other_kind["kind"] = "ConversionReview".into();
    let mut no_object = good.clone();
    no_object["request"]["object"] = Value::Null;
    let mut odd = good.clone();
    odd["request"]["object"]["spec"]["tolerations"] = "all".into();
    let twice = text.replacen("\"uid\"", &format!("\"uid\":\"{UID}\",\"uid\""), 1);
    let cases = [
        (truncated, "cannot be read"),
        (&trailing, "cannot be read"),
        (
            &written(&other_version),
            "speaks admission.k8s.io/v1 AdmissionReview, not \"admission.k8s.io/v1beta1\"",
        ),
        (
            &written(&other_kind),
            "not \"admission.k8s.io/v1\" \"ConversionReview\"",
        ),
        (&written(&no_object), "request.object is missing"),
        (&written(&odd), "cannot be read: invalid type"),
        (&twice, "duplicate field `uid`"),
    ];
    for (body, message) in cases {
        let answer = Webhook::new().review("/mutate", body.to_owned()).await;
        assert_denied(&answer, 400, message);
    }
}

#[tokio::test]
async fn deep_nesting_costs_no_stack() {
    let depth = 100_000;
    let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let review = |place: &str, nested: &str| {
        let pod = json!({"metadata": {}, "spec": {}, place: "HERE"});
        written(&creation(&pod)).replace("\"HERE\"", nested)
    };
    let webhook = Webhook::new();
    // The rule does not look there, so it is skipped.
    let answer = webhook.review("/mutate", review("status", &nested)).await;
    assert_eq!(answer["response"]["allowed"], true);
    let answer = webhook
        .review("/mutate", review("status", &"{\"a\":".repeat(depth)))
        .await;
    assert_denied(&answer, 400, "cannot be read");
    // And here it does.
    let body = creation(&json!({"metadata": {"labels": "HERE"}}))
        .to_string()
        .replace("\"HERE\"", &nested);
    assert_denied(&webhook.review("/mutate", body).await, 400, "cannot be read");
}

/// A review of `size` bytes, in chunks as they come off a socket.
fn padded(review: &Value, size: usize) -> Body {
    let mut review = review.clone();
    review["request"]["object"]["status"] = "x".repeat(size).into();
    let bytes = Bytes::from(written(&review));
    let starts = (0..bytes.len()).step_by(16 << 10);
    let chunks: Vec<_> = starts
        .map(|at| bytes.slice(at..bytes.len().min(at + (16 << 10))))
        .collect();
    Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
}

#[tokio::test]
async fn a_body_over_the_limit_is_read_to_its_end_and_denied() {
    let webhook = Webhook::new();
    let review = creation(&ordinary_pod());
    let answer = webhook.review("/mutate", padded(&review, 7 << 20)).await;
    assert_eq!(answer["response"]["allowed"], true);
    assert_denied(
        &webhook.review("/mutate", padded(&review, 20_000_000)).await,
        413,
        "8 MiB",
    );
    let (status, _) = webhook.post("/mutate", vec![b' '; 20_000_000]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_or_breaks_is_denied() {
    let webhook = Webhook::new();
    let text = written(&creation(&ordinary_pod()));
    let part = Bytes::from(text[..text.len() - 9].to_owned());
    let first = || stream::iter([Ok::<_, std::io::Error>(part.clone())]);

    let stalled = Body::from_stream(first().chain(stream::pending()));
    assert_denied(&webhook.review("/mutate", stalled).await, 408, "10 seconds");
    let broken =
        Body::from_stream(first().chain(stream::iter([Err(std::io::ErrorKind::ConnectionReset.into())])));
    assert_denied(&webhook.review("/mutate", broken).await, 400, "broke off");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let webhook = Webhook::new();
    assert_eq!(
        Webhook::get(&webhook.admission, "/mutate").await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        Webhook::get(&webhook.admission, "/metrics").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(webhook.post("/validate", "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn probes_answer_on_both_ports() {
    let webhook = Webhook::new();
    for router in [&webhook.admission, &webhook.plain] {
        assert_eq!(Webhook::get(router, "/healthz").await.0, StatusCode::OK);
        assert_eq!(Webhook::get(router, "/readyz").await.0, StatusCode::OK);
    }
    webhook.state.set_unready();
    for router in [&webhook.admission, &webhook.plain] {
        assert_eq!(Webhook::get(router, "/healthz").await.0, StatusCode::OK);
        assert_eq!(
            Webhook::get(router, "/readyz").await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}

/// What makes kube-scheduler wait is that the pod is not there: reason and code both say so.
#[tokio::test]
async fn a_preemption_is_refused_with_the_answer_that_ends_it() {
    let mut request = creation(&labelled("true"));
    request["request"]["operation"] = "UPDATE".into();
    request["request"]["subResource"] = "status".into();
    let answer = review("/preemption", &request).await;
    assert_denied(&answer, 404, "a marooned pod is not preempted");
    assert_eq!(answer["response"]["status"]["reason"], "NotFound");
    assert_eq!(answer["response"]["uid"], UID);
}

#[tokio::test]
async fn requests_are_counted_by_result() {
    let webhook = Webhook::new();
    webhook
        .review("/mutate", creation(&ordinary_pod()).to_string())
        .await;
    webhook
        .review("/mutate", creation(&labelled("false")).to_string())
        .await;
    webhook
        .review("/mutate", creation(&labelled("no")).to_string())
        .await;
    webhook.post("/mutate", "").await;
    let (status, metrics) = Webhook::get(&webhook.plain, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "maroonedpods_webhook_admission_requests_total{result=\"patched\"} 1",
        "maroonedpods_webhook_admission_requests_total{result=\"opted_out\"} 1",
        "maroonedpods_webhook_admission_requests_total{result=\"denied\"} 1",
        "maroonedpods_webhook_admission_requests_total{result=\"invalid\"} 1",
        "maroonedpods_webhook_admission_duration_seconds_count 4",
        "maroonedpods_webhook_admission_inflight 0",
        "maroonedpods_webhook_tls_reloads_total{result=\"error\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is not in\n{metrics}"
        );
    }
}
