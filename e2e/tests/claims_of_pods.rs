//! Pods with volume claims: those whose volumes a VM's guest and host allow run, and the others wait without a VM. Control
//! plane, scheduler and the controllers that make and bind claims are real.

#![allow(clippy::unwrap_used)]

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Resource, ResourceExt};
use maroonedpods_e2e::api::check::{accepts, becomes};
use maroonedpods_e2e::api::read;
use maroonedpods_e2e::harness::fixtures::marooned_with;
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::tenant::{Tenant, ZONE};
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::system::logs::logs;
use serde_json::{Value, json};

const DRIVER: &str = "disk.example.test";

#[tokio::test(flavor = "multi_thread")]
async fn pods_with_claims_get_a_vm_only_where_their_volumes_can_be_used() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    tenant.has_a_zone_for_each_host().await.unwrap();
    let changed =
        json!({"deadlines": {"boot": "10m", "join": "10m"}, "guestCapabilities": ["storage-class/static"]});
    let changed = config::change(&tenant.admin, &changed).await.unwrap();
    config::seen(&tenant.admin, &changed).await.unwrap();
    for (name, provisioner, mode) in [
        ("at-once", DRIVER, "Immediate"),
        ("late", DRIVER, "WaitForFirstConsumer"),
        ("static", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
        ("disks", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
    ] {
        let class =
            json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
        creates::<StorageClass>(&tenant, class).await;
    }
    usable_volumes_are_used(&tenant).await;
    Box::pin(others_wait_without_a_vm(&tenant)).await;
    tenant.leaves().await.unwrap();
    env.stop().await.unwrap();
}

/// Creates an object without a namespace.
async fn creates<K>(tenant: &Tenant<'_>, object: Value)
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::all(tenant.admin.clone());
    accepts(&api, &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
}

/// A claim of this name.
async fn claims(tenant: &Tenant<'_>, name: &str, class: &str) {
    let claim = json!({"metadata": {"name": name}, "spec": {"storageClassName": class,
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    tenant.applies::<PersistentVolumeClaim>(claim).await.unwrap();
}

/// A volume for the claim of this name.
async fn has_volume(tenant: &Tenant<'_>, name: &str, source: Value) {
    let mut volume = json!({"metadata": {"name": name}, "spec": {"storageClassName": "none",
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"},
        "claimRef": {"namespace": tenant.namespace(), "name": name}}});
    json_patch::merge(&mut volume["spec"], &source);
    creates::<PersistentVolume>(tenant, volume).await;
}

/// A claim of this name that is bound to a volume.
async fn has_bound(tenant: &Tenant<'_>, name: &str, source: Value) {
    has_volume(tenant, name, source).await;
    claims(tenant, name, "none").await;
    let is_bound = |claim: &PersistentVolumeClaim| {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Bound")
    };
    becomes(&tenant.api(), name, "bound", SOON, is_bound)
        .await
        .unwrap();
}

fn on(key: &str, value: &str) -> Value {
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": key, "operator": "In", "values": [value]}]}]}})
}

/// A pod that uses the claim of the same name.
fn pod(name: &str) -> Pod {
    with(name, &json!({"persistentVolumeClaim": {"claimName": name}}))
}

fn with(name: &str, volume: &Value) -> Pod {
    let mut named = json!({"name": "data"});
    json_patch::merge(&mut named, volume);
    marooned_with(name, &json!({"volumes": [named]}))
}

async fn usable_volumes_are_used(tenant: &Tenant<'_>) {
    let in_b = json!({"hostPath": {"path": "/tmp"}, "nodeAffinity": on(ZONE, "zone-b")});
    has_bound(tenant, "in-b", in_b).await;
    // Bound by the scheduler, when it places the pod.
    let anywhere = json!({"hostPath": {"path": "/tmp"}, "storageClassName": "static", "claimRef": null});
    has_volume(tenant, "found", anywhere).await;
    claims(tenant, "found", "static").await;
    for name in ["in-b", "found"] {
        tenant.creates(&pod(name)).await.unwrap();
    }
    for name in ["in-b", "found"] {
        let pod = tenant.sees_running(name).await.unwrap();
        let zone = tenant.node_of(&pod).await.unwrap().labels()[ZONE].clone();
        assert!(name != "in-b" || zone == "zone-b", "{name} is in {zone}");
    }
}

async fn others_wait_without_a_vm(tenant: &Tenant<'_>) {
    let local = json!({"local": {"path": "/mnt"}, "nodeAffinity": on("kubernetes.io/hostname", "host-1")});
    let csi = json!({"csi": {"driver": DRIVER, "volumeHandle": "h"}});
    let rack = json!({"hostPath": {"path": "/tmp"}, "nodeAffinity": on("rack", "1")});
    for (name, source) in [("local", local), ("csi", csi), ("rack", rack)] {
        has_bound(tenant, name, source).await;
    }
    for class in ["absent", "at-once", "late", "disks"] {
        claims(tenant, class, class).await;
    }
    let template = json!({"spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}});
    let ephemeral = json!({"ephemeral": {"volumeClaimTemplate": template}});
    let shapes = [
        ("missing", None, "claim missing does not exist"),
        ("local", None, "local volume"),
        ("csi", None, "csi/disk.example.test"),
        ("rack", None, "claim rack (rack)"),
        ("absent", None, "StorageClass absent does not exist"),
        ("at-once", None, "not bound to a volume yet"),
        ("late", None, "csi/disk.example.test"),
        ("disks", None, "storage-class/disks"),
        ("scratch", Some(ephemeral), "csi/disk.example.test"),
    ];
    for (name, volume, _) in &shapes {
        let pod = volume
            .as_ref()
            .map_or_else(|| pod(name), |volume| with(name, volume));
        tenant.creates(&pod).await.unwrap();
    }
    for (name, _, says) in shapes {
        let waits = |pod: &Pod| {
            let (reason, message) = read::report(pod);
            reason == "Unplaceable" && message.contains(says)
        };
        becomes(&tenant.pods, name, says, SOON, waits).await.unwrap();
    }
    for record in tenant.records().await.unwrap() {
        let of = &record.spec.pod_ref.name;
        assert!(
            ["in-b", "found"].contains(&of.as_str()),
            "a record was made for {of}"
        );
    }
    // What was lacking comes.
    let offers = json!({"guestCapabilities": ["csi/disk.example.test"]});
    config::change(&tenant.admin, &offers).await.unwrap();
    has_bound(tenant, "missing", json!({"hostPath": {"path": "/tmp"}})).await;
    tenant.sees_running("missing").await.unwrap();
    for name in ["csi", "late", "scratch"] {
        tenant.sees_record(name).await.unwrap();
    }
}
