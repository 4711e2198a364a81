//! The owner of KubeVirt changes its configuration, or uninstalls it under running VMs: what becomes of pods.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, EvictParams, ObjectMeta, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::apply::create;
use maroonedpods_e2e::api::check::{eventually, gone};
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::kubevirt::NAMESPACE;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::kubevirt::{SIZE, answers, are_gone, configure, is_rolled_out, kubectl, waits};
use crate::user::{Setup, User};

const VMIS: &str = "virtualmachineinstances.kubevirt.io";
/// KubeVirt's programs, and what runs them.
const PROGRAMS: [(&str, &str); 3] = [
    ("deployment", "virt-api"),
    ("deployment", "virt-controller"),
    ("daemonset", "virt-handler"),
];
/// Enough for the reconciler to do harm, if it did any.
const DOWN: Duration = Duration::from_secs(20);

/// The last test on its cluster.
pub async fn changed_and_uninstalled(setup: &Setup<'_>) {
    let user = User::new(setup, "owner").await;
    let (evicted, stays) = tokio::join!(
        user.runs("evicted", SIZE, waits()),
        user.runs("stays", SIZE, waits()),
    );
    is_evicted_where_others_migrate(&user, &evicted).await;
    gates_are_off(&user, &stays).await;
    is_uninstalled(&user, stays).await;
    user.leaves().await;
}

/// By KubeVirt's configuration, VMs whose host is drained migrate. Ours never do: their pods are evicted.
async fn is_evicted_where_others_migrate(user: &User<'_>, pod: &MaroonedPod) {
    set(user, json!({"evictionStrategy": "LiveMigrate"})).await;
    eventually("KubeVirt to have VMs migrate", SOON, || async {
        let tried = try_vmi(user, json!({})).await?;
        let strategy = &tried.data["spec"]["evictionStrategy"];
        anyhow::ensure!(strategy == "LiveMigrate", "{strategy}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    let vmi = pod.vmi(1, "Running").await.unwrap();
    assert_eq!(vmi.data["spec"]["evictionStrategy"], "External");

    let launcher = user.vm(pod).await.launcher().to_owned();
    let admin = user.setup.control_plane().impatient_admin().await.unwrap();
    let launchers = Api::<Pod>::namespaced(admin, names::VM_NAMESPACE);
    let refused = launchers.evict(&launcher, &EvictParams::default()).await;
    let refused = refused.unwrap_err().to_string();
    user.says(&refused);
    assert!(
        refused.contains("Eviction triggered evacuation of VMI"),
        "{refused}"
    );
    pod.gone().await.unwrap();
    pod.leaves_nothing().await.unwrap();
    let seen = user.setup.control_plane().audit().unwrap();
    let migrations = seen
        .iter()
        .filter(|event| event.resource == "virtualmachineinstancemigrations" && event.verb == "create");
    assert_eq!(migrations.count(), 0);
    set(user, json!({"evictionStrategy": null})).await;
}

/// Feature gates that VMs of ours use are turned off: a VM starts without what they give.
async fn gates_are_off(user: &User<'_>, stays: &MaroonedPod) {
    set_gates(user, json!(["RebootPolicy", "ImageVolume"])).await;
    let pod = user.creates("gated", SIZE, waits()).await;
    let record = pod.record("there", |_| true).await.unwrap();
    // Unless the reconciler happened to check the cluster just now, which it does every five minutes.
    if record.spec.vm.terminate_on_reboot {
        let message = pod.reports("Refused").await.unwrap();
        user.says(&message);
        let why = "RebootPolicy is specified but the RebootPolicy feature gate is not enabled";
        assert!(message.contains(why), "{message}");
    }
    // Another configuration has it check at once.
    configure(user.setup, json!({"deadlines": {"boot": "241s"}})).await;
    user.sees_running(&pod).await;
    let vmi = pod.vmi(1, "Running").await.unwrap();
    assert_eq!(vmi.data["spec"]["domain"].get("rebootPolicy"), None);
    let launcher = user.vm(&pod).await.launcher().to_owned();
    let images = [
        "get",
        "pod",
        &launcher,
        "--output",
        "jsonpath={.spec.volumes[*].image}",
    ];
    let images = [["--namespace", names::VM_NAMESPACE].as_slice(), &images].concat();
    assert_eq!(user.setup.control_plane().kubectl(&images).await.unwrap(), "");
    pod.ends().await.unwrap();

    set_gates(user, Value::Null).await;
    configure(user.setup, json!({"deadlines": {"boot": "240s"}})).await;
    let again = user.creates("again", SIZE, waits()).await;
    eventually("a VM that ends with a reboot", SOON, || async {
        let vmi = again.vmis().get(&again.node_name()).await?;
        let policy = &vmi.data["spec"]["domain"]["rebootPolicy"];
        anyhow::ensure!(policy == "Terminate", "{policy}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    again.ends().await.unwrap();
    answers(user, stays).await;
}

/// KubeVirt's programs are deleted and then the CRD of VMIs, and with that every VM.
async fn is_uninstalled(user: &User<'_>, stays: MaroonedPod) {
    let mut programs = Vec::new();
    for (kind, name) in PROGRAMS {
        programs.push(stored(user, &["--namespace", NAMESPACE, "get", kind, name]).await);
    }
    let definition = stored(user, &["get", "crd", VMIS]).await;
    for (kind, name) in PROGRAMS {
        kubectl(user.setup, &["delete", kind, name]).await;
        are_gone(user.setup, name).await;
    }
    kubectl(user.setup, &["delete", "crd", VMIS, "--wait=false"]).await;

    // Nobody is there to end the VMs: they run on.
    let waits = user.creates("waits", SIZE, waits()).await;
    sleep(DOWN).await;
    what_is_said(user).await;
    answers(user, &stays).await;
    let vmi = stays.vmi(1, "Running").await.unwrap();
    assert!(vmi.metadata.deletion_timestamp.is_some());

    let admin = &user.setup.env.admin;
    create(admin, &programs).await.unwrap();
    for (kind, name) in PROGRAMS {
        is_rolled_out(user.setup, kind, name).await;
    }
    stays.fails().await.unwrap();
    let definitions = Api::<CustomResourceDefinition>::all(admin.clone());
    gone(&definitions, VMIS, SOON).await.unwrap();
    what_is_said(user).await;

    create(admin, &[definition]).await.unwrap();
    user.sees_running(&waits).await;
    stays.leaves_nothing().await.unwrap();
    waits.ends().await.unwrap();
}

/// Prints what pods and the configuration say.
async fn what_is_said(user: &User<'_>) {
    for kind in ["pods", "mpconfig"] {
        let path = "jsonpath={range .items[*]}{.metadata.name}: {.status.conditions}{\"\\n\"}{end}";
        user.kubectl(&["get", kind, "--output", path]).await;
    }
}

/// An object without what the API server and controllers gave it.
async fn stored(user: &User<'_>, arguments: &[&str]) -> DynamicObject {
    let arguments = [arguments, &["--output", "json"]].concat();
    let text = user.setup.control_plane().kubectl(&arguments).await.unwrap();
    let mut object: DynamicObject = serde_json::from_str(&text).unwrap();
    object.metadata = ObjectMeta {
        name: Some(object.name_any()),
        namespace: object.namespace(),
        labels: object.metadata.labels,
        annotations: object.metadata.annotations,
        ..ObjectMeta::default()
    };
    object.data.as_object_mut().unwrap().remove("status");
    object
}

/// A VMI of a domain with these fields, as a dry run in a namespace without guards.
async fn try_vmi(user: &User<'_>, domain: Value) -> kube::Result<DynamicObject> {
    let mut vmi = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "dry-run"},
        "spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}},
    });
    json_patch::merge(&mut vmi["spec"]["domain"], &domain);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let kind = GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachineInstance");
    let admin = user.setup.env.admin.clone();
    let own = Api::namespaced_with(admin, &user.namespace, &ApiResource::from_gvk(&kind));
    own.create(&dry_run, &serde_json::from_value(vmi).unwrap()).await
}

/// Changes KubeVirt's configuration.
async fn set(user: &User<'_>, configuration: Value) {
    let patch = json!({"spec": {"configuration": configuration}}).to_string();
    let arguments = [
        "patch", "kubevirt", "kubevirt", "--type", "merge", "--patch", &patch,
    ];
    kubectl(user.setup, &arguments).await;
}

/// Turns these feature gates off and all others on, and waits until KubeVirt knows.
async fn set_gates(user: &User<'_>, off: Value) {
    let are_off = !off.is_null();
    set(
        user,
        json!({"developerConfiguration": {"disabledFeatureGates": off}}),
    )
    .await;
    eventually("KubeVirt to know its gates", SOON, || async {
        let tried = try_vmi(user, json!({"rebootPolicy": "Terminate"})).await;
        Ok((tried.is_err() == are_off).then_some(()))
    })
    .await
    .unwrap();
}
