//! What pods ask for is held to the real scheduler: a marooned pod runs if and only if an ordinary pod that asks for the same
//! does. Here their node affinities, on hosts that have the labels of marooned Nodes too.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::{self, runs};
use maroonedpods_e2e::harness::fixtures::{labelled, spec, with_spec};
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

/// A pod by its name, more labels, and what is merged into its spec.
pub struct Wish {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub spec: Value,
}

impl Wish {
    /// The ordinary pod.
    pub fn twin(&self) -> Pod {
        let mut merged = spec();
        json_patch::merge(&mut merged, &self.spec);
        let mut pod = with_spec(&self.name, merged);
        pod.metadata.labels = Some(self.labels.clone());
        pod
    }

    /// Creates the marooned pod in the namespace of `tenant`, and its ordinary twin in that of `twins`.
    pub async fn created(&self, tenant: &Tenant<'_>, twins: &Tenant<'_>) {
        let twin = self.twin();
        twins.creates(&twin).await.unwrap();
        tenant.creates(&labelled(twin, names::MAROON_TRUE)).await.unwrap();
    }
}

/// Creates all of `wishes` and their twins, which must end alike, and deletes them. Gives the number that ran.
pub async fn end_alike(tenant: &Tenant<'_>, twins: &Tenant<'_>, wishes: &[Wish]) -> usize {
    for wish in wishes {
        wish.created(tenant, twins).await;
    }
    let mut ran = 0;
    for Wish { name, spec, .. } in wishes {
        let (expected, _) = fate_of(twins, name).await;
        let (found, pod) = fate_of(tenant, name).await;
        assert_eq!(found, expected, "{name}, {spec}: {}", read::report(&pod).1);
        if found == Fate::Runs {
            ran += 1;
            let host = tenant.host_of(&pod).await.unwrap();
            let own = names::node_name(&pod.uid().unwrap().into());
            assert_eq!(read::node(&pod), own, "its VM is on {host}");
        }
    }
    for Wish { name, .. } in wishes {
        for tenant in [tenant, twins] {
            tenant.pods.delete(name, &DeleteParams::default()).await.unwrap();
        }
    }
    for tenant in [tenant, twins] {
        let of_wish = |pod: &Pod| wishes.iter().any(|wish| wish.name == pod.name_any());
        tenant.sees(0, "left", of_wish).await.unwrap();
    }
    ran
}

pub async fn a_pod_runs_where_its_ordinary_twin_would(tenant: &Tenant<'_>) {
    for (host, _) in HOSTS {
        tenant.labels_host(host, &json!({"pool": "vms"})).await.unwrap();
    }
    let twins = Tenant::new(tenant.env, None).await.unwrap();
    let wish = |(at, terms): (usize, &Value)| Wish {
        name: format!("affinity-{at}"),
        labels: BTreeMap::new(),
        spec: required(terms),
    };
    let wishes: Vec<_> = affinities().iter().enumerate().map(wish).collect();
    let ran = end_alike(tenant, &twins, &wishes).await;
    assert!(
        (10..wishes.len() - 10).contains(&ran),
        "{ran} of {} ran",
        wishes.len()
    );
    twins.leaves().await.unwrap();
}
