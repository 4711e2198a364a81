//! Faults of the cluster that hold launches, or are worth a warning.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Node, Service};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::cluster::DNS_ADDRESS;
use maroonedpods_e2e::control_plane::ControlPlaneOptions;
use maroonedpods_e2e::fake_kubevirt::{install_crd, say_version};
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::test_env::{TestEnv, quick_config};
use maroonedpods_e2e::install::dns;
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_reconciler::preflight;
use serde_json::json;

use crate::setup::{Setup, VMI_CRD};

const KUBEVIRT_CRD: &str = "kubevirts.kubevirt.io";

/// One cluster and one configuration, and each step breaks and repairs them: so they are steps, not tests of their own.
#[tokio::test(flavor = "multi_thread")]
async fn each_fault_holds_launches_until_it_is_repaired() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let setup = Setup::new(&env).await;
    setup.says("True", "Checked").await;
    setup.is_ready("200", "ok").await;

    another_controller_approves(&setup).await;
    kubevirt_is_too_old(&setup).await;
    kubevirt_does_not_know_a_field(&setup).await;
    kubevirt_reports_no_version(&setup).await;
    names_are_not_resolved(&setup).await;
    a_daemon_set_follows_us(&setup).await;
    setup.tenant.leaves().await.unwrap();
    setup.reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

async fn another_controller_approves(setup: &Setup<'_>) {
    let bindings: Api<ClusterRoleBinding> = Api::all(setup.tenant.admin.clone());
    let binding = serde_json::from_value(json!({
        "metadata": {"name": "approves-all-bootstrappers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:certificates.k8s.io:certificatesigningrequests:nodeclient"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": names::BOOTSTRAP_GROUP}],
    }))
    .unwrap();
    accepts(&bindings, &binding).await.unwrap();
    setup.touch().await;
    setup
        .is_held("AutoApproval", "\"approves-all-bootstrappers\"", "leaky")
        .await;
    bindings
        .delete("approves-all-bootstrappers", &DeleteParams::default())
        .await
        .unwrap();
    setup.is_repaired("leaky").await;
}

async fn kubevirt_is_too_old(setup: &Setup<'_>) {
    say_version(&setup.tenant.admin, "v1.6.3").await.unwrap();
    setup.touch().await;
    setup
        .is_held("KubeVirtTooOld", "KubeVirt is v1.6.3: upgrade it to 1.7", "old")
        .await;
    // It is accepted, but not on this Kubernetes without a gate.
    say_version(&setup.tenant.admin, "v1.7.0").await.unwrap();
    setup.touch().await;
    let message = setup.says("True", "KubeVirtGateMissing").await;
    assert!(message.contains("feature gate ImageVolume"), "{message}");
    say_version(&setup.tenant.admin, "v1.9.0").await.unwrap();
    setup.touch().await;
    setup.is_repaired("old").await;
}

/// As an older KubeVirt: without strict validation it would take the VM and drop the field.
async fn kubevirt_does_not_know_a_field(setup: &Setup<'_>) {
    let crds: Api<CustomResourceDefinition> = Api::all(setup.tenant.admin.clone());
    let devices =
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/domain/properties/devices";
    let path = format!("{devices}/properties/logSerialConsole");
    let without = serde_json::from_value(json!([{"op": "remove", "path": path}])).unwrap();
    crds.patch(VMI_CRD, &PatchParams::default(), &Patch::<()>::Json(without))
        .await
        .unwrap();
    eventually("the field to be unknown", SOON, || async {
        let report = preflight(&setup.cluster, None).await?;
        Ok((!report.passed()).then_some(()))
    })
    .await
    .unwrap();
    setup.touch().await;
    setup
        .is_held(
            "VMRefused",
            "unknown field \"spec.domain.devices.logSerialConsole\"",
            "strict",
        )
        .await;
    install_crd(&setup.tenant.admin).await.unwrap();
    setup.is_repaired("strict").await;
}

/// Worth a warning, and no more: the trial has passed.
async fn kubevirt_reports_no_version(setup: &Setup<'_>) {
    let crds: Api<CustomResourceDefinition> = Api::all(setup.tenant.admin.clone());
    crds.delete(KUBEVIRT_CRD, &DeleteParams::default()).await.unwrap();
    eventually("no KubeVirt resource", SOON, || async {
        let report = preflight(&setup.cluster, None).await?.to_string();
        Ok(report.contains("warn  KubeVirtVersionUnknown").then_some(()))
    })
    .await
    .unwrap();
    setup.touch().await;
    let message = setup.says("True", "KubeVirtVersionUnknown").await;
    assert!(
        message.contains("the cluster has no KubeVirt resource"),
        "{message}"
    );
    setup.is_ready("200", "warning: KubeVirt's version").await;
    setup.tenant.creates(&marooned("unknown")).await.unwrap();
    install_crd(&setup.tenant.admin).await.unwrap();
    setup.is_repaired("unknown").await;
}

/// The configuration names no name server. Worth a warning, on the pod too.
async fn names_are_not_resolved(setup: &Setup<'_>) {
    let tenant = &setup.tenant;
    let (namespace, name) = names::CLUSTER_DNS;
    let services: Api<Service> = Api::namespaced(tenant.admin.clone(), namespace);
    let told = |pod: &str| {
        let pod = pod.to_owned();
        async move {
            tenant.creates(&marooned(&pod)).await.unwrap();
            tenant.sees_running(&pod).await.unwrap();
            let record = tenant.records().await.unwrap().remove(0);
            let events: Api<Event> = tenant.api();
            let about =
                ListParams::default().fields(&format!("involvedObject.name={pod},reason=NoClusterDNS"));
            let warned = !events.list(&about).await.unwrap().items.is_empty();
            (record.spec.vm.join.cluster_dns, warned)
        }
    };
    assert_eq!(told("resolves").await, (Some(DNS_ADDRESS.to_owned()), false));
    setup.is_repaired("resolves").await;

    services.delete(name, &DeleteParams::default()).await.unwrap();
    setup.touch().await;
    let message = setup.says("True", "ClusterDNSUnknown").await;
    assert!(
        message.contains("kube-system/kube-dns") && message.contains("set join.clusterDNS"),
        "{message}"
    );
    let shown = setup.preflight().await.to_string();
    assert!(shown.contains("warn  ClusterDNSUnknown: "), "{shown}");
    assert_eq!(told("nameless").await, (None, true));
    dns::make_service(&tenant.admin).await.unwrap();
    setup.is_repaired("nameless").await;
}

async fn a_daemon_set_follows_us(setup: &Setup<'_>) {
    let sets: Api<DaemonSet> = setup.tenant.api();
    let set = serde_json::from_value(json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}},
        "template": {"metadata": {"labels": {"app": "agent"}},
            "spec": {"tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "registry.example/agent"}]}},
    }}))
    .unwrap();
    accepts(&sets, &set).await.unwrap();
    let name = format!("{}/agent", setup.tenant.namespace());
    let report = setup.preflight().await;
    let shown = report.to_string();
    assert!(report.passed() && shown.contains(&name), "{shown}");
    // The remedy, as it is printed.
    let command = shown
        .lines()
        .find(|line| line.contains("patch daemonset agent"))
        .unwrap();
    let patch = command.split('\'').nth(1).unwrap();
    let patch: serde_json::Value = serde_json::from_str(patch).unwrap();
    sets.patch("agent", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let shown = setup.preflight().await.to_string();
    assert!(!shown.contains(&name), "{shown}");
    sets.delete("agent", &DeleteParams::default()).await.unwrap();
}

/// Without it, root in a guest could relabel any Node and read any pod's Secrets.
#[tokio::test(flavor = "multi_thread")]
async fn no_vm_is_started_without_node_restriction() {
    logs();
    let options = ControlPlaneOptions {
        no_node_restriction: true,
        ..ControlPlaneOptions::default()
    };
    let env = TestEnv::start_on(options, 0, quick_config).await.unwrap();
    let setup = Setup::new(&env).await;
    let text = "enable the admission plugin NodeRestriction";
    setup
        .is_held("NodeRestrictionMissing", text, "unrestricted")
        .await;
    // What the check tries to make is not made.
    let nodes: Api<Node> = Api::all(setup.tenant.admin.clone());
    let nodes = nodes.list(&ListParams::default()).await.unwrap();
    let nodes: Vec<_> = nodes.iter().map(ResourceExt::name_any).collect();
    assert_eq!(nodes, ["host-1", "host-2", "host-3"]);
    setup.tenant.leaves().await.unwrap();
    setup.reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}
