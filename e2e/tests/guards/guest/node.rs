//! The guest's Node, and what a kubelet writes beside it: pods and events.

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::events::v1::Event as NewEvent;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use maroonedpods_common::names;
use maroonedpods_e2e::world::World;
use serde_json::json;

use super::{Guest, host};
use crate::drafts::{dry_run, from, mirror};
use crate::table::Table;

pub async fn changes_its_node(table: &mut Table, admin: &Client, guest: &Guest) {
    let nodes: Api<Node> = Api::all(admin.clone());
    let cordoned = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes
        .patch(&guest.node(), &PatchParams::default(), &cordoned)
        .await
        .unwrap();
    let label = || json!({"metadata": {"labels": {"example.com/gpu": "true"}}});
    let says = "a marooned node cannot change its labels";
    table
        .refuses("relabel its Node", says, guest.change(label()), guest.heartbeat())
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
            .refuses(attempt, says, guest.change(body), guest.heartbeat())
            .await;
    }
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

pub async fn makes_pods(table: &mut Table, world: &World, guest: &Guest, other: &Guest) {
    let host = host(world, "host-1").await;
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
    let at_once = DeleteParams::default();
    table
        .refuses(
            "delete another guest's pod",
            "can only delete pods with spec.nodeName set to itself",
            guest.api_in::<Pod>(&other.namespace.name).delete("pod", &at_once),
            guest.api_in::<Pod>(&guest.namespace.name).get("pod"),
        )
        .await;
}

pub async fn spreads_news(table: &mut Table, guest: &Guest, other: &Guest) {
    let says = "a marooned node writes events about its own Node and its own pod only";
    let (own, foreign) = (guest.namespace.name.as_str(), other.namespace.name.as_str());
    let event = |namespace: &str, kind: &str, name: &str, uid: &str| -> Event {
        from(json!({
            "metadata": {"generateName": "e-"}, "reason": "Killing", "message": "m", "type": "Warning",
            "involvedObject": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid,
                "namespace": (namespace != "default").then_some(namespace)},
        }))
    };
    let write = |namespace: &str, kind: &str, name: &str, uid: &str| {
        let (api, event) = (
            guest.api_in::<Event>(namespace),
            event(namespace, kind, name, uid),
        );
        async move { api.create(&PostParams::default(), &event).await }
    };
    let (node, other_node) = (guest.node(), other.node());
    table
        .refuses(
            "write an event about another pod",
            says,
            write(foreign, "Pod", "pod", &other.uid),
            write(own, "Pod", "pod", &guest.uid),
        )
        .await;
    // The pod of that namespace has the same name, but is bound elsewhere.
    table
        .refuses(
            "write an event into a foreign namespace, with its own pod's UID",
            says,
            write(foreign, "Pod", "pod", &guest.uid),
            write(own, "Pod", "pod", &guest.uid),
        )
        .await;
    table
        .refuses(
            "write an event about another Node",
            says,
            write("default", "Node", &other_node, &other_node),
            write("default", "Node", &node, &node),
        )
        .await;
    table
        .refuses(
            "write an event about its Node into a foreign namespace",
            says,
            write(foreign, "Node", &node, &node),
            write("default", "Node", &node, &node),
        )
        .await;
    let new = |namespace: &str, uid: &str| {
        let event: NewEvent = from(json!({
            "metadata": {"generateName": "e-"}, "eventTime": "2026-01-01T00:00:00.000000Z", "reason": "Killing",
            "action": "Killing", "type": "Warning", "reportingController": "kubelet", "reportingInstance": "k",
            "regarding": {"apiVersion": "v1", "kind": "Pod", "name": "pod", "namespace": namespace, "uid": uid},
        }));
        let api = guest.api_in::<NewEvent>(namespace);
        async move { api.create(&PostParams::default(), &event).await }
    };
    table
        .refuses(
            "write an event about another pod through events.k8s.io",
            says,
            new(foreign, &other.uid),
            new(own, &guest.uid),
        )
        .await;
}
