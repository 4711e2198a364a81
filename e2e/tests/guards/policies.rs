//! The policies themselves.

use std::collections::BTreeSet;

use http_body_util::BodyExt;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy as Policy;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{eventually, refused};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::control_plane::{ControlPlane, ControlPlaneOptions};
use maroonedpods_e2e::fake_kubevirt::install_crd;
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::install::{InstallValues, install};
use maroonedpods_e2e::system::logs::logs;
use serde_json::{Map, Value, json};

use crate::fixtures::{create, pod};

const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

#[tokio::test(flavor = "multi_thread")]
async fn the_server_has_no_doubt_about_their_types() {
    let env = TestEnv::shared().await.unwrap();
    let policies: Api<Policy> = Api::all(env.control_plane().admin().await.unwrap());
    let ours = ListParams::default().labels("app.kubernetes.io/part-of=maroonedpods");
    let checked = eventually("type checking", SOON, || async {
        let all = policies.list(&ours).await?.items;
        let done = |policy: &Policy| {
            let seen = policy
                .status
                .as_ref()
                .and_then(|status| status.observed_generation);
            seen == policy.metadata.generation
        };
        Ok((!all.is_empty() && all.iter().all(done)).then_some(all))
    })
    .await
    .unwrap();
    assert_eq!(checked.len(), 16);
    for policy in checked {
        let warnings = policy
            .status
            .and_then(|s| s.type_checking)
            .and_then(|t| t.expression_warnings);
        assert_eq!(warnings.unwrap_or_default(), [], "{:?}", policy.metadata.name);
        assert_eq!(policy.spec.unwrap().failure_policy.as_deref(), Some("Fail"));
    }
}

/// Warn and audit: for a careful roll-out nothing is refused, the user is warned, and the audit log has it. Deny can be
/// had at any time.
#[tokio::test(flavor = "multi_thread")]
async fn their_mode_is_a_value_of_the_chart() {
    let control_plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    let admin = control_plane.admin().await.unwrap();
    install_crd(&admin).await.unwrap();
    let values = |mode: &str| InstallValues {
        webhook_url: "https://127.0.0.1:1".to_owned(),
        ca_bundle: control_plane.ca_pem(),
        config: None,
        more: json!({"guards": {"mode": mode}}),
    };
    let says = "no pod is created on a marooned node";
    for (mode, refused) in [("Warn,Audit", false), ("Deny", true), ("Warn,Audit", false)] {
        install(&control_plane, &values(mode)).await.unwrap();
        let name = format!("tried-{}", Timestamp::now().as_nanosecond());
        let attempt = pod(
            &json!({"name": name}),
            &json!({"nodeName": names::node_name(&UID.into())}),
        );
        let answer = post(&admin, &attempt).await;
        assert_eq!(answer.status.is_success(), !refused, "{mode}: {answer:?}");
        if refused {
            assert!(
                answer.body.contains(says) && answer.warnings.is_empty(),
                "{answer:?}"
            );
            continue;
        }
        let [warning] = answer.warnings.as_slice() else {
            panic!("{mode}: one warning: {answer:?}");
        };
        assert!(
            warning.contains("ValidatingAdmissionPolicy 'maroonedpods-node-name'") && warning.contains(says),
            "{warning}"
        );
        let failures = eventually("the attempt in the audit log", SOON, || async {
            let log = control_plane.audit()?;
            let attempt = log
                .into_iter()
                .find(|event| event.verb == "create" && event.name == name);
            Ok(attempt.map(|event| event.policy_failures))
        });
        let failures = failures.await.unwrap();
        assert!(
            failures.contains("\"policy\":\"maroonedpods-node-name\"") && failures.contains(says),
            "{failures}"
        );
    }
    control_plane.stop().await.unwrap();
}

/// What the API server says to a request, its headers for people included.
#[derive(Debug)]
struct Answer {
    status: http::StatusCode,
    warnings: Vec<String>,
    body: String,
}

/// Creates a pod in the namespace `default`, which the API server is only to try.
async fn post(client: &Client, pod: &Pod) -> Answer {
    let request = http::Request::post("/api/v1/namespaces/default/pods?dryRun=All")
        .header("Content-Type", "application/json")
        .body(serde_json::to_vec(pod).unwrap().into())
        .unwrap();
    let answer = client.send(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let warnings = head.headers.get_all("warning").into_iter();
    Answer {
        status: head.status,
        warnings: warnings.map(|text| text.to_str().unwrap().to_owned()).collect(),
        body: String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap(),
    }
}

/// Whatever a pod looks like and wherever it is, what the webhook makes of it passes the guards.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_webhook_writes_passes() {
    logs();
    let env = TestEnv::shared().await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let labels = [
        json!({}),
        json!({names::MAROON_LABEL: "true"}),
        json!({names::MAROON_LABEL: "false"}),
    ];
    // What a user may have written, our own additions included: the pod may be a copy of a marooned one.
    let class =
        json!({"key": names::CLASS_TAINT, "operator": "Equal", "value": "true", "effect": "NoSchedule"});
    let shapes = [
        json!({}),
        json!({"schedulingGates": [{"name": "example.com/gate"}], "tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"disk": "ssd"}}),
        json!({"schedulingGates": [{"name": names::GATE}], "tolerations": [class],
            "nodeSelector": {names::CLASS_LABEL: "true"}}),
    ];
    let mut outcomes = BTreeSet::new();
    for choice in [None, Some(names::MAROON_TRUE), Some(names::MAROON_ENFORCED)] {
        let of_namespace: Vec<_> = choice
            .map(|value| (names::MAROON_LABEL, value))
            .into_iter()
            .collect();
        let namespace = TestNamespace::new(&admin, &of_namespace).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace.name);
        for labels in &labels {
            let own = labels.get(names::MAROON_LABEL).and_then(Value::as_str);
            let out = own == Some("false");
            let in_vain = out && choice == Some(names::MAROON_ENFORCED);
            let opted_in = !out && (own.is_some() || choice.is_some());
            for (index, shape) in shapes.iter().enumerate() {
                let copied = index == 2;
                match create(&pods, json!({"labels": labels}), shape.clone()).await {
                    Ok(made) => {
                        let gates = made.spec.unwrap().scheduling_gates.unwrap_or_default();
                        let gated = gates.iter().any(|gate| gate.name == names::GATE);
                        assert_eq!(gated, opted_in, "{choice:?} {labels} {shape}");
                    }
                    Err(error) => {
                        let expected = in_vain || (copied && !opted_in);
                        assert!(expected, "{choice:?} {labels} {shape}: {error}");
                    }
                }
                outcomes.insert((opted_in, copied));
            }
        }
        namespace.close(&admin).await.unwrap();
    }
    assert_eq!(outcomes.len(), 4);
}

/// Expressions have a budget, and a policy that runs out of it refuses. A pod that could be created, but not updated,
/// would keep its finalizers for ever.
#[tokio::test(flavor = "multi_thread")]
async fn large_pods_are_within_the_budget() {
    let env = TestEnv::shared().await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace.name);
    let entries: Map<String, Value> = (0..20_000).map(|i| (format!("{i:x}"), json!(""))).collect();
    let tolerates = |key: &str| vec![json!({"key": key, "operator": "Exists"}); 2000];
    let mut labels = entries.clone();
    labels.insert(names::MAROON_LABEL.to_owned(), json!("true"));
    let opted_in = json!({names::MAROON_LABEL: "true"});
    for (name, labels, spec) in [
        ("labels", json!(labels), json!({})),
        ("selector", opted_in.clone(), json!({"nodeSelector": entries})),
        (
            "foreign",
            opted_in.clone(),
            json!({"tolerations": tolerates("example.com/taint")}),
        ),
        (
            "class",
            opted_in,
            json!({"tolerations": tolerates(names::CLASS_TAINT)}),
        ),
    ] {
        let mut held = spec;
        held["schedulingGates"] = json!([{"name": "example.com/held"}]);
        let draft = pod(&json!({"name": name, "labels": labels}), &held);
        pods.create(&PostParams::default(), &draft).await.unwrap();
        let change = Patch::Merge(json!({"metadata": {"labels": {"example.com/colour": "blue"}}}));
        pods.patch(name, &PatchParams::default(), &change).await.unwrap();
        let theft = Patch::Merge(json!({"metadata": {"labels": {names::MAROON_LABEL: null}}}));
        let message = refused(pods.patch(name, &PatchParams::default(), &theft).await).unwrap();
        assert!(
            message.contains("are fixed when a pod is created"),
            "{name}: {message}"
        );
    }
    namespace.close(&admin).await.unwrap();
}
