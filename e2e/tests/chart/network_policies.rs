//! The rules of the NetworkPolicies, whole: a rule too many opens a way in or out, and one too few cuts a program off.

use kube::ResourceExt;
use maroonedpods_e2e::install::render;
use serde_json::{Value, json};

use maroonedpods_e2e::api::apply::kind;

const RULES: &str = include_str!("network-policies.golden.yaml");

/// Each way in which the rules differ, and the values for it.
fn cases() -> [(&'static str, Value); 4] {
    [
        ("defaults", json!({})),
        (
            "addresses of the API server",
            json!({"networkPolicies": {
                "apiServer": {"cidrs": ["10.0.0.1/32", "fd00::1/128"], "ports": [6443]},
                "dns": {"to": [], "port": 5353},
                "monitoring": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
                "guests": {"egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443}]}]},
            }}),
        ),
        (
            "open guests, certificates of cert-manager",
            json!({
                "networkPolicies": {"guests": {"openEgress": true}, "monitoring": []},
                "certs": {"mode": "cert-manager"},
            }),
        ),
        ("none", json!({"networkPolicies": {"enabled": false}})),
    ]
}

#[tokio::test]
async fn their_rules_are_the_golden_ones() {
    let mut found = serde_json::Map::new();
    for (case, values) in cases() {
        let mut rules = serde_json::Map::new();
        for object in render(&values).await.unwrap() {
            if kind(&object) == "NetworkPolicy" {
                let name = format!("{}/{}", object.namespace().unwrap(), object.name_any());
                rules.insert(name, object.data["spec"].clone());
            }
        }
        found.insert(case.to_owned(), rules.into());
    }
    let golden: Value = serde_yaml_ng::from_str(RULES).unwrap();
    let found = Value::from(found);
    assert_eq!(
        found,
        golden,
        "rendered:\n{}",
        serde_yaml_ng::to_string(&found).unwrap()
    );
}
