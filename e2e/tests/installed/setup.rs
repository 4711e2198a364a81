//! A cluster of real nodes with the released chart on it, and a fake KubeVirt beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::cluster::{Cluster, REAL_LABEL};
use maroonedpods_e2e::fake_kubevirt::{FakeKubeVirt, FakeKubeVirtOptions, QUICK_TEARDOWN, install_crd};
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::test_env::wait_for_default_account;
use maroonedpods_e2e::harness::writes::careless;
use maroonedpods_e2e::install::dns;
use maroonedpods_e2e::install::rights::{all_used, denied, granted};
use maroonedpods_e2e::install::{RELEASE, SYSTEM_NAMESPACE, helm, programs_outside, render};
use maroonedpods_image_build::program_images::images;
use maroonedpods_reconciler::CERTS_SECRET;
use serde_json::{Value, json};

/// By which an administrator asks for a new certificate (`docs/certificates.md`).
const ROTATE: &str = "maroonedpods.io/rotate";
const HOSTS: u32 = 3;
const NODE_IMAGE: &str = "registry.example/marooned-node@sha256:0000";
/// The kubelet looks at mounted Secrets once a minute or so.
const ROTATION_LIMIT: Duration = Duration::from_secs(300);
/// The release that was installed before this one: the chart as it landed on 2026-11-27, as version 0.0.1, with the CRDs
/// of the day before, which helm then never upgrades by itself. Keep the last landed chart here when a CRD changes
/// (`helm package --version 0.0.1`).
pub const FORMER_CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/installed/former-chart.tgz");

/// The cluster, and helm for it.
pub struct Setup<'a> {
    cluster: &'a Cluster,
    pub admin: Client,
    values: Value,
    values_file: PathBuf,
}

impl<'a> Setup<'a> {
    /// Imports our images, and makes what KubeVirt's installation makes.
    pub async fn new(cluster: &'a Cluster) -> Self {
        let images = tokio::task::spawn_blocking(images).await.unwrap().unwrap();
        for image in [&images.webhook, &images.reconciler] {
            cluster.import(&image.archive).await.unwrap();
        }
        let admin = cluster.control_plane().admin().await.unwrap();
        install_crd(&admin).await.unwrap();
        dns::make_service(&admin).await.unwrap();
        let on_real_nodes = json!({"nodeSelector": {REAL_LABEL: "true"}});
        let values = json!({
            "image": {"registry": "localhost", "pullPolicy": "Never"},
            "webhook": on_real_nodes,
            "reconciler": on_real_nodes,
            // The least content, as docs/install.md has it.
            "config": {"nodeImage": NODE_IMAGE, "join": {"serverURL": cluster.control_plane().server_url()}},
        });
        let file = cluster.control_plane().folder().join("values.json");
        fs::write(&file, values.to_string()).unwrap();
        Self {
            cluster,
            admin,
            values,
            values_file: file,
        }
    }

    /// Starts the fake KubeVirt: its hosts are not real nodes, and its guests are simulated.
    pub async fn kubevirt(&self) -> FakeKubeVirt {
        wait_for_default_account(&self.admin, names::VM_NAMESPACE)
            .await
            .unwrap();
        FakeKubeVirt::start(FakeKubeVirtOptions {
            control_plane: self.cluster.control_plane(),
            vm_namespace: names::VM_NAMESPACE.to_owned(),
            hosts: (1..=HOSTS).map(|index| format!("host-{index}")).collect(),
            teardown: QUICK_TEARDOWN,
            seed: 0,
        })
        .await
        .unwrap()
    }

    /// Whether the CRD of configurations has the field that [`FORMER_CHART`]'s lacks: unknown ones are pruned.
    pub async fn configurations_have_an_architecture(&self) -> bool {
        let kind = GroupVersionKind::gvk("maroonedpods.io", "v1alpha1", "MaroonedPodsConfig");
        let configs: Api<DynamicObject> = Api::all_with(self.admin.clone(), &ApiResource::from_gvk(&kind));
        let tried = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({"spec": {"architecture": "arm64"}}));
        let patched = configs.patch(names::CONFIG_NAME, &tried, &patch).await.unwrap();
        patched.data["spec"]["architecture"] == "arm64"
    }

    /// Runs helm. The error holds helm's standard error, hooks' output among it.
    pub async fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let kubeconfig = self.cluster.control_plane().kubeconfig().display().to_string();
        helm(&[arguments, &["--kubeconfig", &kubeconfig]].concat()).await
    }

    /// `helm install` or `helm upgrade`, until everything is ready.
    pub async fn release(&self, verb: &str, chart: &Path, more: &[&str]) -> String {
        let (chart, values) = (
            chart.display().to_string(),
            self.values_file.display().to_string(),
        );
        let mut arguments = vec![
            verb,
            RELEASE,
            &chart,
            "--values",
            &values,
            "--wait",
            "--timeout",
            "4m",
        ];
        if verb == "install" {
            arguments.push("--create-namespace");
        }
        arguments.extend(more);
        match self.helm(&arguments).await {
            Ok(notes) => notes,
            Err(error) => panic!("{error:#}\n{}", self.pods(SYSTEM_NAMESPACE).await),
        }
    }

    /// What administrators would look at when a namespace's pods are not as they should be.
    pub async fn pods(&self, namespace: &str) -> String {
        let control_plane = self.cluster.control_plane();
        let mut seen = String::new();
        for arguments in [
            ["get", "pods,replicasets", "--output", "wide"].as_slice(),
            &["get", "events"],
            &[
                "logs",
                "--selector",
                "app.kubernetes.io/name=maroonedpods",
                "--prefix",
            ],
        ] {
            let arguments = [&["--namespace", namespace], arguments].concat();
            match control_plane.kubectl(&arguments).await {
                Ok(text) => seen += &text,
                Err(error) => seen += &error.to_string(),
            }
        }
        seen
    }

    /// Asks for a new certificate as an administrator does, and waits until nothing of the former is left.
    pub async fn rotate(&self) {
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), SYSTEM_NAMESPACE);
        let asked = Patch::Merge(json!({"metadata": {"annotations": {ROTATE: "now"}}}));
        secrets
            .patch(CERTS_SECRET, &PatchParams::default(), &asked)
            .await
            .unwrap();
        let registrations: Api<MutatingWebhookConfiguration> = Api::all(self.admin.clone());
        eventually("the rotation to be over", ROTATION_LIMIT, || async {
            let secret = secrets.get(CERTS_SECRET).await?;
            let asked = secret.annotations().contains_key(ROTATE);
            let data = secret.data.unwrap_or_default();
            let ca = data.get("ca.crt");
            let entries = registrations.get(RELEASE).await?.webhooks.unwrap_or_default();
            let alone = entries
                .iter()
                .all(|entry| entry.client_config.ca_bundle.as_ref() == ca);
            Ok((!asked && !data.contains_key("next-tls.crt") && alone).then_some(()))
        })
        .await
        .unwrap();
    }

    /// Checks the rights that only programs in the cluster have, those of hooks among them: each was used. The
    /// others' uses are seen on control planes without nodes (`tests/rbac.rs`).
    pub async fn rights_are_least(&self) {
        let control_plane = self.cluster.control_plane();
        let mut rights = granted(&render(&self.values).await.unwrap()).unwrap();
        let outside = programs_outside("https://127.0.0.1:1", &control_plane.ca_pem());
        let outside = granted(&render(&outside).await.unwrap()).unwrap();
        rights.retain(|right| !outside.contains(right));
        assert!(rights.len() > 10, "{rights:?}");
        eventually("a use of each right", SOON, || async {
            all_used(&rights, &control_plane.audit()?)
        })
        .await
        .unwrap();
    }

    /// Checks that no call of ours was denied, and no write lacked a precondition. Call it before the end: helm removes roles
    /// while a reconciler still stops.
    pub fn nothing_was_denied(&self) {
        let log = self.cluster.control_plane().audit().unwrap();
        let denied = denied(&log);
        assert!(denied.is_empty(), "denied:\n{}", denied.join("\n"));
        let careless = careless(&log);
        assert!(careless.is_empty(), "careless:\n{}", careless.join("\n"));
    }

    /// How many pods of each Deployment are ready, by name.
    pub async fn ready(&self, deployment: &str) -> i32 {
        let deployments: Api<Deployment> = Api::namespaced(self.admin.clone(), SYSTEM_NAMESPACE);
        let status = deployments.get(deployment).await.unwrap().status.unwrap();
        status.ready_replicas.unwrap_or_default()
    }

    /// Says that marooned pods may be ended, as the chart's notes tell to.
    pub async fn allow_force(&self) {
        let maps: Api<ConfigMap> = Api::namespaced(self.admin.clone(), SYSTEM_NAMESPACE);
        let patch = json!({"data": {"force": "true"}});
        maps.patch(
            "maroonedpods-uninstall",
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .unwrap();
    }
}
