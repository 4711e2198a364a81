//! The chart on a real control plane: what it installs, refuses, selects and allows.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

mod crds;
mod network;
mod objects;
mod rights;
mod values;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use maroonedpods_common::api::{MaroonedPodsConfig, MaroonedPodsConfigSpec};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::control_plane::ControlPlane;
use maroonedpods_e2e::install::{InstallValues, SYSTEM_NAMESPACE, install};
use serde_json::{Value, json};

const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";
const SOON: Duration = Duration::from_secs(30);
/// Any certificate: the API server wants to see one.
const A_CERTIFICATE: &str = include_str!("certificate.pem");

/// The shared control plane with the chart on it.
async fn installed() -> (&'static ControlPlane, Client) {
    static INSTALLED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let control_plane = ControlPlane::shared().await.unwrap();
    INSTALLED
        .get_or_init(|| async {
            let config: MaroonedPodsConfigSpec = serde_json::from_value(config_spec()).unwrap();
            install(control_plane, &values(control_plane, Some(config)))
                .await
                .unwrap();
        })
        .await;
    (control_plane, control_plane.admin().await.unwrap())
}

fn values(control_plane: &ControlPlane, config: Option<MaroonedPodsConfigSpec>) -> InstallValues {
    InstallValues {
        // No program listens there: an opted-in pod is refused.
        webhook_url: "https://127.0.0.1:1".to_owned(),
        ca_bundle: control_plane.ca_pem(),
        config,
        more: json!(null),
    }
}

fn config_spec() -> Value {
    json!({"nodeImage": "registry.example/node@sha256:0", "join": {"serverURL": "https://10.0.0.1:6443"}})
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(labels: &Value) -> Pod {
    from(json!({
        "metadata": {"generateName": "pod-", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app"}]},
    }))
}

#[tokio::test]
async fn the_chart_installs_and_installs_again() {
    let (control_plane, admin) = installed().await;
    install(control_plane, &values(control_plane, None))
        .await
        .unwrap();
    let vms = Api::<Namespace>::all(admin.clone())
        .get(names::VM_NAMESPACE)
        .await
        .unwrap();
    let level = vms
        .metadata
        .labels
        .unwrap()
        .remove("pod-security.kubernetes.io/enforce");
    assert_eq!(level.as_deref(), Some("privileged"));
    let config = Api::<MaroonedPodsConfig>::all(admin)
        .get(names::CONFIG_NAME)
        .await
        .unwrap();
    assert_eq!(
        config.spec,
        serde_json::from_value(config_spec()).unwrap(),
        "server's and our defaults differ"
    );
}

#[tokio::test]
async fn only_opted_in_pods_need_the_webhook() {
    let (_, admin) = installed().await;
    let label = names::MAROON_LABEL;
    // (labels of the namespace, labels of the pod, the entry that reviews it)
    let cases = [
        (vec![], json!({}), None),
        (vec![], json!({label: "false"}), None),
        (vec![], json!({label: "true"}), Some("pods.maroonedpods.io")),
        (
            vec![(label, "true")],
            json!({}),
            Some("namespaces.maroonedpods.io"),
        ),
        (
            vec![(label, "true")],
            json!({label: "true"}),
            Some("pods.maroonedpods.io"),
        ),
        (vec![(label, "true")], json!({label: "false"}), None),
        (
            vec![(label, "enforced")],
            json!({}),
            Some("enforced.maroonedpods.io"),
        ),
        (
            vec![(label, "enforced")],
            json!({label: "false"}),
            Some("enforced.maroonedpods.io"),
        ),
        (
            vec![(label, "enforced")],
            json!({label: "true"}),
            Some("pods.maroonedpods.io"),
        ),
    ];
    for (namespace_labels, labels, entry) in cases {
        let namespace = TestNamespace::new(&admin, &namespace_labels).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace.name);
        match (entry, pods.create(&PostParams::default(), &pod(&labels)).await) {
            (None, Ok(_)) => {}
            (Some(entry), Err(error)) => {
                assert!(
                    error.to_string().contains(&format!("webhook \"{entry}\"")),
                    "{error}"
                );
            }
            (_, answer) => panic!("{namespace_labels:?} {labels}: {answer:?}"),
        }
        let namespaces: Api<Namespace> = Api::all(admin.clone());
        namespaces
            .delete(&namespace.name, &DeleteParams::default())
            .await
            .unwrap();
    }
    // Nothing of ours hinders the cluster's own components, whatever their labels say.
    for namespace in ["kube-system", names::VM_NAMESPACE, SYSTEM_NAMESPACE] {
        let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
        let made = eventually("the pod", SOON, || async {
            accepts(&pods, &pod(&json!({label: "true"}))).await.map(Some)
        });
        let name = made.await.unwrap().metadata.name.unwrap();
        pods.delete(&name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }
}
