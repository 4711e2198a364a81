//! Which values the chart takes.

use futures::{StreamExt, TryStreamExt, stream};
use maroonedpods_e2e::install::{chart, render};
use serde_json::{Map, Value, json};

/// helm starts at a time.
const AT_ONCE: usize = 4;
/// Paths whose keys are the user's own.
const FREE: [&str; 8] = [
    "/config",
    "/webhook/nodeSelector",
    "/webhook/podAnnotations",
    "/reconciler/nodeSelector",
    "/reconciler/podAnnotations",
    "/monitoring/serviceMonitor/labels",
    "/monitoring/prometheusRule/labels",
    "/monitoring/dashboard/labels",
];

fn read(file: &str) -> String {
    std::fs::read_to_string(chart().join(file)).unwrap()
}

fn defaults() -> Value {
    serde_yaml_ng::from_str(&read("values.yaml")).unwrap()
}

/// Paths of the objects in `value`, itself among them, where the chart says what the keys are.
fn closed(path: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) if !FREE.contains(&path) => {
            let below = fields
                .iter()
                .flat_map(|(key, field)| closed(&format!("{path}/{key}"), field));
            std::iter::once(path.to_owned()).chain(below).collect()
        }
        _ => Vec::new(),
    }
}

/// Values that say nothing but `value` at `path`.
fn at(path: &str, value: Value) -> Value {
    let keys = path.split('/').filter(|key| !key.is_empty());
    keys.rev().fold(value, |inner, key| {
        Value::Object(Map::from_iter([(key.to_owned(), inner)]))
    })
}

async fn refusal(values: &Value) -> String {
    let refused = render(values).await.map(|_| format!("taken: {values}"));
    refused.unwrap_err().to_string()
}

#[tokio::test]
async fn a_typo_is_refused_at_each_level() {
    let mut cases: Vec<_> = closed("", &defaults())
        .into_iter()
        .map(|path| (at(&path, json!({"typo": 1})), path))
        .collect();
    assert!(cases.len() > 20, "{cases:?}");
    // Levels that the defaults leave out.
    for (path, value, level) in [
        ("/imagePullSecrets", json!([{"name": "x", "typo": 1}]), "/0"),
        ("/webhook/tolerations", json!([{"key": "x", "typo": 1}]), "/0"),
        ("/webhook/affinity", json!({"typo": {}}), ""),
        ("/certs/certManager/issuerRef", json!({"typo": "x"}), ""),
        ("/networkPolicies/monitoring", json!([{"typo": {}}]), "/0"),
        ("/networkPolicies/guests/egress", json!([{"typo": []}]), "/0"),
        (
            "/networkPolicies/guests/egress",
            json!([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "typo": 1}}]}]),
            "/0/to/0/ipBlock",
        ),
    ] {
        cases.push((at(path, value), format!("{path}{level}")));
    }
    let refused: Vec<_> = stream::iter(&cases)
        .map(|(values, path)| async move { (path, refusal(values).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for (path, message) in refused {
        let place = format!("at '{path}': additional properties 'typo' not allowed");
        assert!(message.contains(&place), "{path}: {message}");
    }
}

#[tokio::test]
async fn values_that_could_not_work_are_refused() {
    for (path, value, word) in [
        ("/webhook/replicas", json!(0), "minimum"),
        (
            "/webhook/image/digest",
            json!("sha256:0"),
            "does not match pattern",
        ),
        (
            "/webhook/external/url",
            json!("http://10.0.0.1"),
            "does not match pattern",
        ),
        (
            "/webhook/external",
            json!({"url": "https://10.0.0.1:8443"}),
            "minLength",
        ),
        ("/webhook/external", json!({"caBundle": "x"}), "maxLength"),
        (
            "/image/registry",
            json!("registry.example/"),
            "does not match pattern",
        ),
        ("/image/pullPolicy", json!("Sometimes"), "must be one of"),
        ("/certs/mode", json!("vault"), "must be one of"),
        ("/certs/lifetime", json!("90d"), "does not match pattern"),
        ("/guards/mode", json!("Off"), "must be one of"),
        (
            "/networkPolicies/apiServer/cidrs",
            json!(["10.0.0.1"]),
            "does not match pattern",
        ),
        ("/networkPolicies/apiServer/ports", json!([]), "minItems"),
        ("/networkPolicies/monitoring", json!([{}]), "minProperties"),
        ("/priorityClass/name", json!(""), "minLength"),
        ("/priorityClass/value", json!(2_000_000_000), "maximum"),
        ("/uninstall/force", json!("yes"), "want boolean"),
        ("/config", json!("default"), "want object"),
    ] {
        let message = refusal(&at(path, value)).await;
        assert!(message.contains(word), "{path}: {message}");
    }
}

/// In both files: people read values.yaml, programs the schema.
#[test]
fn every_value_is_described() {
    let text = read("values.yaml");
    let lines: Vec<_> = text.lines().collect();
    for pair in lines.windows(2) {
        let entry = pair[1].trim_start();
        // Deeper down are samples of Kubernetes' own types.
        let is_value =
            pair[1].len() - entry.len() <= 4 && entry.contains(": ") && !entry.starts_with(['#', '-']);
        assert!(
            !is_value || pair[0].trim_start().starts_with('#'),
            "values.yaml says nothing about: {entry}"
        );
    }

    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut undescribed = Vec::new();
    properties("", &schema, &mut |path, property| {
        if property["description"].as_str().is_none_or(str::is_empty) {
            undescribed.push(path.to_owned());
        }
    });
    assert!(undescribed.is_empty(), "{undescribed:?}");
    let mut known = Vec::new();
    properties("", &schema, &mut |path, _| known.push(path.to_owned()));
    // Inside `resources` the words are Kubernetes' own.
    let ours = |path: &&String| !path.is_empty() && !path.contains("/resources/");
    for path in closed("", &defaults()).iter().filter(ours) {
        assert!(known.contains(path), "{path} is a value without a schema");
    }
}

/// Visits each property that a path through objects leads to.
fn properties(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        visit(&path, property);
        // What the pods' own API describes needs no words of ours.
        if !path.ends_with("/affinity") {
            properties(&path, property, visit);
        }
    }
}

#[tokio::test]
async fn every_choice_renders() {
    let rendered: Vec<_> = stream::iter(super::objects::choices())
        .map(|values| async move { render(&values).await })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
        .unwrap();
    assert!(rendered.iter().all(|objects| !objects.is_empty()));
}
