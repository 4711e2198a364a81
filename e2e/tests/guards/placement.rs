//! Foreign pods on their way onto a marooned node.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::node;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use serde_json::{Value, json};

use crate::fixtures::pod;
use crate::table::Table;

/// The two paths by which a pod is bound, below its namespace.
const OWN: &str = "pods/intruder/binding";
const COLLECTION: &str = "bindings";

pub async fn binds(table: &mut Table, pods: &Api<Pod>, client: &Client, victim: &MaroonedPod) {
    let spec = json!({"schedulerName": "tenants-own", "tolerations": [{"operator": "Exists"}]});
    let intruder = pod(&json!({"name": "intruder"}), &spec);
    let intruder = pods.create(&PostParams::default(), &intruder).await.unwrap();
    let own_uid = intruder.uid().unwrap();
    let namespace = intruder.namespace().unwrap();
    table.aims_at(pods, "intruder");
    let bind = |path: &str, metadata: Value, node: &str| {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": metadata,
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        post(client, &namespace, path, &binding)
    };
    let victims_node = victim.node_name();
    let says = "a marooned node runs the one pod that it was made for";
    let named = |uid: Option<&str>| json!({"name": "intruder", "uid": uid});
    // A twin that is not merely tried would bind the pod; the last one does.
    let tried = |path: &str| format!("{path}?dryRun=All");
    for (attempt, says, path, uid, twin) in [
        ("bind a foreign pod to a marooned node", says, OWN, None, None),
        (
            "… with the foreign pod's own UID",
            says,
            OWN,
            Some(own_uid.as_str()),
            Some(own_uid.as_str()),
        ),
        (
            "… with the UID of the node's own pod",
            "UID in precondition",
            OWN,
            Some(victim.uid.as_str()),
            Some(own_uid.as_str()),
        ),
        (
            "… by the collection of bindings",
            says,
            COLLECTION,
            Some(own_uid.as_str()),
            Some(own_uid.as_str()),
        ),
    ] {
        let attack = bind(path, named(uid), &victims_node);
        let twin = bind(&tried(path), named(twin), "host-1");
        table.refuses(attempt, says, attack, twin).await;
    }
    // The API server copies a binding's labels and annotations to the pod.
    let says = "are fixed when a pod is created: remove them from the binding";
    for (attempt, path, field, key) in [
        ("opt a pod in by its binding", OWN, "labels", names::MAROON_LABEL),
        (
            "… by the collection of bindings",
            COLLECTION,
            "labels",
            names::MAROON_LABEL,
        ),
        (
            "label a pod as ours by its binding",
            OWN,
            "labels",
            names::POD_UID_LABEL,
        ),
        ("… as of our class", OWN, "labels", names::CLASS_LABEL),
        (
            "annotate a pod in our name by its binding",
            OWN,
            "annotations",
            names::POD_ANNOTATION,
        ),
        (
            "give a pod an address by its binding",
            OWN,
            "annotations",
            names::ADDRESS_ANNOTATION,
        ),
    ] {
        let marked = |key: &str| json!({"name": "intruder", field: {key: "true"}});
        let attack = bind(path, marked(key), "host-1");
        let twin = bind(&tried(path), marked("example.com/maroon"), "host-1");
        table.refuses(attempt, says, attack, twin).await;
    }
    let twin = json!({"name": "intruder", "uid": own_uid, "labels": {"example.com/maroon": "true"}});
    bind(OWN, twin, "host-1").await.unwrap();
    let bound = pods.get("intruder").await.unwrap();
    assert_eq!(node(&bound), "host-1");
    assert_eq!(bound.labels()["example.com/maroon"], "true");
}

fn post(
    client: &Client,
    namespace: &str,
    path: &str,
    binding: &Value,
) -> impl Future<Output = kube::Result<Value>> + use<> {
    let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/{path}"))
        .header("Content-Type", "application/json")
        .body(serde_json::to_vec(binding).unwrap());
    let client = client.clone();
    async move { client.request::<Value>(request.unwrap()).await }
}

/// What the scheduler would do for it, the guard of bindings refuses.
pub async fn tolerates_everything(table: &mut Table, pods: &Api<Pod>, events: &Api<Event>, marooned: &str) {
    let of_node = |node: &str| {
        let on = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
        let required = json!({"nodeSelectorTerms": [{"matchFields": on}]});
        json!({
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        })
    };
    for (name, node) in [("wildcard", marooned), ("twin", "host-1")] {
        let pinned = pod(&json!({"name": name}), &of_node(node));
        pods.create(&PostParams::default(), &pinned).await.unwrap();
    }
    let message = binding_refused(events, "wildcard").await;
    table.fails(
        "tolerate every taint, with an affinity to a marooned node",
        "a marooned node runs the one pod that it was made for",
        message,
    );
    eventually("the twin to be bound", SOON, || async {
        Ok((node(&pods.get("twin").await?) == "host-1").then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(node(&pods.get("wildcard").await.unwrap()), "");
}

/// What the scheduler says on a pod that it could not bind.
pub async fn binding_refused(events: &Api<Event>, pod: &str) -> String {
    let about = ListParams::default().fields(&format!("involvedObject.name={pod}"));
    eventually("a refused binding", SOON, || async {
        let mut messages = events
            .list(&about)
            .await?
            .items
            .into_iter()
            .filter_map(|event| event.message);
        Ok(messages.find(|message| message.contains("ValidatingAdmissionPolicy")))
    })
    .await
    .unwrap()
}
