//! Helm itself with the chart, on a real API server: what it does beyond rendering. No kubelet is there, so pods
//! never run; where a hook's must have, its end is written by hand.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, ObjectList, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::api::MaroonedPodsConfig;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::control_plane::{ControlPlane, ControlPlaneOptions};
use maroonedpods_e2e::install::{RELEASE, SYSTEM_NAMESPACE, chart, helm};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
const CONFIG: [&str; 2] = [
    "config.nodeImage=registry.example/node@sha256:0",
    "config.join.serverURL=https://10.0.0.1:6443",
];

/// A control plane of its own, and helm for it.
struct Setup {
    control_plane: ControlPlane,
    admin: Client,
}

impl Setup {
    async fn new() -> Self {
        let control_plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
        let admin = control_plane.admin().await.unwrap();
        Self { control_plane, admin }
    }

    async fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let kubeconfig = self.control_plane.kubeconfig().display().to_string();
        helm(&[arguments, &["--kubeconfig", &kubeconfig]].concat()).await
    }

    /// `helm install` or `helm upgrade`, with a configuration and these values.
    async fn release(&self, verb: &str, values: &[&str]) -> anyhow::Result<String> {
        let chart = chart().display().to_string();
        let mut arguments = vec![verb, RELEASE, &chart, "--no-hooks", "--wait=hookOnly"];
        if verb == "install" {
            arguments.push("--create-namespace");
        }
        for value in CONFIG.iter().chain(values) {
            arguments.extend(["--set", value]);
        }
        self.helm(&arguments).await
    }

    async fn configuration(&self) -> MutatingWebhookConfiguration {
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(self.admin.clone());
        configurations.get(RELEASE).await.unwrap()
    }

    /// What helm said has become of the release.
    async fn status(&self) -> String {
        let status = self.helm(&["status", RELEASE, "--output", "json"]).await.unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["info"]["status"].as_str().unwrap().to_owned()
    }

    /// Waits for the pod of the Job `job`, and lets it fail.
    async fn fail(&self, job: &str) {
        let pods: Api<Pod> = Api::namespaced(self.admin.clone(), SYSTEM_NAMESPACE);
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        let name = eventually("the hook's pod", SOON, || async {
            let found = pods.list(&of_job).await?;
            Ok(found.items.first().map(ResourceExt::name_any))
        })
        .await
        .unwrap();
        let failed = Patch::Merge(json!({"status": {"phase": "Failed", "containerStatuses": [{
            "name": "uninstall", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": 1}},
        }]}}));
        pods.patch_status(&name, &PatchParams::default(), &failed)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_installed_upgraded_and_removed_in_order() {
    let setup = Setup::new().await;
    let everywhere: DaemonSet = serde_json::from_value(json!({
        "metadata": {"name": "everywhere"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "registry.example/agent"}],
            },
        }},
    }))
    .unwrap();
    let daemon_sets: Api<DaemonSet> = Api::namespaced(setup.admin.clone(), "default");
    accepts(&daemon_sets, &everywhere).await.unwrap();

    // CRDs come first: a configuration can be part of the first install.
    let notes = setup.release("install", &[]).await.unwrap();
    let configs: Api<MaroonedPodsConfig> = Api::all(setup.admin.clone());
    configs.get(names::CONFIG_NAME).await.unwrap();
    let patch = notes
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("kubectl --namespace default patch daemonset everywhere ")
        })
        .unwrap_or_else(|| panic!("{notes}"));
    let (_, patch) = patch.split_once("--patch '").unwrap();
    let patch: serde_json::Value = serde_json::from_str(patch.trim_end_matches('\'')).unwrap();
    daemon_sets
        .patch("everywhere", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();

    // The program that makes the certificates writes caBundle; helm leaves alone what it does not render.
    let mut configuration = setup.configuration().await;
    for webhook in configuration.webhooks.iter_mut().flatten() {
        webhook.client_config.ca_bundle =
            Some(k8s_openapi::ByteString(setup.control_plane.ca_pem().into_bytes()));
    }
    configuration.metadata.managed_fields = None;
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(setup.admin.clone());
    configurations
        .replace(RELEASE, &kube::api::PostParams::default(), &configuration)
        .await
        .unwrap();
    let notes = setup.release("upgrade", &["webhook.replicas=3"]).await.unwrap();
    assert!(
        !notes.contains("everywhere"),
        "a patched DaemonSet is listed:\n{notes}"
    );
    for webhook in setup.configuration().await.webhooks.into_iter().flatten() {
        assert!(webhook.client_config.ca_bundle.is_some(), "{}", webhook.name);
    }

    setup.helm(&["uninstall", RELEASE, "--no-hooks"]).await.unwrap();
    // The server writes an event shortly after its answer.
    let deleted = eventually("the configuration's deletion in the log", SOON, || async {
        let mut deleted = setup.control_plane.audit()?;
        // Secrets are helm's own record of the release.
        deleted.retain(|event| {
            event.verb == "delete" && event.user_agent.starts_with("Helm/") && event.resource != "secrets"
        });
        let deleted: Vec<_> = deleted.into_iter().map(|event| event.resource).collect();
        Ok(deleted
            .contains(&"maroonedpodsconfigs".to_owned())
            .then_some(deleted))
    })
    .await
    .unwrap();
    let place = |resource: &str| deleted.iter().position(|deleted| deleted == resource);
    assert_eq!(place("mutatingwebhookconfigurations"), Some(0), "{deleted:?}");
    assert!(place("deployments") < place("clusterroles"), "{deleted:?}");
    // Kinds that helm does not know, in the order of their names: guards are the last.
    let known = place("priorityclasses").unwrap();
    assert_eq!(place("maroonedpodsconfigs"), Some(known + 1), "{deleted:?}");
    assert!(
        deleted[known + 2..]
            .iter()
            .all(|resource| resource.starts_with("validatingadmissionpolic")),
        "{deleted:?}"
    );
    // Records, and VMs that may still run, are not helm's to drop.
    let crds: Api<CustomResourceDefinition> = Api::all(setup.admin.clone());
    assert_eq!(crds.list(&ListParams::default()).await.unwrap().items.len(), 2);
    let namespaces: Api<Namespace> = Api::all(setup.admin.clone());
    let vms = namespaces.get(names::VM_NAMESPACE).await.unwrap();
    assert!(vms.metadata.deletion_timestamp.is_none());
    // Guests' certificates outlive the release: what they may do stays guarded, which does not hinder the next release.
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(setup.admin.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(setup.admin.clone());
    let kept = ["maroonedpods-guest-certificates", "maroonedpods-guest-node"];
    let all = ListParams::default();
    assert_eq!(names_of(&policies.list(&all).await.unwrap()), kept);
    assert_eq!(names_of(&bindings.list(&all).await.unwrap()), kept);
    setup.release("install", &[]).await.unwrap();
    setup.control_plane.stop().await.unwrap();
}

/// The chart's schema leaves the fields of the configuration to the API server.
#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_configuration_is_refused() {
    let setup = Setup::new().await;
    let refused = setup.release("install", &["config.maxAttempt=2"]).await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("spec.maxAttempt"), "{message}");
    setup.control_plane.stop().await.unwrap();
}

fn names_of<K: ResourceExt + Clone>(list: &ObjectList<K>) -> Vec<String> {
    list.iter().map(ResourceExt::name_any).collect()
}

/// The notes promise both ways out; helm's own records decide whether they exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_uninstall_can_be_repeated_and_taken_back() {
    let setup = Setup::new().await;
    setup.release("install", &[]).await.unwrap();
    for _ in 0..2 {
        let uninstall = ["uninstall", RELEASE, "--timeout", "60s"];
        let (refused, ()) = tokio::join!(setup.helm(&uninstall), setup.fail("maroonedpods-uninstall"));
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("maroonedpods-uninstall not ready"), "{message}");
        // Kept until the next try, for a look at it; its account is gone meanwhile.
        let accounts =
            setup
                .control_plane
                .kubectl(&["--namespace", SYSTEM_NAMESPACE, "get", "serviceaccounts"]);
        let accounts = accounts.await.unwrap();
        assert!(!accounts.contains("maroonedpods-uninstall"), "{accounts}");
        assert_eq!(setup.status().await, "uninstalling");
        // The pod of this try must not be taken for that of the next.
        let pods: Api<Pod> = Api::namespaced(setup.admin.clone(), SYSTEM_NAMESPACE);
        let hooks = ListParams::default().labels("app.kubernetes.io/component=hook");
        pods.delete_collection(&DeleteParams::default().grace_period(0), &hooks)
            .await
            .unwrap();
    }
    let message = setup.release("upgrade", &[]).await.unwrap_err().to_string();
    assert!(message.contains("has no deployed releases"), "{message}");
    setup
        .helm(&["rollback", RELEASE, "1", "--no-hooks"])
        .await
        .unwrap();
    assert_eq!(setup.status().await, "deployed");
    setup.configuration().await;
    setup.control_plane.stop().await.unwrap();
}
