//! Who binds a marooned pod to its Node, and what people see of that.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::api::read::{condition, node};
use maroonedpods_e2e::harness::fixtures::marooned_with;
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::tenant::{Tenant, ZONE};
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_image_build::node_image;
use serde_json::{Value, json};

const SCHEDULER: &str = "default-scheduler";

/// A pod that opts in, with this in its spec.
fn with(name: &str, field: &str, value: &Value) -> Pod {
    marooned_with(name, &json!({field: value}))
}

/// Who said what about the pod: source, reason, message.
async fn events(tenant: &Tenant<'_>, name: &str) -> Vec<[String; 3]> {
    let all: Api<Event> = tenant.api();
    let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
    let said = |event: Event| {
        let source = event.source.and_then(|source| source.component);
        let by = source.or(event.reporting_component).unwrap_or_default();
        [
            by,
            event.reason.unwrap_or_default(),
            event.message.unwrap_or_default(),
        ]
    };
    all.list(&about).await.unwrap().into_iter().map(said).collect()
}

fn scheduler_of(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().scheduler_name.as_deref().unwrap()
}

fn own_node(pod: &Pod) -> String {
    names::node_name(&pod.uid().unwrap().into())
}

/// As after a lift that bound nothing: the word about the lift follows the binding.
async fn is_lifted_and_unbound(tenant: &Tenant<'_>, name: &str) -> Pod {
    let pod = tenant.sees_reason(name, "NodeReady").await.unwrap();
    assert_eq!(node(&pod), "");
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reconciler_binds_and_no_scheduler_says_a_word() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    let labels = |name: &str| json!({"matchLabels": {"app": name}});
    let over_hosts = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": labels("over-hosts")}]);
    let zones = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": ZONE, "labelSelector": labels("over-zones")}]}});
    let wanted = [
        with("plain", "hostname", &json!("plain")),
        with("over-hosts", "topologySpreadConstraints", &over_hosts),
        with("over-zones", "affinity", &zones),
    ];
    for pod in &wanted {
        tenant.creates(pod).await.unwrap();
    }
    for pod in &wanted {
        let name = pod.name_any();
        tenant.sees_running(&name).await.unwrap();
        let pod = tenant.sees_reason(&name, "NodeReady").await.unwrap();
        let own = own_node(&pod);
        let message = format!("Successfully assigned {}/{name} to {own}", tenant.namespace());
        let told = eventually("the word about the binding", SOON, || async {
            let mut told = events(&tenant, &name).await;
            assert!(told.iter().all(|[by, ..]| by != SCHEDULER), "{told:?}");
            told.retain(|[_, reason, _]| reason == "Scheduled");
            Ok((!told.is_empty()).then_some(told))
        });
        let once = [
            "maroonedpods.io/reconciler".to_owned(),
            "Scheduled".to_owned(),
            message,
        ];
        assert_eq!(told.await.unwrap(), [once]);
        assert_eq!((scheduler_of(&pod), node(&pod)), ("maroonedpods", own.as_str()));
        let scheduled = condition(&pod, "PodScheduled");
        assert_eq!(scheduled.unwrap().0, "True", "{name}");
        let zone = tenant.node_of(&pod).await.unwrap().labels().get(ZONE).cloned();
        assert!(zone.is_some());
        assert_eq!(pod.labels().get(ZONE), zone.as_ref(), "{name}");
    }
    tenant.leaves().await.unwrap();
}

/// A volume that is bound for its first consumer, by the scheduler, which finds none that would do.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_claim_needs_the_scheduler_keeps_it() {
    let tenant = Tenant::shared(None).await.unwrap();
    let classes: Api<StorageClass> = Api::all(tenant.admin.clone());
    let class = json!({"metadata": {"name": "waits"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    accepts(&classes, &serde_json::from_value(class).unwrap())
        .await
        .unwrap();
    let offered: Vec<_> = node_image::CAPABILITIES
        .into_iter()
        .chain(["storage-class/waits"])
        .collect();
    let offers = config::change(&tenant.admin, &json!({"guestCapabilities": offered}))
        .await
        .unwrap();
    config::seen(&tenant.admin, &offers).await.unwrap();
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "waits", "resources": {"requests": {"storage": "1Mi"}}}});
    tenant.applies::<PersistentVolumeClaim>(claim).await.unwrap();
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    let created = tenant
        .creates(&with("claims", "volumes", &volumes))
        .await
        .unwrap();
    assert_eq!(scheduler_of(&created), SCHEDULER);
    is_lifted_and_unbound(&tenant, "claims").await;
    let said = eventually("the scheduler's word", SOON, || async {
        let told = events(&tenant, "claims").await;
        let refusal = told
            .into_iter()
            .find(|[_, reason, _]| reason == "FailedScheduling");
        Ok(refusal)
    });
    let [by, _, message] = said.await.unwrap();
    assert_eq!(by, SCHEDULER);
    assert!(message.contains("persistent volumes to bind"), "{message}");
    let pod = tenant.pods.get("claims").await.unwrap();
    assert_eq!(node(&pod), "");
    tenant.leaves().await.unwrap();
    classes.delete("waits", &DeleteParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_a_scheduler_of_its_own_is_left_to_it() {
    let tenant = Tenant::shared(None).await.unwrap();
    let wanted = with("theirs", "schedulerName", &json!("tenants-own"));
    tenant.creates(&wanted).await.unwrap();
    let pod = is_lifted_and_unbound(&tenant, "theirs").await;
    assert_eq!(scheduler_of(&pod), "tenants-own");
    let binding = json!({"metadata": {"name": "theirs", "uid": pod.uid()},
        "target": {"kind": "Node", "name": own_node(&pod)}});
    let params = PostParams::default();
    let bound = tenant
        .pods
        .create_subresource::<_, Value>("binding", "theirs", &params, &binding);
    bound.await.unwrap();
    tenant.sees_running("theirs").await.unwrap();
    let told = events(&tenant, "theirs").await;
    assert!(
        told.iter().all(|[_, reason, _]| reason != "Scheduled"),
        "{told:?}"
    );
    tenant.leaves().await.unwrap();
}
