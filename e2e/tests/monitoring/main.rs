//! What operators watch: alerts and dashboard name what our programs really export, and what is exported is true.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::panic, clippy::unwrap_used)]

mod promtool;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::test_env::{Running, TestEnv};
use maroonedpods_e2e::install::SYSTEM_NAMESPACE;
use maroonedpods_e2e::system::tools::{self, Tool};
use serde::Deserialize;
use serde_json::Value;

use promtool::promtool;

const ALL_OF_IT: [&str; 3] = [
    "monitoring.serviceMonitor.enabled=true",
    "monitoring.prometheusRule.enabled=true",
    "monitoring.dashboard.enabled=true",
];

/// The chart's objects with these values.
fn render(values: &[&str]) -> Vec<Value> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/maroonedpods");
    let output = Command::new(tools::find(Tool::Helm).unwrap())
        .args(["template", "maroonedpods"])
        .arg(chart)
        .args(["--namespace", SYSTEM_NAMESPACE])
        .args(values.iter().flat_map(|value| ["--set", value]))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let documents = serde_yaml_ng::Deserializer::from_slice(&output.stdout);
    documents
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let [object] = of_kind(objects, kind)[..] else {
        panic!("not one {kind}: {:?}", of_kind(objects, kind))
    };
    object
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn alerts(rule: &Value) -> impl Iterator<Item = &Value> {
    items(&rule["spec"]["groups"])
        .iter()
        .flat_map(|group| items(&group["rules"]))
}

fn dashboard(objects: &[Value]) -> Value {
    let is_ours = |map: &&Value| map["metadata"]["name"] == "maroonedpods-dashboard";
    let map = of_kind(objects, "ConfigMap").into_iter().find(is_ours).unwrap();
    serde_json::from_str(map["data"]["maroonedpods.json"].as_str().unwrap()).unwrap()
}

#[test]
fn nothing_is_made_unasked() {
    let objects = render(&[]);
    assert!(!objects.is_empty());
    for object in objects {
        let group = object["apiVersion"].as_str().unwrap();
        assert!(!group.starts_with("monitoring.coreos.com"), "{object}");
        assert_ne!(object["metadata"]["name"], "maroonedpods-dashboard");
    }
}

#[test]
fn each_program_has_a_monitor_that_finds_its_metrics() {
    let objects = render(&ALL_OF_IT);
    let services = of_kind(&objects, "Service");
    let monitors = of_kind(&objects, "ServiceMonitor");
    assert_eq!(monitors.len(), 2);
    let mut found = BTreeSet::new();
    for monitor in monitors {
        let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        let selected: Vec<_> = services
            .iter()
            .filter(|service| {
                wanted
                    .iter()
                    .all(|(key, value)| service["metadata"]["labels"][key] == *value)
            })
            .collect();
        let [service] = selected[..] else {
            panic!("{monitor} selects {selected:?}")
        };
        let port = &monitor["spec"]["endpoints"][0]["port"];
        assert!(
            items(&service["spec"]["ports"])
                .iter()
                .any(|p| p["name"] == *port),
            "{service}"
        );
        found.insert(service["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        found,
        BTreeSet::from(["maroonedpods-reconciler", "maroonedpods-webhook"].map(String::from))
    );
}

#[test]
fn programs_outside_the_cluster_have_no_monitor() {
    let mut values = ALL_OF_IT.to_vec();
    values.extend([
        "reconciler.enabled=false",
        "webhook.external.url=https://127.0.0.1:1",
    ]);
    values.push("webhook.external.caBundle=-----BEGIN CERTIFICATE-----");
    assert!(of_kind(&render(&values), "ServiceMonitor").is_empty());
}

#[test]
fn each_alert_fires_when_it_should_and_says_what_to_do() {
    let tests = include_str!("alerts.test.yaml");
    let objects = render(&ALL_OF_IT);
    let rule = only(&objects, "PrometheusRule");
    for alert in alerts(rule) {
        let name = alert["alert"].as_str().unwrap();
        let tested = format!("alertname=\"{name}\"");
        assert!(
            tests.contains(&tested),
            "alerts.test.yaml does not make {name} fire"
        );
        assert!(["warning", "critical"].contains(&alert["labels"]["severity"].as_str().unwrap()));
        for text in ["summary", "description", "action"] {
            let said = alert["annotations"][text].as_str().unwrap_or_default();
            assert!(
                said.ends_with(['.', '?']),
                "{name}: {text} is not a sentence: {said:?}"
            );
        }
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("alerts.yaml"), rule["spec"].to_string()).unwrap();
    fs::write(folder.path().join("alerts.test.yaml"), tests).unwrap();
    promtool(
        folder.path(),
        &["check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"],
    );
    promtool(folder.path(), &["test", "rules", "alerts.test.yaml"]);
}

#[test]
fn thresholds_are_the_values() {
    let mut values = ALL_OF_IT.to_vec();
    values.extend([
        "monitoring.prometheusRule.waitSeconds=1234567",
        "monitoring.prometheusRule.certificateSeconds=2592000",
    ]);
    let objects = render(&values);
    let expressions: Vec<_> = alerts(only(&objects, "PrometheusRule"))
        .map(|alert| alert["expr"].as_str().unwrap())
        .collect();
    for value in ["1234567", "2592000"] {
        assert!(
            expressions.iter().any(|e| e.ends_with(&format!(" {value}"))),
            "{expressions:?}"
        );
    }
}

/// Our metrics' names in an expression.
fn names_in(expression: &str) -> impl Iterator<Item = &str> {
    let parts = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    parts.filter(|part| part.starts_with("maroonedpods_"))
}

/// The names of the samples in an exposition.
fn samples(exposition: &str) -> impl Iterator<Item = &str> {
    let lines = exposition.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['{', ' ']).next())
}

async fn value(program: &Running, sample: &str) -> f64 {
    program.metric(sample).await.unwrap()
}

#[tokio::test]
async fn what_alerts_and_dashboard_name_is_exported() {
    let (env, reconciler) = TestEnv::shared_with_reconciler().await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    // Its first guest asks for a certificate of another node, its second is honest: everything happens once.
    let script = Script {
        attempts: 1,
        wrong_node_name: Some("another-node".to_owned()),
        ..Script::default()
    };
    let refused = value(reconciler, r#"maroonedpods_writes_total{kind="deny_csr"}"#).await;
    let pod = MaroonedPod::create(&admin, &namespace.name, "pod", &script)
        .await
        .unwrap();
    pod.running().await.unwrap();
    let denied = value(reconciler, r#"maroonedpods_writes_total{kind="deny_csr"}"#).await;
    assert!(denied > refused, "{denied} {refused}");

    let mut exported = String::new();
    for program in [reconciler, env.webhook()] {
        exported += &program.scrape().await.unwrap();
    }
    let exported: BTreeSet<_> = samples(&exported).collect();
    let objects = render(&ALL_OF_IT);
    let dashboard = dashboard(&objects);
    let panels = items(&dashboard["panels"]).iter();
    let expressions: Vec<_> = alerts(only(&objects, "PrometheusRule"))
        .chain(panels.flat_map(|panel| items(&panel["targets"])))
        .map(|query| query["expr"].as_str().unwrap())
        .collect();
    let named: BTreeSet<_> = expressions
        .iter()
        .flat_map(|expression| names_in(expression))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    let missing: Vec<_> = named.difference(&exported).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
    pod.ends().await.unwrap();
}

#[tokio::test]
async fn a_pod_is_counted_while_it_waits_and_timed_when_it_runs() {
    const WAITS: &str = r#"maroonedpods_pods_gated{reason="WaitingForOtherGates"}"#;
    const RUNS: &str = r#"maroonedpods_vms{phase="Running"}"#;
    const TIMED: &str = r#"maroonedpods_stage_seconds_count{stage="lift"}"#;
    let (env, reconciler) = TestEnv::shared_with_reconciler().await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    let mut waiting = maroonedpods_e2e::harness::marooned_pod::pod("waits", &Script::default()).unwrap();
    waiting.spec.as_mut().unwrap().scheduling_gates = Some(vec![
        serde_json::from_value(serde_json::json!({"name": "other.example/gate"})).unwrap(),
    ]);
    let waiting = MaroonedPod::create_pod(&admin, &namespace.name, &waiting)
        .await
        .unwrap();
    waiting.reports("WaitingForOtherGates").await.unwrap();
    // The condition is written before the watch tells us of it.
    eventually("the waiting pod is counted", SOON, || async {
        Ok((reconciler.metric(WAITS).await? >= 1.0).then_some(()))
    })
    .await
    .unwrap();

    let timed = value(reconciler, TIMED).await;
    let runs = MaroonedPod::create(&admin, &namespace.name, "runs", &Script::default())
        .await
        .unwrap();
    runs.running().await.unwrap();
    eventually("the VM is counted and the life is timed", SOON, || async {
        let counted = reconciler.metric(RUNS).await? >= 1.0 && reconciler.metric(TIMED).await? > timed;
        Ok(counted.then_some(()))
    })
    .await
    .unwrap();
    // Of its namespace, it is the only one with a VM.
    let of_namespace = |name: &str| {
        format!(
            "maroonedpods_namespace_{name}{{pod_namespace=\"{}\"}}",
            namespace.name
        )
    };
    for (name, is) in [
        ("vms", 1.0),
        ("vcpus", 1.0),
        ("memory_bytes", 1_073_741_824.0),
        ("disk_bytes", 10_737_418_240.0),
    ] {
        let sum = value(reconciler, &of_namespace(name)).await;
        assert!((sum - is).abs() < 0.5, "{name} is {sum}");
    }
    runs.ends().await.unwrap();
    eventually("no series for a namespace without VMs", SOON, || async {
        Ok((!reconciler.scrape().await?.contains(&of_namespace("vms"))).then_some(()))
    })
    .await
    .unwrap();
    waiting.ends().await.unwrap();
}
