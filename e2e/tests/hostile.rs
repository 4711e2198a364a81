//! What a guest's root can write must not hurt other pods.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::check::{TestNamespace, accepts, becomes, eventually, nothing_left};
use maroonedpods_e2e::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// The API server takes it, and most time types cannot hold it.
const TOO_LATE: &str = "9999-12-31T23:59:59Z";

fn marooned(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {names::MAROON_LABEL: "true"}},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}]},
    }))
    .unwrap()
}

fn running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
}

async fn poison(api: Api<DynamicObject>, name: &str, status: Value) {
    let body = Patch::Strategic(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &body)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_nobody_can_read_costs_only_its_own_pod() {
    let world = World::start(0).await.unwrap();
    let _reconciler = world.reconciler(false).await.unwrap();
    let admin: Client = world.plane().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace.name);
    let uid = accepts(&pods, &marooned("hostile")).await.unwrap().uid().unwrap();
    becomes(&pods, "hostile", "Running", SOON, running).await.unwrap();

    // Root in the guest has the kubelet's identity.
    let node_name = names::node_name(&uid);
    let user = format!("{}{node_name}", names::NODE_USER_PREFIX);
    let guest = world.plane().user(&user, names::NODES_GROUP).await.unwrap();
    let nodes = Api::all_with(guest.clone(), &ApiResource::erase::<Node>(&()));
    let beat = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": TOO_LATE});
    poison(nodes, &node_name, json!({"conditions": [beat]})).await;
    let own_pods = Api::namespaced_with(guest, &namespace.name, &ApiResource::erase::<Pod>(&()));
    poison(own_pods, "hostile", json!({"startTime": TOO_LATE})).await;

    // Other pods get their nodes; they are watched one by one, for a list of pods is what the poison spoils.
    accepts(&pods, &marooned("other")).await.unwrap();
    eventually("the other pod runs", SOON, || async {
        Ok(pods.get_opt("other").await?.filter(running))
    })
    .await
    .unwrap();

    // The hostile pod's VM and Node go with it.
    let dynamic_pods: Api<DynamicObject> =
        Api::namespaced_with(admin.clone(), &namespace.name, &ApiResource::erase::<Pod>(&()));
    for name in ["hostile", "other"] {
        dynamic_pods
            .delete(name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }
    eventually("nothing is left", SOON, || async {
        Ok(nothing_left(&admin).await?.is_empty().then_some(()))
    })
    .await
    .unwrap();
    world.stop().await.unwrap();
}
