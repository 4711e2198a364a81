//! Whom the chart's network policies let in and out.

use kube::ResourceExt;
use maroonedpods_common::names;
use maroonedpods_e2e::install::SYSTEM_NAMESPACE;
use serde_json::{Value, json};

use crate::objects::rendered;

/// The spec of a policy in `namespace`, with these `networkPolicies` among the values.
async fn policy(name: &str, namespace: &str, network_policies: Value) -> Value {
    let values = json!({"networkPolicies": network_policies});
    let policy = rendered(&values, "NetworkPolicy", name).await;
    assert_eq!(policy.namespace().as_deref(), Some(namespace));
    let spec = policy.data["spec"].clone();
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    spec
}

fn of_namespace(name: &str) -> Value {
    json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}})
}

fn from_monitoring() -> Value {
    json!({"ports": [{"port": "metrics"}], "from": [of_namespace("monitoring")]})
}

#[tokio::test]
async fn the_webhook_is_open_to_known_callers_alone() {
    let callers = async |values: Value| {
        let policy = rendered(&values, "NetworkPolicy", "maroonedpods-webhook").await;
        policy.data["spec"]["ingress"][0].clone()
    };
    assert_eq!(callers(json!({})).await["from"], Value::Null);
    let known = json!({"apiServer": {"cidrs": ["10.0.0.1/32"]}});
    let builtin = callers(json!({"networkPolicies": known})).await;
    assert_eq!(builtin["ports"], json!([{"port": "https"}]));
    assert_eq!(builtin["from"][0], json!({"ipBlock": {"cidr": "10.0.0.1/32"}}));
    let labels = &builtin["from"][1]["podSelector"]["matchLabels"];
    assert_eq!(labels["app.kubernetes.io/component"], "reconciler");
    let foreign = callers(json!({"networkPolicies": known, "certs": {"mode": "cert-manager"}})).await;
    assert_eq!(foreign["from"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_webhook_is_asked_for_metrics_and_asks_for_nothing() {
    let spec = policy("maroonedpods-webhook", SYSTEM_NAMESPACE, json!({})).await;
    assert_eq!(
        spec["ingress"],
        json!([{"ports": [{"port": "https"}]}, from_monitoring()])
    );
    assert_eq!(spec["egress"], json!([]));
}

#[tokio::test]
async fn the_reconciler_and_hooks_reach_the_api_server_and_the_webhook() {
    let known = json!({"apiServer": {"cidrs": ["10.0.0.1/32"]}});
    let spec = policy("maroonedpods-reconciler", SYSTEM_NAMESPACE, known).await;
    let programs =
        json!({"key": "app.kubernetes.io/component", "operator": "In", "values": ["reconciler", "hook"]});
    assert_eq!(spec["podSelector"]["matchExpressions"], json!([programs]));
    assert_eq!(spec["ingress"], json!([from_monitoring()]));
    let [api_server, webhook] = spec["egress"].as_array().unwrap().as_slice() else {
        panic!("{spec}");
    };
    let address = json!({"ipBlock": {"cidr": "10.0.0.1/32"}});
    assert_eq!(
        *api_server,
        json!({"ports": [{"port": 443}, {"port": 6443}], "to": [address]})
    );
    assert_eq!(webhook["ports"], json!([{"port": 8443}]));
    let labels = &webhook["to"][0]["podSelector"]["matchLabels"];
    assert_eq!(labels["app.kubernetes.io/component"], "webhook");
    let none = policy(
        "maroonedpods-reconciler",
        SYSTEM_NAMESPACE,
        json!({"monitoring": []}),
    )
    .await;
    assert_eq!(none["ingress"], json!([]));
}

#[tokio::test]
async fn guests_reach_what_is_allowed() {
    let guests = async |network_policies: Value| {
        let spec = policy("maroonedpods-guests", names::VM_NAMESPACE, network_policies).await;
        assert_eq!(spec["podSelector"], json!({}));
        let all_but_the_kubelets = json!([
            {"port": 1, "endPort": names::KUBELET_PORT - 1},
            {"port": names::KUBELET_PORT + 1, "endPort": 65535},
            {"port": 1, "endPort": 65535, "protocol": "UDP"},
            {"port": 1, "endPort": 65535, "protocol": "SCTP"},
        ]);
        assert_eq!(spec["ingress"][0], json!({"ports": all_but_the_kubelets}));
        assert_eq!(
            spec["ingress"][1]["ports"],
            json!([{"port": names::KUBELET_PORT}])
        );
        spec
    };
    let names_at = |port: u16| json!([{"port": port, "protocol": "UDP"}, {"port": port, "protocol": "TCP"}]);

    let default = guests(json!({})).await;
    let mut name_server = of_namespace("kube-system");
    name_server["podSelector"] = json!({"matchLabels": {"k8s-app": "kube-dns"}});
    assert_eq!(
        default["egress"],
        json!([
            {"ports": [{"port": 443}, {"port": 6443}]},
            {"ports": names_at(53), "to": [name_server]},
        ])
    );
    assert_eq!(default["ingress"][1]["from"], Value::Null);

    let registry = json!({"ports": [{"port": 5000}]});
    let known = guests(json!({
        "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [8443]},
        "dns": {"to": [], "port": 5353},
        "guests": {"egress": [registry]},
    }))
    .await;
    let api_server = json!({"ipBlock": {"cidr": "10.0.0.1/32"}});
    assert_eq!(
        known["egress"],
        json!([{"ports": [{"port": 8443}], "to": [api_server]}, {"ports": names_at(5353)}, registry])
    );
    assert_eq!(
        known["ingress"][1]["from"],
        json!([api_server, of_namespace("monitoring")])
    );
    let open = guests(json!({"guests": {"openEgress": true}})).await;
    assert_eq!(open["egress"], json!([{}]));
}
