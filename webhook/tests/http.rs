//! Whatever the API server or another client may send: malformed, too large, too slow, to the wrong path.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

mod support;
use support::router::{Webhook, assert_denied, labelled};
use support::{UID, creation, ordinary_pod, written};

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
        assert_eq!(Webhook::get(router, "/livez").await.0, StatusCode::OK);
        assert_eq!(Webhook::get(router, "/readyz").await.0, StatusCode::OK);
    }
    webhook.state.set_unready();
    for router in [&webhook.admission, &webhook.plain] {
        assert_eq!(Webhook::get(router, "/livez").await.0, StatusCode::OK);
        assert_eq!(
            Webhook::get(router, "/readyz").await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
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
        "maroonedpods_webhook_admission_requests_total{result=\"daemon_set\"} 0",
        "maroonedpods_webhook_admission_requests_total{result=\"preemption_refused\"} 0",
        "maroonedpods_webhook_tls_reloads_total{result=\"error\"} 0",
        "maroonedpods_webhook_tls_reloads_total{result=\"success\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is not in\n{metrics}"
        );
    }
}
