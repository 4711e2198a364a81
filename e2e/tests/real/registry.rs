//! Images that a guest pulls itself. All others' are in the node image.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, Secret};
use maroonedpods_e2e::api::check::becomes;
use maroonedpods_e2e::api::read::{self, condition};
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use maroonedpods_e2e::harness::real_env::RUNS;
use maroonedpods_e2e::harness::registry::{PASSWORD, Registry, USER, printing};
use serde_json::{Value, json};

use crate::sizes::Size;
use crate::user::{Setup, User, container, shell_with};

/// The image's name on the host nodes, from where it is pushed.
const IMAGE: &str = "localhost/pulled:1";
/// Its name in the registry.
const NAME: &str = "team/pulled:1";
/// What the image prints. No layer of it is in the node image.
const PROOF: &str = "an image from a registry\n";

/// A pod whose containers' images are in a registry: one is for everyone, the other one for who has credentials. The same
/// pod runs with the pull secret, and without it is refused that one image.
///
/// The node image believes only public authorities, and containerd speaks plain HTTP only to its own machine. So the pod
/// is on its guest's network, where a container of its own passes two ports on to the registry.
pub async fn is_pulled_from(setup: &Setup<'_>, program: &Path) {
    let _room = setup.room_for(1).await;
    let cluster = setup.env.cluster();
    let registry = Registry::start(program, cluster.address()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("pulled.tar");
    let image = printing(IMAGE, PROOF).unwrap().archive().unwrap();
    fs::write(&archive, image.bytes).unwrap();
    cluster.import(&archive).await.unwrap();
    let pushed = format!("{}/{NAME}", registry.open);
    cluster.push(IMAGE, &pushed).await.unwrap();

    let user = User::new(setup, "registry").await;
    let login = json!({"auths": {"localhost:5001": {"username": USER, "password": PASSWORD}}});
    let _: Secret = user
        .applies(json!({
            "metadata": {"name": "login"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": login.to_string()},
        }))
        .await;
    is_refused_without_credentials(&user, &registry).await;
    is_pulled_with_credentials(&user, &registry).await;
    user.leaves().await;
}

fn pod(registry: &Registry, more: &Value) -> Value {
    let script = format!(
        "/testserver forward 127.0.0.1:5000 {} & exec /testserver forward 127.0.0.1:5001 {}",
        registry.open, registry.closed
    );
    let more_of_it = json!({
        "restartPolicy": "Always",
        "startupProbe": {"tcpSocket": {"host": "127.0.0.1", "port": 5001}, "periodSeconds": 1, "failureThreshold": 120},
    });
    let pulled = |name: &str, port: u16| json!({"name": name, "image": format!("localhost:{port}/{NAME}"), "imagePullPolicy": "Always"});
    let mut spec = json!({
        "hostNetwork": true,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "containers": [pulled("open", 5000), pulled("closed", 5001)],
        "initContainers": [shell_with("way", &script, more_of_it)],
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

async fn is_refused_without_credentials(user: &User<'_>, registry: &Registry) {
    let spec = pod(registry, &json!({}));
    let pod = user.creates("without", Size("110m", "130Mi"), spec).await;
    starts_to_pull(&pod).await;
    let refused = |pod: &Pod| {
        let waiting = container(pod, "closed").and_then(|closed| closed.state.as_ref()?.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        is_running(pod, "open") && matches!(reason, Some("ErrImagePull" | "ImagePullBackOff"))
    };
    becomes(&pod.pods, "without", "an image that is refused", RUNS, refused)
        .await
        .unwrap();
    user.sees_event("without", "Failed", "no basic auth credentials")
        .await;
    user.kubectl(&["get", "events", "--field-selector", "reason=Failed"])
        .await;
    pod.ends().await.unwrap();
}

async fn is_pulled_with_credentials(user: &User<'_>, registry: &Registry) {
    let spec = pod(registry, &json!({"imagePullSecrets": [{"name": "login"}]}));
    let pod = user.creates("with", Size("120m", "140Mi"), spec).await;
    starts_to_pull(&pod).await;
    let both = |pod: &Pod| is_running(pod, "open") && is_running(pod, "closed");
    becomes(&pod.pods, "with", "two images that are pulled", RUNS, both)
        .await
        .unwrap();
    for (name, port) in [("open", 5000), ("closed", 5001)] {
        let reference = format!("localhost:{port}/{NAME}");
        let pulled = format!("Successfully pulled image \"{reference}\"");
        user.sees_event("with", "Pulled", &pulled).await;
        assert_eq!(user.kubectl(&["logs", "with", "-c", name]).await, PROOF);
    }
    pod.ends().await.unwrap();
}

/// Waits until the pod has a node and a way to the registry.
async fn starts_to_pull(pod: &MaroonedPod) {
    let bound = |pod: &Pod| !read::node(pod).is_empty();
    let initialized = |pod: &Pod| condition(pod, "Initialized").is_some_and(|(status, _)| status == "True");
    for (what, reached) in [
        ("a pod with a node", &bound as &dyn Fn(&Pod) -> bool),
        ("a pod that is initialized", &initialized),
    ] {
        becomes(&pod.pods, &pod.name, what, RUNS, reached).await.unwrap();
    }
}

fn is_running(pod: &Pod, name: &str) -> bool {
    let state = container(pod, name).and_then(|container| container.state.as_ref());
    state.is_some_and(|state| state.running.is_some())
}
