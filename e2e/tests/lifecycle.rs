//! A marooned pod's life, in each shape that users create pods in.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use maroonedpods_common::names;
use maroonedpods_e2e::check::{TestNamespace, accepts, becomes, eventually, gone, nothing_left};
use maroonedpods_e2e::world::World;
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

fn running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_pod_gets_a_node_of_its_own_and_loses_it_again() {
    tracing_subscriber::fmt()
        .with_env_filter("info,maroonedpods_e2e=debug")
        .init();
    let world = World::shared().await.unwrap();
    let admin = world.plane().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace.name);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "bare", "labels": {names::MAROON_LABEL: "true"}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    }))
    .unwrap();
    let created = accepts(&pods, &pod).await.unwrap();
    let uid = created.metadata.uid.clone().unwrap();
    let pod = becomes(&pods, "bare", "Running", SOON, running).await.unwrap();
    assert_eq!(
        pod.spec.unwrap().node_name.as_deref(),
        Some(names::node_name(&uid).as_str())
    );
    pods.delete("bare", &DeleteParams::default()).await.unwrap();
    gone(&pods, "bare", SOON).await.unwrap();
    eventually("nothing is left", SOON, || async {
        let left = nothing_left(&admin).await?;
        Ok(left.is_empty().then_some(()))
    })
    .await
    .unwrap();
    namespace.close(&admin).await.unwrap();
}
