//! Node affinities are held to the real scheduler: a marooned pod runs if and only if an ordinary pod that asks for the same
//! does, on hosts that have the labels of marooned Nodes too.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::{self, runs};
use maroonedpods_e2e::harness::fixtures::{marooned_with, spec, with_spec};
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::tenant::{HOSTS, Tenant, ZONE};
use serde_json::{Value, json};

use super::{required, term};

/// What a term may require. No host has the last two.
fn requirements() -> [Value; 9] {
    [
        term(ZONE, "In", &["zone-a", "zone-b"]),
        term(ZONE, "NotIn", &["zone-a"]),
        term(ZONE, "In", &["zone-x"]),
        term("disk", "In", &["fast"]),
        term("disk", "DoesNotExist", &[]),
        term("pool", "In", &["vms"]),
        term("pool", "NotIn", &["vms"]),
        term("rack", "Exists", &[]),
        term("kubernetes.io/arch", "In", &["arm64"]),
    ]
}

/// Each pair of requirements: as two terms, of which one is enough, and as one term.
fn affinities() -> Vec<Value> {
    let all = requirements();
    let mut affinities = Vec::new();
    for (at, one) in all.iter().enumerate() {
        for other in &all[at + 1..] {
            affinities.push(json!([one, other]));
            let both = [one, other].map(|term| term["matchExpressions"][0].clone());
            affinities.push(json!([{"matchExpressions": both}]));
        }
    }
    affinities
}

/// What became of a pod, once something did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Runs,
    Waits,
}

fn fate(pod: &Pod) -> Option<Fate> {
    let waits = ["Unplaceable", "VMBlocked"].contains(&read::reason(pod).as_str())
        || read::condition(pod, "PodScheduled").is_some_and(|(_, reason)| reason == "Unschedulable");
    match (runs(pod), waits) {
        (true, _) => Some(Fate::Runs),
        (_, true) => Some(Fate::Waits),
        _ => None,
    }
}

async fn fate_of(tenant: &Tenant<'_>, name: &str) -> (Fate, Pod) {
    eventually(&format!("the fate of {name}"), SOON, || async {
        let pod = tenant.pods.get(name).await?;
        Ok(fate(&pod).map(|fate| (fate, pod)))
    })
    .await
    .unwrap()
}

pub async fn a_pod_runs_where_its_ordinary_twin_would(tenant: &Tenant<'_>) {
    for (host, _) in HOSTS {
        tenant.labels_host(host, &json!({"pool": "vms"})).await.unwrap();
    }
    let affinities = affinities();
    for (at, terms) in affinities.iter().enumerate() {
        let mut ordinary = spec();
        json_patch::merge(&mut ordinary, &required(terms));
        tenant
            .creates(&with_spec(&format!("twin-{at}"), ordinary))
            .await
            .unwrap();
        tenant
            .creates(&marooned_with(&format!("marooned-{at}"), &required(terms)))
            .await
            .unwrap();
    }
    let mut ran = 0;
    for (at, terms) in affinities.iter().enumerate() {
        let (expected, _) = fate_of(tenant, &format!("twin-{at}")).await;
        let (found, pod) = fate_of(tenant, &format!("marooned-{at}")).await;
        assert_eq!(found, expected, "{terms}: {}", read::report(&pod).1);
        if found == Fate::Runs {
            ran += 1;
            let host = tenant.host_of(&pod).await.unwrap();
            let own = names::node_name(&pod.uid().unwrap().into());
            assert_eq!(read::node(&pod), own, "its VM is on {host}");
        }
    }
    assert!(
        (10..affinities.len() - 10).contains(&ran),
        "{ran} of {} ran",
        affinities.len()
    );
    for at in 0..affinities.len() {
        for name in [format!("twin-{at}"), format!("marooned-{at}")] {
            tenant
                .pods
                .delete(&name, &kube::api::DeleteParams::default())
                .await
                .unwrap();
        }
    }
    tenant.sees(0, "left", |_| true).await.unwrap();
}
