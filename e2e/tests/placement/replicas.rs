//! The pods of a Deployment: apart, together, and when a zone is out of order.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::accepts;
use maroonedpods_e2e::api::read::{self, runs};
use maroonedpods_e2e::harness::fixtures::{marooned_with, spec};
use maroonedpods_e2e::harness::tenant::{Tenant, ZONE};
use serde_json::{Value, json};

use super::{HOSTNAME, near, required, spread, term};

fn deployment(name: &str, replicas: u32, more: &Value) -> Value {
    let mut template =
        json!({"metadata": {"labels": {"app": name, names::MAROON_LABEL: "true"}}, "spec": spec()});
    json_patch::merge(&mut template["spec"], more);
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}})
}

/// How many running pods of this name each host has.
async fn by_host(tenant: &Tenant<'_>, name: &str, count: usize) -> BTreeMap<String, usize> {
    let of = |pod: &Pod| pod.labels().get("app").map(String::as_str) == Some(name) && runs(pod);
    let mut hosts = BTreeMap::new();
    for pod in tenant
        .sees(count, &format!("running, of {name}"), of)
        .await
        .unwrap()
    {
        *hosts.entry(tenant.host_of(&pod).await.unwrap()).or_default() += 1;
    }
    hosts
}

async fn removed(tenant: &Tenant<'_>, name: &str) {
    let deployments: Api<Deployment> = tenant.api();
    deployments
        .delete(name, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    tenant
        .sees(0, "left", |pod| {
            pod.labels().get("app").map(String::as_str) == Some(name)
        })
        .await
        .unwrap();
}

pub async fn replicas_are_apart_as_they_ask(tenant: &Tenant<'_>) {
    let in_b = required(&json!([term(ZONE, "In", &["zone-b"])]));
    for (name, replicas, spec, expected) in [
        ("apart", 3, near("podAntiAffinity", "apart", ZONE), vec![1, 1, 1]),
        ("even", 4, spread(ZONE, "even"), vec![1, 1, 2]),
        ("there", 4, in_b, vec![4]),
        ("together", 3, near("podAffinity", "together", HOSTNAME), vec![3]),
    ] {
        tenant
            .applies::<Deployment>(deployment(name, replicas, &spec))
            .await
            .unwrap();
        let hosts = by_host(tenant, name, replicas as usize).await;
        let mut counts: Vec<_> = hosts.values().copied().collect();
        counts.sort_unstable();
        assert_eq!(counts, expected, "{name}: {hosts:?}");
        assert!(name != "there" || hosts.contains_key("host-2"), "{hosts:?}");
        removed(tenant, name).await;
    }
}

pub async fn replicas_are_apart_by_default(tenant: &Tenant<'_>) {
    tenant
        .applies::<Deployment>(deployment("plain", 3, &json!({})))
        .await
        .unwrap();
    let hosts = by_host(tenant, "plain", 3).await;
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    removed(tenant, "plain").await;
}

pub async fn a_zone_that_is_out_of_order_is_said_and_others_go_on(tenant: &Tenant<'_>) {
    let nodes: Api<Node> = Api::all(tenant.admin.clone());
    nodes.cordon("host-3").await.unwrap();
    tenant
        .applies::<Deployment>(deployment("outage", 3, &near("podAntiAffinity", "outage", ZONE)))
        .await
        .unwrap();
    let of = |pod: &Pod| pod.labels().get("app").map(String::as_str) == Some("outage");
    tenant
        .sees(2, "running", |pod| of(pod) && runs(pod))
        .await
        .unwrap();
    let waits = tenant
        .sees(1, "waiting with a reason", |pod| {
            of(pod) && read::reason(pod) == "VMBlocked"
        })
        .await
        .unwrap();
    let message = read::report(&waits[0]).1;
    assert!(message.contains("Unschedulable"), "{message}");
    accepts(&tenant.pods, &marooned_with("elsewhere", &json!({})))
        .await
        .unwrap();
    let elsewhere = tenant.sees_running("elsewhere").await.unwrap();
    assert_ne!(tenant.host_of(&elsewhere).await.unwrap(), "host-3");
    nodes.uncordon("host-3").await.unwrap();
    assert_eq!(by_host(tenant, "outage", 3).await.len(), 3);
    removed(tenant, "outage").await;
    tenant.deletes("elsewhere").await.unwrap();
}
