//! What a guest says to people and programs, in events.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::events::v1::Event as NewEvent;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::breached::Guest;
use crate::fixtures::from;
use crate::table::Table;

const OWN: &str = "a marooned node writes events about its own Node and its own pod only";

/// An event in a namespace, about a Pod or a Node.
fn event(namespace: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({
        "metadata": {"generateName": "e-"}, "reason": "Killing", "message": "m", "type": "Warning",
        "involvedObject": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid,
            "namespace": (namespace != "default").then_some(namespace)},
    })
}

pub async fn spreads_news(table: &mut Table, guest: &Guest, other: &Guest) {
    let says = OWN;
    let (own, foreign) = (guest.namespace.name.as_str(), other.namespace.name.as_str());
    let write = |namespace: &str, kind: &str, name: &str, uid: &str| {
        let (api, event) = (
            guest.api_in::<Event>(namespace),
            from::<Event>(event(namespace, kind, name, uid)),
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

/// Events that are there: to make them its own is to change what others have said.
pub async fn rewrites_news(table: &mut Table, admin: &Client, guest: &Guest) {
    let (own, node) = (guest.namespace.name.as_str(), guest.node());
    let params = PatchParams::default();
    for (attempt, namespace, theirs, ours) in [
        (
            "make an event of its namespace one about its pod",
            own,
            ("Pod", "neighbour", "another"),
            ("Pod", "pod", guest.uid.as_str()),
        ),
        (
            "make an event about a host one about its Node",
            "default",
            ("Node", "host-1", "host-1"),
            ("Node", node.as_str(), node.as_str()),
        ),
    ] {
        let file = |client: &Client, (kind, name, uid): (&str, &str, &str)| {
            let api = Api::<Event>::namespaced(client.clone(), namespace);
            let event = from::<Event>(event(namespace, kind, name, uid));
            async move {
                api.create(&PostParams::default(), &event)
                    .await
                    .unwrap()
                    .name_any()
            }
        };
        let (foreign, mine) = (file(admin, theirs).await, file(&guest.client, ours).await);
        let events = guest.api_in::<Event>(namespace);
        let mut stolen = event(namespace, ours.0, ours.1, ours.2);
        stolen.as_object_mut().unwrap().remove("metadata");
        let (steal, count) = (
            Patch::Merge(stolen),
            Patch::Merge(json!({"count": 2, "message": "again"})),
        );
        table
            .refuses(
                attempt,
                OWN,
                events.patch(&foreign, &params, &steal),
                events.patch(&mine, &params, &count),
            )
            .await;
        table
            .refuses(
                "… or delete it",
                "cannot delete resource \"events\"",
                events.delete(&foreign, &DeleteParams::default()),
                events.patch(&mine, &params, &count),
            )
            .await;
        let keep = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/stay"]}}));
        table
            .refuses(
                "keep its own event by a finalizer",
                "a marooned node's events have no owners, and no finalizers",
                events.patch(&mine, &params, &keep),
                events.patch(&mine, &params, &count),
            )
            .await;
    }
    let events = guest.api_in::<Event>(own);
    let kept = |finalizers: Value| {
        let mut event = event(own, "Pod", "pod", &guest.uid);
        event["metadata"]["finalizers"] = finalizers;
        let (events, event) = (events.clone(), from::<Event>(event));
        async move { events.create(&PostParams::default(), &event).await }
    };
    table
        .refuses(
            "keep its namespace by an event with a finalizer",
            "a marooned node's events have no owners, and no finalizers",
            kept(json!(["example.com/stay"])),
            kept(Value::Null),
        )
        .await;
}
