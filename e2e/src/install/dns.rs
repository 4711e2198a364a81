//! The cluster's DNS Service, which nearly every cluster has.

use anyhow::Result;
use kube::Client;
use maroonedpods_common::names;
use serde_json::json;

use crate::api::apply::apply_yaml;

/// Its address.
pub const DNS_ADDRESS: &str = "10.96.0.10";

/// Makes the Service as kubeadm does. A test that resolves names makes the pods behind it.
pub async fn make_service(admin: &Client) -> Result<()> {
    let (namespace, name) = names::CLUSTER_DNS;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "clusterIP": DNS_ADDRESS,
            "selector": {"k8s-app": "kube-dns"},
            "ports": [
                {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "targetPort": 5353, "protocol": "TCP"},
            ],
        },
    });
    apply_yaml(admin, &service.to_string()).await
}
