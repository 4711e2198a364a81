//! KubeVirt's API goes and comes back.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

use crate::setup::{Setup, VMI_CRD};

/// KubeVirt's API is taken away under a VM that runs. That no VM can be found does not prove then that it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_not_gone_because_kubevirt_is() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let setup = Setup::new(&env).await;
    let tenant = &setup.tenant;
    tenant.creates(&marooned("survivor")).await.unwrap();
    let pod = tenant.sees_running("survivor").await.unwrap();
    let survivor = MaroonedPod::of(&tenant.admin, &pod).unwrap();

    serve_vmis(tenant, false).await;
    let node = survivor.node_name();
    tenant
        .pods
        .delete("survivor", &DeleteParams::default())
        .await
        .unwrap();
    eventually("two looks for the VM in vain", SOON, || async {
        let asked = tenant.env.control_plane().audit()?.into_iter().filter(|event| {
            event.resource == "virtualmachineinstances"
                && event.name == node
                && event.verb == "get"
                && event.code == 404
        });
        Ok((asked.count() >= 2).then_some(()))
    })
    .await
    .unwrap();
    survivor
        .record("kept", |r| r.metadata.deletion_timestamp.is_none())
        .await
        .unwrap();
    assert!(survivor.nodes().get_opt(&node).await.unwrap().is_some());
    let waiting = tenant.creates(&marooned("waiting")).await.unwrap();
    let waiting = MaroonedPod::of(&tenant.admin, &waiting).unwrap();
    waiting.reports("ProviderMissing").await.unwrap();

    serve_vmis(tenant, true).await;
    survivor.leaves_nothing().await.unwrap();
    waiting.running().await.unwrap();
    waiting.ends().await.unwrap();
    setup.says("True", "Checked").await;
    setup.tenant.leaves().await.unwrap();
    setup.reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

/// The configuration says whether VMs can be listed, as each leader finds it when it begins.
#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_says_whether_kubevirt_is_there() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let mut setup = Setup::new(&env).await;
    let message = setup.says_of("ProviderReady", "True", "Listed").await;
    assert_eq!(message, "VirtualMachineInstances can be listed");

    setup.reconciler.stop().await.unwrap();
    serve_vmis(&setup.tenant, false).await;
    setup.reconciler = env.reconciler(false).await.unwrap();
    let message = setup.says_of("ProviderReady", "False", "NotInstalled").await;
    assert_eq!(
        message,
        "the cluster has no VirtualMachineInstances: install KubeVirt"
    );
    setup.says("False", "KubeVirtMissing").await;

    setup.reconciler.stop().await.unwrap();
    serve_vmis(&setup.tenant, true).await;
    setup.reconciler = env.reconciler(false).await.unwrap();
    setup.says_of("ProviderReady", "True", "Listed").await;
    setup.says("True", "Checked").await;
    setup.tenant.leaves().await.unwrap();
    setup.reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

/// The VMs stay in storage whether they are served or not.
async fn serve_vmis(tenant: &Tenant<'_>, served: bool) {
    let crds: Api<CustomResourceDefinition> = Api::all(tenant.admin.clone());
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/served", "value": served}]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch).unwrap());
    crds.patch(VMI_CRD, &PatchParams::default(), &patch)
        .await
        .unwrap();
    let kind = kube::core::GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachineInstance");
    let resource = kube::api::ApiResource::from_gvk(&kind);
    let vmis = Api::<DynamicObject>::namespaced_with(tenant.admin.clone(), names::VM_NAMESPACE, &resource);
    eventually("the change to be there", SOON, || async {
        let is_served = vmis.list(&ListParams::default()).await.is_ok();
        Ok((is_served == served).then_some(()))
    })
    .await
    .unwrap();
}
