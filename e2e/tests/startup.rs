//! The checks on the cluster, each broken and repaired on a live one: what the configuration, `/readyz`, a waiting pod
//! and `preflight` say, and that no credential is made meanwhile.
//!
//! The floor of Kubernetes itself and the absence of admission policies cannot be had on this control plane; their
//! verdicts are unit tests of `preflight::judge`.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Node, Secret, Service};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::ResourceExt;
use maroonedpods_common::api::{Condition, MaroonedPodsConfig};
use maroonedpods_common::names;
use maroonedpods_e2e::api::apply::apply_yaml;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually};
use maroonedpods_e2e::control_plane::ControlPlaneOptions;
use maroonedpods_e2e::fake_kubevirt::{install_crd, say_version};
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::{Running, TestEnv, quick_config};
use maroonedpods_e2e::install::dns::{self, DNS_ADDRESS};
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_reconciler::api::Cluster;
use maroonedpods_reconciler::crds;
use maroonedpods_reconciler::preflight::command::{Report, preflight};
use serde_json::json;

const VMI_CRD: &str = "virtualmachineinstances.kubevirt.io";
const KUBEVIRT_CRD: &str = "kubevirts.kubevirt.io";

/// An environment with a reconciler, and a tenant in it.
struct Setup<'w> {
    tenant: Tenant<'w>,
    reconciler: Running,
    cluster: Cluster,
}

impl<'w> Setup<'w> {
    async fn new(env: &'w TestEnv) -> Self {
        let tenant = Tenant::new(env, None).await.unwrap();
        let cluster = Cluster {
            client: tenant.admin.clone(),
            vm_namespace: names::VM_NAMESPACE.to_owned(),
        };
        Self {
            reconciler: env.reconciler(false).await.unwrap(),
            tenant,
            cluster,
        }
    }

    /// A change of the configuration has the cluster checked at once; waiting for the next check takes longer.
    async fn touch(&self) {
        let configs: Api<MaroonedPodsConfig> = Api::all(self.tenant.admin.clone());
        let config = configs.get(names::CONFIG_NAME).await.unwrap();
        let attempts = 2 + config.spec.max_attempts % 2;
        let patch = Patch::Merge(json!({"spec": {"maxAttempts": attempts}}));
        configs
            .patch(names::CONFIG_NAME, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Waits until the configuration says so of the cluster; its message.
    async fn says(&self, status: &str, reason: &str) -> String {
        let configs: Api<MaroonedPodsConfig> = Api::all(self.tenant.admin.clone());
        let said = |c: &Condition| c.status == status && c.reason == reason;
        let config = becomes(&configs, names::CONFIG_NAME, reason, SOON, |config| {
            cluster_ready(config).is_some_and(said)
        })
        .await
        .unwrap();
        cluster_ready(&config).unwrap().message.clone()
    }

    /// Waits until `/readyz` answers with this code, and this text in it.
    async fn is_ready(&self, code: &str, text: &str) {
        eventually(&format!("/readyz: {code} {text}"), SOON, || async {
            let answer = self.reconciler.get("/readyz").await?;
            let is_so = answer.starts_with(&format!("HTTP/1.0 {code}")) && answer.contains(text);
            anyhow::ensure!(is_so, "{answer}");
            Ok(Some(()))
        })
        .await
        .unwrap();
    }

    async fn preflight(&self) -> Report {
        preflight(&self.cluster, None).await.unwrap()
    }

    /// While `reason` keeps VMs from being started: every report says so, with this text, and a pod waits without end.
    async fn is_held(&self, reason: &str, text: &str, pod: &str) {
        let message = self.says("False", reason).await;
        assert!(message.contains(text), "{message}");
        self.is_ready("503", text).await;
        let report = self.preflight().await;
        let shown = report.to_string();
        assert!(
            !report.passed() && shown.contains(&format!("fail  {reason}: ")) && shown.contains(text),
            "{shown}"
        );
        let created = self.tenant.creates(&marooned(pod)).await.unwrap();
        let waiting = MaroonedPod::of(&self.tenant.admin, &created).unwrap();
        let message = waiting.reports("ClusterNotReady").await.unwrap();
        assert!(message.contains(text), "{message}");
        let tokens: Api<Secret> = Api::namespaced(self.tenant.admin.clone(), names::TOKEN_NAMESPACE);
        let ours = ListParams::default().labels(names::POD_UID_LABEL);
        assert_eq!(tokens.list(&ours).await.unwrap().items, []);
        assert_eq!(self.tenant.records().await.unwrap(), []);
    }

    /// Once the cluster is repaired: every report says so, and the pod that waited runs.
    async fn is_repaired(&self, pod: &str) {
        self.says("True", "Checked").await;
        self.is_ready("200", "ok").await;
        assert!(self.preflight().await.passed());
        self.tenant.sees_running(pod).await.unwrap();
        self.tenant.deletes(pod).await.unwrap();
        eventually("no record", SOON, || async {
            Ok(self.tenant.records().await?.is_empty().then_some(()))
        })
        .await
        .unwrap();
    }
}

fn cluster_ready(config: &MaroonedPodsConfig) -> Option<&Condition> {
    let conditions = &config.status.as_ref()?.conditions;
    conditions.iter().find(|c| c.type_ == "ClusterReady")
}

/// One cluster and one configuration, and each step breaks and repairs them: so they are steps, not tests of their own.
#[tokio::test(flavor = "multi_thread")]
async fn each_fault_holds_launches_until_it_is_repaired() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let setup = Setup::new(&env).await;
    setup.says("True", "Checked").await;
    setup.is_ready("200", "ok").await;

    somebody_else_approves(&setup).await;
    kubevirt_is_too_old(&setup).await;
    kubevirt_does_not_know_a_field(&setup).await;
    nobody_knows_which_kubevirt_it_is(&setup).await;
    names_are_not_resolved(&setup).await;
    a_daemon_set_follows_us(&setup).await;
    setup.tenant.leaves().await.unwrap();
    setup.reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

async fn somebody_else_approves(setup: &Setup<'_>) {
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
    say_version(&setup.tenant.admin, "v1.7.0").await.unwrap();
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
async fn nobody_knows_which_kubevirt_it_is(setup: &Setup<'_>) {
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
    let asked: Api<Node> = Api::all(setup.tenant.admin.clone());
    assert_eq!(asked.get_opt(names::PREFLIGHT_NODE).await.unwrap(), None);
    setup.tenant.leaves().await.unwrap();
    setup.reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

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

/// What helm installs once is upgraded by this, as often as one likes.
#[tokio::test(flavor = "multi_thread")]
async fn crds_are_applied_again_and_a_stored_version_is_not_dropped() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let cluster = Cluster {
        client: admin.clone(),
        vm_namespace: names::VM_NAMESPACE.to_owned(),
    };
    let name = "maroonednodes.maroonedpods.io";
    let all: Api<CustomResourceDefinition> = Api::all(admin.clone());
    // A column that this program does not know, as an older version's chart would have left.
    let column = json!([{"op": "replace", "path": "/spec/versions/0/additionalPrinterColumns", "value": []}]);
    let patch = Patch::<()>::Json(serde_json::from_value(column).unwrap());
    all.patch(name, &PatchParams::default(), &patch).await.unwrap();
    crds::apply(&cluster).await.unwrap();
    let once = all.get(name).await.unwrap();
    assert!(once.spec.versions[0].additional_printer_columns.is_some());
    crds::apply(&cluster).await.unwrap();
    assert_eq!(
        all.get(name).await.unwrap().resource_version(),
        once.resource_version()
    );

    // Objects may be stored in a version that this program does not have.
    let mut newer = serde_json::to_value(&once).unwrap();
    let mut next = newer["spec"]["versions"][0].clone();
    newer["spec"]["versions"][0]["storage"] = json!(false);
    next["name"] = json!("v1");
    newer["spec"]["versions"].as_array_mut().unwrap().push(next);
    newer["apiVersion"] = json!("apiextensions.k8s.io/v1");
    newer["kind"] = json!("CustomResourceDefinition");
    newer["metadata"] = json!({"name": name});
    apply_yaml(&admin, &newer.to_string()).await.unwrap();
    let refused = crds::apply(&cluster).await.unwrap_err().to_string();
    assert!(
        refused.contains(name) && refused.contains("status.storedVersions"),
        "{refused}"
    );
    env.stop().await.unwrap();
}
