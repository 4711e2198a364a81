//! Parts of KubeVirt that are down, and a KubeVirt that knows less than today's. Each test has an environment of its own.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use maroonedpods_common::api::MaroonedPodsConfigSpec;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::vmis;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::{TestEnv, quick_config};
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

use crate::setup::told;

/// Deadlines that no VM of these tests exceeds while a part of KubeVirt is down.
fn patient(server_url: &str) -> anyhow::Result<MaroonedPodsConfigSpec> {
    let mut config = serde_json::to_value(quick_config(server_url)?)?;
    config["deadlines"] = json!({"boot": "2m", "join": "2m", "finishedPodTTL": "1s"});
    Ok(serde_json::from_value(config)?)
}

async fn running(tenant: &Tenant<'_>, name: &str) -> MaroonedPod {
    tenant.creates(&marooned(name)).await.unwrap();
    let pod = tenant.sees_running(name).await.unwrap();
    MaroonedPod::of(&tenant.admin, &pod).unwrap()
}

/// virt-api's webhook fails closed: no VM can be made, and pods say why. That is not the failure of a VM.
#[tokio::test(flavor = "multi_thread")]
async fn while_virt_api_is_down_pods_say_so_and_run_afterwards() {
    logs();
    let env = TestEnv::start_with(0, patient).await.unwrap();
    let reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let before = running(&tenant, "before").await;

    env.kubevirt().stop_virt_api();
    let foreign: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "v"},
        "spec": {"domain": {"devices": {}, "memory": {"guest": "1Mi"}}},
    }))
    .unwrap();
    let refused = vmis(&tenant.admin)
        .create(&PostParams::default(), &foreign)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 500 && status.reason == "InternalError"),
        "{refused}"
    );
    let waits = tenant.creates(&marooned("waits")).await.unwrap();
    let waits = MaroonedPod::of(&tenant.admin, &waits).unwrap();
    let message = waits.reports("Refused").await.unwrap();
    assert!(
        message.contains("failed calling webhook \"virtualmachineinstances-mutator.kubevirt.io\""),
        "{message}"
    );
    before.running().await.unwrap();

    env.kubevirt().start_virt_api().await.unwrap();
    waits.running().await.unwrap();
    let record = waits.records().get(&waits.node_name()).await.unwrap();
    assert_eq!(record.status.unwrap().attempts, 1);
    waits.ends().await.unwrap();
    before.ends().await.unwrap();
    tenant.leaves().await.unwrap();
    reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

/// Without virt-controller no VM starts and none is let go; those that run, run on.
#[tokio::test(flavor = "multi_thread")]
async fn while_virt_controller_is_down_vms_neither_start_nor_go() {
    logs();
    let env = TestEnv::start_with(0, patient).await.unwrap();
    let reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let (stays, goes) = tokio::join!(running(&tenant, "stays"), running(&tenant, "goes"));

    env.kubevirt().stop_virt_controller();
    let waits = tenant.creates(&marooned("waits")).await.unwrap();
    let waits = MaroonedPod::of(&tenant.admin, &waits).unwrap();
    goes.delete().await.unwrap();
    goes.gone().await.unwrap();
    let over = goes.vmi(1, "Succeeded").await.unwrap();
    assert!(over.metadata.deletion_timestamp.is_some());
    assert_eq!(over.finalizers(), ["kubevirt.io/foregroundDeleteVirtualMachine"]);
    waits.vmi(1, "Pending").await.unwrap();
    assert!(goes.records().get_opt(&goes.node_name()).await.unwrap().is_some());
    assert!(goes.nodes().get_opt(&goes.node_name()).await.unwrap().is_some());
    stays.running().await.unwrap();

    env.kubevirt().start_virt_controller();
    goes.leaves_nothing().await.unwrap();
    waits.running().await.unwrap();
    waits.ends().await.unwrap();
    stays.ends().await.unwrap();
    tenant.leaves().await.unwrap();
    reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

/// KubeVirt 1.7 has no `rebootPolicy`: a guest that reboots starts again, and its VM is destroyed for that.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_reboot_is_not_the_end_a_rebooted_vm_is_destroyed() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    forget_reboot_policy(&tenant).await;
    let reconciler = env.reconciler(false).await.unwrap();
    let script = Script {
        // Long after it has joined.
        reboot_at: Some(15.0),
        ..Script::default()
    };
    let pod = MaroonedPod::create(&tenant.admin, tenant.namespace(), "pod", &script)
        .await
        .unwrap();
    let vmi = pod.vmi(1, "Running").await.unwrap();
    assert!(
        vmi.data["spec"]["domain"].get("rebootPolicy").is_none(),
        "{vmi:?}"
    );
    pod.running().await.unwrap();
    pod.fails().await.unwrap();
    assert_eq!(
        told(&pod, "NodeLost").await,
        "the pod's VM rebooted; a rebooted VM is destroyed"
    );
    pod.leaves_nothing().await.unwrap();
    tenant.leaves().await.unwrap();
    reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

/// Its feature gate is turned off, or KubeVirt is replaced by an older one: a pod whose record is from before gets a VM
/// without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_policy_that_kubevirt_has_come_to_refuse_is_left_out() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let reconciler = env.reconciler(false).await.unwrap();
    running(&tenant, "before").await.ends().await.unwrap();

    // So that there is a record, and no VM.
    env.kubevirt().stop_virt_api();
    let pod = tenant.creates(&marooned("pod")).await.unwrap();
    let pod = MaroonedPod::of(&tenant.admin, &pod).unwrap();
    pod.reports("Refused").await.unwrap();
    let record = pod.records().get(&pod.node_name()).await.unwrap();
    assert!(record.spec.vm.terminate_on_reboot);
    forget_reboot_policy(&tenant).await;
    env.kubevirt().start_virt_api().await.unwrap();
    pod.running().await.unwrap();
    let vmi = pod.vmi(1, "Running").await.unwrap();
    assert_eq!(vmi.data["spec"]["domain"].get("rebootPolicy"), None);
    pod.ends().await.unwrap();
    tenant.leaves().await.unwrap();
    reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

/// Takes the field out of the schema, as before KubeVirt 1.8, and waits until it is refused.
async fn forget_reboot_policy(tenant: &Tenant<'_>) {
    let crds: Api<CustomResourceDefinition> = Api::all(tenant.admin.clone());
    let path =
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/domain/properties/rebootPolicy";
    let patch = Patch::<()>::Json(serde_json::from_value(json!([{"op": "remove", "path": path}])).unwrap());
    crds.patch(
        "virtualmachineinstances.kubevirt.io",
        &PatchParams::default(),
        &patch,
    )
    .await
    .unwrap();
    let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "dry-run"},
        "spec": {"domain": {"rebootPolicy": "Terminate", "devices": {}, "memory": {"guest": "1Mi"}}}});
    let vmi: DynamicObject = serde_json::from_value(vmi).unwrap();
    let strict = PatchParams::apply("test").dry_run().validation_strict();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "kubevirt.io",
        "v1",
        "VirtualMachineInstance",
    ));
    // No guard is in the way there.
    let elsewhere =
        Api::<DynamicObject>::namespaced_with(tenant.admin.clone(), tenant.namespace(), &resource);
    eventually("the field to be unknown", SOON, || async {
        match elsewhere.patch("dry-run", &strict, &Patch::Apply(&vmi)).await {
            Err(error) if error.to_string().contains("rebootPolicy") => Ok(Some(())),
            answer => anyhow::bail!("{answer:?}"),
        }
    })
    .await
    .unwrap();
}
