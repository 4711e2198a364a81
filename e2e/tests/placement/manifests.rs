//! Manifests as people write them, in the folder of this name: each says what becomes of its pods once they opt in, and
//! nothing else is changed.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::apply::{api_of, kind, parse};
use maroonedpods_e2e::api::check::{eventually, gone, rejects};
use maroonedpods_e2e::api::read::{self, phase, runs};
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::tenant::{HOSTS, Tenant};
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::install::config;
use maroonedpods_image_build::node_image;
use serde_json::{Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/placement/manifests");
/// Annotation of a manifest, by which it says what becomes of its pods.
const EXPECTED: &str = "expected";
/// Annotation that the test gives to pods: which manifest they are of.
const MANIFEST: &str = "manifest";
const WORKLOADS: [&str; 4] = ["Deployment", "Job", "Pod", "StatefulSet"];
const WITHOUT_NAMESPACE: [&str; 4] = [
    "PersistentVolume",
    "PriorityClass",
    "RuntimeClass",
    "StorageClass",
];
/// The fewest manifests of either end, for the folder not to be read as empty.
const FEWEST: usize = 30;

struct Manifest {
    object: DynamicObject,
    expected: Expected,
}

/// What becomes of a manifest's pods, and how that is written.
enum Expected {
    /// `an ordinary pod`: it is not opted in, and there for others.
    Ordinary,
    /// `runs`, `runs on zone-a or zone-b`: each in one of these zones, or anywhere if there are none.
    Runs(BTreeSet<String>),
    /// `runs on zone-a and zone-b`: each of these zones has one of them.
    RunsInEach(BTreeSet<String>),
    /// `waits, TEXT`: without a VM, and they say this.
    Waits(String),
    /// `waits for room`: their VMs wait for a host.
    WaitsForRoom,
    /// `refused, TEXT`: by the API server, which says this.
    Refused(String),
}

impl Expected {
    fn parse(text: &str) -> Result<Self> {
        let zones = |text: &str, between| text.split(between).map(str::to_owned).collect();
        Ok(match text.split_once(", ") {
            Some(("waits", says)) => Self::Waits(says.to_owned()),
            Some(("refused", says)) => Self::Refused(says.to_owned()),
            _ if text == "an ordinary pod" => Self::Ordinary,
            _ if text == "runs" => Self::Runs(BTreeSet::new()),
            _ if text == "waits for room" => Self::WaitsForRoom,
            _ => match text.strip_prefix("runs on ") {
                Some(all) if all.contains(" and ") => Self::RunsInEach(zones(all, " and ")),
                Some(any) => Self::Runs(zones(any, " or ")),
                None => bail!("{EXPECTED}: {text}"),
            },
        })
    }

    fn runs(&self) -> bool {
        matches!(self, Self::Ordinary | Self::Runs(_) | Self::RunsInEach(_))
    }
}

impl Manifest {
    fn name(&self) -> String {
        format!("{}/{}", kind(&self.object), self.object.name_any())
    }

    /// Opts its pods in, and marks them.
    fn opt_in(&mut self) {
        let mut change = json!({"annotations": {MANIFEST: self.name()}});
        if !matches!(self.expected, Expected::Ordinary) {
            change["labels"] = json!({names::MAROON_LABEL: "true"});
        }
        if kind(&self.object) == "Pod" {
            let metadata = &mut self.object.metadata;
            let mut changed = serde_json::to_value(&*metadata).unwrap();
            json_patch::merge(&mut changed, &change);
            *metadata = serde_json::from_value(changed).unwrap();
        } else {
            json_patch::merge(&mut self.object.data["spec"]["template"]["metadata"], &change);
        }
    }

    /// How many pods it asks for.
    fn replicas(&self) -> usize {
        let spec = &self.object.data["spec"];
        let asked = spec["replicas"].as_u64().or(spec["parallelism"].as_u64());
        asked.unwrap_or(1).try_into().unwrap()
    }

    fn pods<'a>(&self, pods: &'a [Pod]) -> Vec<&'a Pod> {
        let name = self.name();
        let own = |pod: &&Pod| pod.annotations().get(MANIFEST) == Some(&name);
        pods.iter().filter(own).collect()
    }

    /// That its pods have come to the end that is expected. Of those that wait, a StatefulSet makes only the first.
    fn has_ended(&self, pods: &[Pod]) -> Result<()> {
        let pods = self.pods(pods);
        let waits = |pod: &Pod, reason: &str, says: &str| {
            let (why, message) = read::report(pod);
            why == reason && message.contains(says)
        };
        let ended = |pod: &&&Pod| match &self.expected {
            Expected::Ordinary | Expected::Runs(_) | Expected::RunsInEach(_) => {
                runs(pod) || phase(pod) == "Succeeded"
            }
            Expected::Waits(says) => waits(pod, "Unplaceable", says),
            Expected::WaitsForRoom => waits(pod, "VMBlocked", "Unschedulable"),
            Expected::Refused(_) => false,
        };
        let wanted = match self.expected {
            Expected::Refused(_) => 0,
            _ if self.expected.runs() => self.replicas(),
            _ => pods.len().max(1),
        };
        let found = pods.iter().filter(ended).count();
        let state = |pod: &&Pod| format!("{} {:?}", phase(pod), read::report(pod));
        ensure!(
            found == wanted && pods.len() == wanted,
            "{}: {found} of {wanted} as expected; {}",
            self.name(),
            pods.iter().map(state).collect::<Vec<_>>().join("; ")
        );
        Ok(())
    }

    /// That those of its pods that run do so on Nodes of their own, and their VMs where it is expected.
    async fn is_in_place(&self, tenant: &Tenant<'_>, pods: &[Pod]) -> Result<()> {
        let (allowed, each) = match &self.expected {
            Expected::Runs(zones) => (zones, false),
            Expected::RunsInEach(zones) => (zones, true),
            _ => return Ok(()),
        };
        let mut found = BTreeSet::new();
        for pod in self.pods(pods) {
            let own = names::node_name(&pod.uid().unwrap_or_default().into());
            ensure!(
                read::node(pod) == own,
                "{} is on {}",
                pod.name_any(),
                read::node(pod)
            );
            let host = tenant.host_of(pod).await?;
            let zone = HOSTS.iter().find(|(name, _)| *name == host);
            found.extend(zone.map(|(_, zone)| (*zone).to_owned()));
        }
        let as_asked = allowed.is_empty() || found.is_subset(allowed);
        ensure!(
            as_asked && (!each || found == *allowed),
            "{} is on {found:?}",
            self.name()
        );
        Ok(())
    }
}

/// The manifests, and the objects that they refer to.
fn read_folder() -> (Vec<Manifest>, Vec<DynamicObject>) {
    let (mut manifests, mut others) = (Vec::new(), Vec::new());
    for file in fs::read_dir(FOLDER).unwrap() {
        for object in parse(&fs::read_to_string(file.unwrap().path()).unwrap()).unwrap() {
            if WORKLOADS.contains(&kind(&object)) {
                let expected = Expected::parse(&object.annotations()[EXPECTED]).unwrap();
                manifests.push(Manifest { object, expected });
            } else {
                others.push(object);
            }
        }
    }
    let running = manifests
        .iter()
        .filter(|manifest| manifest.expected.runs())
        .count();
    assert!(
        running > FEWEST && manifests.len() - running > FEWEST,
        "{running} run"
    );
    (manifests, others)
}

pub async fn each_manifest_ends_as_it_says(env: &TestEnv) {
    let tenant = Tenant::new(env, None).await.unwrap();
    let (mut manifests, mut others) = read_folder();
    let objects = manifests.iter_mut().map(|manifest| &mut manifest.object);
    for object in objects.chain(&mut others) {
        if !WITHOUT_NAMESPACE.contains(&kind(object)) {
            object.metadata.namespace = Some(tenant.namespace().to_owned());
        }
    }
    // As an administrator whose node image has another runtime. A finished pod keeps its VM until it is looked at.
    configures(
        &tenant,
        &["runtime-class/crun", "runtime-class/crun-elsewhere"],
        "10m",
    )
    .await;
    taints(
        &tenant,
        &json!([{"key": "team", "value": "data", "effect": "NoSchedule"}]),
    )
    .await;
    for object in &others {
        creates(&tenant, object).await;
    }
    for manifest in &mut manifests {
        manifest.opt_in();
        match &manifest.expected {
            Expected::Refused(says) => refuses(&tenant, &manifest.object, says).await,
            _ => creates(&tenant, &manifest.object).await,
        }
    }
    let pods = all_end(&tenant, &manifests).await;
    for manifest in &manifests {
        manifest.is_in_place(&tenant, &pods).await.unwrap();
    }
    let waiting: BTreeSet<_> = manifests
        .iter()
        .filter(|manifest| matches!(manifest.expected, Expected::Waits(_)))
        .flat_map(|manifest| manifest.pods(&pods))
        .map(ResourceExt::name_any)
        .collect();
    for record in tenant.records().await.unwrap() {
        let owner = record.spec.pod_ref.name;
        assert!(!waiting.contains(&owner), "a record was made for {owner}");
    }
    removes(tenant, &manifests, &others).await;
}

/// Waits until the pods of all manifests have ended as is expected, and gives them.
async fn all_end(tenant: &Tenant<'_>, manifests: &[Manifest]) -> Vec<Pod> {
    eventually("each manifest to end as it says", SOON, || async {
        let pods = tenant.pods.list(&ListParams::default()).await?.items;
        let others = manifests
            .iter()
            .filter_map(|manifest| manifest.has_ended(&pods).err());
        let others: Vec<_> = others.map(|error| error.to_string()).collect();
        ensure!(others.is_empty(), "{}", others.join("\n"));
        Ok(Some(pods))
    })
    .await
    .unwrap()
}

/// Creates an object, once the API server knows of the classes that it names.
async fn creates(tenant: &Tenant<'_>, object: &DynamicObject) {
    let api = api_of(&tenant.admin, object).await.unwrap();
    eventually(&format!("{} to be accepted", object.name_any()), SOON, || async {
        Ok(Some(api.create(&PostParams::default(), object).await?))
    })
    .await
    .unwrap();
}

async fn refuses(tenant: &Tenant<'_>, object: &DynamicObject, says: &str) {
    let api = api_of(&tenant.admin, object).await.unwrap();
    let message = rejects(&api, object).await.unwrap();
    assert!(message.contains(says), "{}: {message}", object.name_any());
}

/// Gives guests these capabilities more than the node image has, and finished pods so long.
async fn configures(tenant: &Tenant<'_>, more: &[&str], finished: &str) {
    let offered: Vec<_> = node_image::CAPABILITIES.iter().chain(more).collect();
    let change = json!({"guestCapabilities": offered, "deadlines": {"finishedPodTTL": finished}});
    let changed = config::change(&tenant.admin, &change).await.unwrap();
    config::seen(&tenant.admin, &changed).await.unwrap();
}

/// Gives the one host with a fast disk these taints.
async fn taints(tenant: &Tenant<'_>, taints: &Value) {
    let nodes: Api<Node> = Api::all(tenant.admin.clone());
    let change = Patch::Merge(json!({"spec": {"taints": taints}}));
    nodes
        .patch("host-3", &PatchParams::default(), &change)
        .await
        .unwrap();
}

async fn removes(tenant: Tenant<'_>, manifests: &[Manifest], others: &[DynamicObject]) {
    for Manifest { object, expected } in manifests {
        if !matches!(expected, Expected::Refused(_)) {
            let api = api_of(&tenant.admin, object).await.unwrap();
            api.delete(&object.name_any(), &DeleteParams::background())
                .await
                .unwrap();
        }
    }
    tenant.sees(0, "left", |_| true).await.unwrap();
    configures(&tenant, &[], "1s").await;
    taints(&tenant, &json!([])).await;
    let admin = tenant.admin.clone();
    tenant.leaves().await.unwrap();
    for object in others {
        if WITHOUT_NAMESPACE.contains(&kind(object)) {
            let api = api_of(&admin, object).await.unwrap();
            api.delete(&object.name_any(), &DeleteParams::default())
                .await
                .unwrap();
            gone(&api, &object.name_any(), SOON).await.unwrap();
        }
    }
}
