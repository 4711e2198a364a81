//! Pods that change while they wait, and one that nothing binds.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use maroonedpods_e2e::api::read;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::marooned_with;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, pod};
use maroonedpods_e2e::harness::tenant::{Tenant, ZONE};
use maroonedpods_e2e::install::config;
use serde_json::json;

pub async fn a_pod_that_changes_while_it_waits_gets_the_vm_that_it_needs_now(tenant: &Tenant<'_>) {
    let slow = Script {
        boot_delay: 15.0,
        ..Script::default()
    };
    // As a queue does that assigns a place.
    let queued = pod("queued", &slow).unwrap();
    tenant.creates(&queued).await.unwrap();
    let first = tenant.sees_record("queued").await.unwrap().uid();
    let selector = Patch::Merge(json!({"spec": {"nodeSelector": {ZONE: "zone-c"}}}));
    tenant
        .pods
        .patch("queued", &PatchParams::default(), &selector)
        .await
        .unwrap();
    let runs = tenant.sees_running("queued").await.unwrap();
    assert_eq!(tenant.host_of(&runs).await.unwrap(), "host-3");
    assert_ne!(tenant.sees_record("queued").await.unwrap().uid(), first);

    let mut small = pod("resized", &slow).unwrap();
    let sized = |memory: &str| json!({"requests": {"memory": memory}, "limits": {"memory": memory}});
    small.spec.as_mut().unwrap().containers[0].resources =
        Some(serde_json::from_value(sized("128Mi")).unwrap());
    tenant.creates(&small).await.unwrap();
    tenant.sees_record("resized").await.unwrap();
    let container = small.spec.as_ref().unwrap().containers[0].name.clone();
    let grown =
        Patch::Strategic(json!({"spec": {"containers": [{"name": container, "resources": sized("2Gi")}]}}));
    tenant
        .pods
        .patch_subresource("resize", "resized", &PatchParams::default(), &grown)
        .await
        .unwrap();
    let runs = tenant.sees_running("resized").await.unwrap();
    let allocatable = tenant
        .node_of(&runs)
        .await
        .unwrap()
        .status
        .unwrap()
        .allocatable
        .unwrap();
    let bytes: u64 = allocatable["memory"].0.trim_end_matches("Ki").parse().unwrap();
    assert!(bytes >= 2 << 20, "{allocatable:?}");
    for name in ["queued", "resized"] {
        tenant.deletes(name).await.unwrap();
    }
}

pub async fn a_pod_that_no_scheduler_binds_fails_and_frees_its_vm(tenant: &Tenant<'_>) {
    let hasty = config::change(&tenant.admin, &json!({"deadlines": {"start": "3s"}}))
        .await
        .unwrap();
    config::seen(&tenant.admin, &hasty).await.unwrap();
    let stray = marooned_with("stray", &json!({"schedulerName": "nobody"}));
    let stray = MaroonedPod::create_pod(&tenant.admin, tenant.namespace(), &stray)
        .await
        .unwrap();
    stray.fails().await.unwrap();
    let said = tenant.sees_reason("stray", "NotStarted").await.unwrap();
    let message = read::report(&said).1;
    assert!(message.contains("no scheduler has bound it"), "{message}");
    stray.leaves_nothing().await.unwrap();
}
