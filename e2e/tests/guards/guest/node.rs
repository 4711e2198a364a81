//! The guest's Node, and pods on it.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::becomes;
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::test_env::TestEnv;
use serde_json::json;

use super::breached::{Guest, host};
use crate::fixtures::{dry_run, mirror};
use crate::table::Table;

pub async fn changes_its_node(table: &mut Table, admin: &Client, guest: &Guest) {
    let nodes: Api<Node> = Api::all(admin.clone());
    let cordoned = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes
        .patch(&guest.node(), &PatchParams::default(), &cordoned)
        .await
        .unwrap();
    // Kubernetes marks a cordoned Node by a taint, too.
    becomes(&nodes, &guest.node(), "tainted", SOON, |node: &Node| {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        taints
            .into_iter()
            .any(|taint| taint.key == "node.kubernetes.io/unschedulable")
    })
    .await
    .unwrap();
    table.settles().await;
    let label = || json!({"metadata": {"labels": {"example.com/gpu": "true"}}});
    let nothing = || json!({});
    let says = "a marooned node cannot change its labels";
    table
        .refuses(
            "relabel its Node",
            says,
            guest.change(label()),
            guest.change(nothing()),
        )
        .await;
    table
        .refuses(
            "… by way of the status",
            says,
            guest.report(label()),
            guest.heartbeat(),
        )
        .await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "none"});
    let address = json!({"type": "InternalIP", "address": "10.96.0.1"});
    for (attempt, says, body) in [
        (
            "relabel its Node as another pod's",
            "is not allowed to modify labels",
            json!({"metadata": {"labels": {names::IDENTITY_LABEL: "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10"}}}),
        ),
        (
            "untaint its Node",
            "is not allowed to modify taints",
            json!({"spec": {"taints": [{"$patch": "replace"}]}}),
        ),
        (
            "uncordon its Node",
            "a marooned node cannot change its spec",
            json!({"spec": {"unschedulable": null}}),
        ),
        (
            "annotate its Node",
            "a marooned node cannot change its annotations",
            json!({"metadata": {"annotations": {"alpha.kubernetes.io/provided-node-ip": "10.96.0.1"}}}),
        ),
        (
            "keep its Node by a finalizer",
            "a marooned node cannot change its finalizers",
            json!({"metadata": {"finalizers": ["example.com/stay"]}}),
        ),
        (
            "give its Node another owner",
            "not allowed to modify ownerReferences",
            json!({"metadata": {"ownerReferences": [owner]}}),
        ),
    ] {
        table
            .refuses(attempt, says, guest.change(body), guest.change(nothing()))
            .await;
    }
    let attached = json!([{"name": "example.com/v", "devicePath": "/dev/x"}]);
    table
        .refuses(
            "say that a volume is attached to its Node",
            "a marooned node cannot change what others write to its status",
            guest.report(json!({"status": {"volumesAttached": attached}})),
            guest.heartbeat(),
        )
        .await;
    for (attempt, addresses) in [
        ("change its Node's address", json!([address])),
        (
            "add an address to its Node",
            json!([{"type": "ExternalIP", "address": "192.0.2.1"}]),
        ),
        ("drop its Node's addresses", json!([{"$patch": "replace"}])),
    ] {
        let body = json!({"status": {"addresses": addresses}});
        let says = "a marooned node cannot change its addresses";
        table
            .refuses(attempt, says, guest.report(body), guest.heartbeat())
            .await;
    }
}

pub async fn makes_pods(table: &mut Table, env: &TestEnv, guest: &Guest, other: &Guest) {
    let host = host(env, "host-1").await;
    let own = |client: &Client, name: String| {
        let nodes: Api<Node> = Api::all(client.clone());
        async move { mirror(&nodes.get(&name).await.unwrap()) }
    };
    let (of_guest, of_host) = (
        own(&guest.client, guest.node()).await,
        own(&host, "host-1".to_owned()).await,
    );
    let hosts: Api<Pod> = Api::namespaced(host, &other.namespace.name);
    table
        .refuses(
            "create a mirror pod in a foreign namespace",
            "no pod is created on a marooned node",
            guest
                .api_in::<Pod>(&other.namespace.name)
                .create(&dry_run(), &of_guest),
            hosts.create(&dry_run(), &of_host),
        )
        .await;
    let tried = DeleteParams {
        dry_run: true,
        ..DeleteParams::default()
    };
    table
        .refuses(
            "delete another guest's pod",
            "can only delete pods with spec.nodeName set to itself",
            guest.api_in::<Pod>(&other.namespace.name).delete("pod", &tried),
            guest.api_in::<Pod>(&guest.namespace.name).delete("pod", &tried),
        )
        .await;
}
