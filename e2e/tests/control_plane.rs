//! The harness itself, on one real control plane: does it promise what the other tests build on?

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually, refused, rejects};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::control_plane::{ControlPlane, ControlPlaneOptions};
use maroonedpods_image_build::node_tools;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

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
async fn the_version_is_the_pinned_one() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let version = control_plane
        .admin()
        .await
        .unwrap()
        .apiserver_version()
        .await
        .unwrap();
    assert_eq!(
        version.git_version,
        node_tools::pinned_kubernetes_version().unwrap()
    );
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "36"));
    let nodes = control_plane
        .kubectl(&["get", "nodes", "--output", "name"])
        .await
        .unwrap();
    assert_eq!(nodes, "");
}

#[tokio::test]
async fn a_node_is_held_to_its_own_objects() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let node = control_plane
        .user("system:node:host-1", names::NODES_GROUP)
        .await
        .unwrap();
    let nodes: Api<Node> = Api::all(node.clone());
    let own: Node = from(json!({"metadata": {"name": "host-1"}}));
    accepts(&nodes, &own).await.unwrap();
    // Node authorizer: no Secret that none of its pods mounts.
    let message = refused(
        Api::<Secret>::namespaced(node, "kube-system")
            .list(&ListParams::default())
            .await,
    )
    .unwrap();
    assert!(message.contains("system:node:host-1"), "{message}");
    // NodeRestriction: no foreign Node, no label of the restricted kind.
    let other: Node = from(json!({"metadata": {"name": "host-2"}}));
    let message = rejects(&nodes, &other).await.unwrap();
    assert!(message.contains("is not allowed"), "{message}");
    let label = json!({"metadata": {"labels": {names::CLASS_LABEL: "true"}}});
    let message = refused(
        nodes
            .patch("host-1", &PatchParams::default(), &Patch::Merge(label))
            .await,
    )
    .unwrap();
    assert!(message.contains("node-restriction"), "{message}");

    let admin: Api<Node> = Api::all(control_plane.admin().await.unwrap());
    admin.delete("host-1", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn the_server_counts_writes() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let user = control_plane.user("counted", "system:masters").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(user, "default");
    let map: ConfigMap = from(json!({"metadata": {"name": "counted"}}));
    accepts(&maps, &map).await.unwrap();
    maps.get("counted").await.unwrap();
    let change = json!({"data": {"key": "value"}});
    maps.patch("counted", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
    maps.delete("counted", &DeleteParams::default()).await.unwrap();

    let events = eventually("four events", SOON, || async {
        let mut events = control_plane.audit()?;
        events.retain(|event| event.user == "counted");
        Ok((events.len() == 4).then_some(events))
    })
    .await
    .unwrap();
    let writes: Vec<_> = events.iter().filter(|event| event.is_write()).collect();
    let seen: Vec<_> = writes
        .iter()
        .map(|event| (event.verb.as_str(), event.code))
        .collect();
    assert_eq!(seen, [("create", 201), ("patch", 200), ("delete", 200)]);
    for write in writes {
        assert_eq!(
            (write.resource.as_str(), write.namespace.as_str()),
            ("configmaps", "default")
        );
        assert_eq!(write.name, "counted");
        assert!(write.received <= write.completed);
    }
}

#[tokio::test]
async fn a_test_namespace_comes_and_goes() {
    let admin = ControlPlane::shared().await.unwrap().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[("colour", "blue")]).await.unwrap();
    let name = namespace.name.clone();
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let found = namespaces.get(&name).await.unwrap();
    assert_eq!(found.metadata.labels.unwrap()["colour"], "blue");
    namespace.close(&admin).await.unwrap();
    assert!(namespaces.get_opt(&name).await.unwrap().is_none());
}

#[tokio::test]
async fn giving_up_shows_the_object_and_its_events() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let admin = control_plane.admin().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin, "default");
    let name = accepts(&pods, &pod(&json!({})))
        .await
        .unwrap()
        .metadata
        .name
        .unwrap();
    eventually("the scheduler's event", SOON, || async {
        let never = becomes(&pods, &name, "a pod that runs", Duration::ZERO, |_| false).await;
        let text = format!("{:?}", never.unwrap_err());
        assert!(
            text.contains("a pod that runs") && text.contains("image: registry.example/app"),
            "{text}"
        );
        Ok(text.contains("FailedScheduling").then_some(()))
    })
    .await
    .unwrap();
    pods.delete(&name, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
}

fn alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

#[tokio::test]
async fn stopping_leaves_no_process_and_no_folder() {
    let control_plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    let (processes, folder) = (control_plane.process_ids(), control_plane.folder().to_owned());
    assert_eq!(processes.len(), 4);
    assert!(processes.iter().all(|&process| alive(process)) && folder.exists());
    control_plane.stop().await.unwrap();
    assert!(!processes.iter().any(|&process| alive(process)));
    assert!(!folder.exists());
}
