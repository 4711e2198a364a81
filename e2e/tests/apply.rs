//! Bare pods from manifests that are applied again and again, as people and delivery tools do.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;
use kube::core::ObjectMeta;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::rejects;
use maroonedpods_e2e::api::read::gates;
use maroonedpods_e2e::harness::fixtures::{labelled, marooned, with_spec};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::system::logs::logs;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How a manifest is applied.
const WAYS: [&[&str]; 3] = [
    &["apply"],
    &["apply", "--server-side"],
    &["apply", "--server-side", "--force-conflicts"],
];

/// A folder with one manifest.
struct Manifest {
    _folder: TempDir,
    path: PathBuf,
}

impl Manifest {
    fn of(pod: &Pod) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod.json");
        let mut pod = serde_json::to_value(pod).unwrap();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        std::fs::write(&path, pod.to_string()).unwrap();
        Self {
            _folder: folder,
            path,
        }
    }

    async fn kubectl(&self, tenant: &Tenant<'_>, command: &[&str]) -> String {
        let file = [
            "--namespace",
            tenant.namespace(),
            "--filename",
            self.path.to_str().unwrap(),
        ];
        let said = tenant
            .env
            .control_plane()
            .kubectl(&[command, &file].concat())
            .await;
        said.unwrap()
    }

    /// Applies it again, each way that follows on the first, and asks what would change: nothing.
    async fn holds(&self, tenant: &Tenant<'_>, way: &[&str]) {
        for _ in 0..2 {
            let said = self.kubectl(tenant, way).await;
            assert!(!said.contains("created"), "{said}");
        }
        let diff: &[&str] = if way.len() == 1 {
            &["diff"]
        } else {
            &["diff", "--server-side"]
        };
        assert_eq!(self.kubectl(tenant, diff).await, "");
    }
}

fn tolerations() -> Value {
    json!([{"key": "team", "operator": "Equal", "value": "blue", "effect": "NoSchedule"}])
}

/// Manifests whose author wrote something where we add something.
fn pods_of(way: usize) -> Vec<Pod> {
    let selector = json!({"kubernetes.io/os": "linux"});
    let pod = |name: &str, more: &[(&str, &Value)]| {
        let mut spec = maroonedpods_e2e::harness::fixtures::spec();
        for (field, value) in more {
            spec[*field] = (*value).clone();
        }
        labelled(with_spec(&format!("{name}-{way}"), spec), names::MAROON_TRUE)
    };
    let tolerations = tolerations();
    vec![
        pod("tolerations", &[("tolerations", &tolerations)]),
        pod("selector", &[("nodeSelector", &selector)]),
        pod(
            "both",
            &[("tolerations", &tolerations), ("nodeSelector", &selector)],
        ),
        // As in a manifest that was exported.
        pod("scheduler", &[("schedulerName", &json!("default-scheduler"))]),
    ]
}

fn never_boots(mut pod: Pod) -> Pod {
    let script = json!({"neverBoots": true}).to_string();
    pod.annotations_mut()
        .insert("fake-kubevirt.test/script".to_owned(), script);
    pod
}

fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap()
}

/// Both the author's and ours.
fn placement(pod: &Pod) -> [Value; 3] {
    let spec = spec(pod);
    [
        json!(spec.tolerations),
        json!(spec.node_selector),
        json!(spec.scheduler_name),
    ]
}

/// Updates that take nothing of ours, such as the lift and all that kubelets and controllers write, are not asked about.
async fn asked_only_where_something_was_lost(tenant: &Tenant<'_>) {
    let asked = async |result: &str| {
        let series = format!("maroonedpods_webhook_admission_requests_total{{result=\"{result}\"}}");
        tenant.env.webhook().metric(&series).await.unwrap()
    };
    assert!(asked("restored").await > 0.5);
    assert!(asked("complete").await < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_pod_is_applied_again() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    for (index, way) in WAYS.iter().enumerate() {
        for pod in pods_of(index) {
            let name = pod.name_any();
            let manifest = Manifest::of(&never_boots(pod));
            manifest.kubectl(&tenant, way).await;
            let created = tenant.pods.get(&name).await.unwrap();
            manifest.holds(&tenant, way).await;
            let pod = tenant.pods.get(&name).await.unwrap();
            assert_eq!(placement(&pod), placement(&created), "{name}");
            assert_eq!(placement(&pod)[2], names::SCHEDULER_NAME);
            assert_eq!(gates(&pod), [names::GATE]);
        }
    }
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_is_applied_again() {
    let tenant = Tenant::shared(None).await.unwrap();
    let mut applied = Vec::new();
    for (index, way) in WAYS.iter().enumerate() {
        for pod in pods_of(index) {
            let manifest = Manifest::of(&pod);
            manifest.kubectl(&tenant, way).await;
            applied.push((pod.name_any(), manifest, way));
        }
    }
    for (name, manifest, way) in applied {
        let running = tenant.sees_running(&name).await.unwrap();
        manifest.holds(&tenant, way).await;
        let pod = tenant.pods.get(&name).await.unwrap();
        assert_eq!(placement(&pod), placement(&running), "{name}");
        let uid = pod.uid().unwrap();
        let selector = spec(&pod).node_selector.as_ref().unwrap();
        assert_eq!(selector.get(names::IDENTITY_LABEL), Some(&uid));
        tenant.sees_running(&name).await.unwrap();
    }
    asked_only_where_something_was_lost(&tenant).await;
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_tolerates_more_is_taken() {
    let tenant = Tenant::shared(None).await.unwrap();
    for (index, way) in WAYS.iter().enumerate() {
        let mut pod = pods_of(index).remove(0);
        Manifest::of(&pod).kubectl(&tenant, way).await;
        let running = tenant.sees_running(&pod.name_any()).await.unwrap();
        let mut more = tolerations();
        more.as_array_mut()
            .unwrap()
            .push(json!({"key": "more", "operator": "Exists"}));
        pod.spec.as_mut().unwrap().tolerations = serde_json::from_value(more).unwrap();
        Manifest::of(&pod).kubectl(&tenant, way).await;
        let pod = tenant.pods.get(&pod.name_any()).await.unwrap();
        let (before, after) = (&spec(&running).tolerations, &spec(&pod).tolerations);
        let (before, after) = (before.as_ref().unwrap(), after.as_ref().unwrap());
        assert_eq!(after.len(), before.len() + 1);
        assert!(before.iter().all(|old| after.contains(old)), "{after:?}");
    }
    tenant.leaves().await.unwrap();
}

/// A copy brings along what ties the original to its node: by `kubectl debug`, which leaves the labels behind or keeps
/// them, and from a backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_running_pod_is_refused() {
    let tenant = Tenant::shared(None).await.unwrap();
    let guard = "maroonedpods-pod-create";
    tenant.creates(&marooned("original")).await.unwrap();
    let original = tenant.sees_running("original").await.unwrap();
    for keep_labels in ["--keep-labels=false", "--keep-labels=true"] {
        let debug = [
            "--namespace",
            tenant.namespace(),
            "debug",
            "original",
            "--copy-to=copy",
            "--container=app",
            "--image=registry.example/debug",
            keep_labels,
        ];
        let refused = tenant.env.control_plane().kubectl(&debug).await.unwrap_err();
        assert!(refused.to_string().contains(guard), "{keep_labels}: {refused}");
    }
    let mut backup = original.clone();
    backup.metadata = ObjectMeta {
        name: Some("restored".to_owned()),
        labels: original.metadata.labels,
        ..ObjectMeta::default()
    };
    backup.status = None;
    backup.spec.as_mut().unwrap().node_name = None;
    let refused = rejects(&tenant.pods, &backup).await.unwrap();
    assert!(refused.contains(guard), "{refused}");
    tenant.leaves().await.unwrap();
}
