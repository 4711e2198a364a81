//! A tenant's pods, created and changed.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::becomes;
use maroonedpods_e2e::api::read;
use maroonedpods_e2e::harness::fixtures::{ordinary, spec};
use maroonedpods_e2e::harness::marooned_pod::SOON;
use serde_json::{Value, json};

use crate::fixtures::{create, dry_run, from};
use crate::table::Table;

pub async fn creates_pods(table: &mut Table, pods: &Api<Pod>, node: &str) {
    let none = || json!({});
    table
        .refuses(
            "create a pod on a marooned node by spec.nodeName",
            "no pod is created on a marooned node",
            create(pods, none(), json!({"nodeName": node})),
            create(pods, none(), json!({"nodeName": "host-1"})),
        )
        .await;
    table
        .refuses(
            "create an opted-in pod with a node's name",
            "remove spec.nodeName",
            create(
                pods,
                json!({"labels": {names::MAROON_LABEL: "true"}}),
                json!({"nodeName": "host-1"}),
            ),
            create(pods, json!({"labels": {names::MAROON_LABEL: "true"}}), none()),
        )
        .await;
    for (attempt, says, spec, twin) in [
        (
            "select a marooned node by host name",
            "a pod cannot select a marooned node",
            json!({"nodeSelector": {"kubernetes.io/hostname": node}}),
            json!({"nodeSelector": {"kubernetes.io/hostname": "host-1"}}),
        ),
        (
            "select a marooned node by its pod's UID",
            "a pod cannot select a marooned node",
            json!({"nodeSelector": {names::IDENTITY_LABEL: &node["marooned-".len()..]}}),
            json!({"nodeSelector": {"example.com/pod-uid": "u"}}),
        ),
        (
            "select marooned nodes without opting in",
            "are for marooned pods alone",
            json!({"nodeSelector": {names::CLASS_LABEL: names::CLASS_LABEL_VALUE}}),
            json!({"nodeSelector": {"example.com/marooned": "true"}}),
        ),
        (
            "tolerate the class taint without opting in",
            "are for marooned pods alone",
            json!({"tolerations": [{"key": names::CLASS_TAINT, "operator": "Exists"}]}),
            json!({"tolerations": [{"key": "example.com/marooned", "operator": "Exists"}]}),
        ),
        (
            "tolerate a marooned node's identity taint",
            "tolerations of maroonedpods.io/ taints belong to MaroonedPods",
            json!({"tolerations": [{"key": names::identity_taint(names::DEFAULT_TAINT_KEY), "operator": "Exists"}]}),
            json!({"tolerations": [{"key": "example.com/dedicated", "operator": "Exists"}]}),
        ),
        (
            "bring the gate without opting in",
            "are for marooned pods alone",
            json!({"schedulingGates": [{"name": names::GATE}]}),
            json!({"schedulingGates": [{"name": "example.com/gate"}]}),
        ),
    ] {
        let (attack, twin) = (create(pods, none(), spec), create(pods, none(), twin));
        table.refuses(attempt, says, attack, twin).await;
    }
    for (attempt, says, metadata, twin) in [
        (
            "misspell the opt-in",
            "is \"true\", for a node of its own",
            json!({"labels": {names::MAROON_LABEL: "True"}}),
            json!({"labels": {names::MAROON_LABEL: "true"}}),
        ),
        (
            "create a pod with a label of ours",
            "are reserved for MaroonedPods",
            json!({"labels": {names::POD_UID_LABEL: "u"}}),
            json!({"labels": {"example.com/pod-uid": "u"}}),
        ),
        (
            "create a pod with an annotation of ours",
            "are reserved for MaroonedPods",
            json!({"annotations": {names::POD_ANNOTATION: "x/y"}}),
            json!({"annotations": {"example.com/pod": "x/y"}}),
        ),
        (
            "create a pod with an address",
            "are reserved for MaroonedPods",
            json!({"annotations": {names::ADDRESS_ANNOTATION: "10.96.0.1"}}),
            json!({"annotations": {"example.com/address": "10.96.0.1"}}),
        ),
    ] {
        let (attack, twin) = (create(pods, metadata, none()), create(pods, twin, none()));
        table.refuses(attempt, says, attack, twin).await;
    }
}

/// Where no one may opt out.
pub async fn escapes(table: &mut Table, client: &Client, home: &str, enforced: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), enforced);
    let owner = |kind: &str| {
        json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "forged",
            "uid": "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10"}]})
    };
    table
        .refuses(
            "pose as a DaemonSet's pod where no one may opt out",
            "the webhook did not prepare the pod",
            create(&pods, owner("DaemonSet"), json!({})),
            create(&pods, owner("ReplicaSet"), json!({})),
        )
        .await;
    let annotated = |key: &str| json!({"annotations": {key: "forged"}});
    let on_a_host = json!({"nodeName": "host-1"});
    table
        .refuses(
            "pose as a static pod's mirror where no one may opt out",
            "the webhook did not prepare the pod",
            create(&pods, annotated("kubernetes.io/config.mirror"), on_a_host),
            // A mirror needs a node's name, without which the API server refuses it; and a pod that is none has none.
            create(&pods, annotated("example.com/config.mirror"), json!({})),
        )
        .await;
    let daemons = |namespace: &str| Api::<DaemonSet>::namespaced(client.clone(), namespace);
    let set: DaemonSet = from(json!({
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": spec()},
        },
    }));
    let (in_vain, at_home) = (daemons(enforced), daemons(home));
    table
        .refuses(
            "create a DaemonSet where no one may opt out",
            "a DaemonSet's pods are never marooned",
            in_vain.create(&dry_run(), &set),
            at_home.create(&dry_run(), &set),
        )
        .await;
}

pub async fn changes_pods(table: &mut Table, pods: &Api<Pod>) {
    let waiting = "waiting";
    let ours = |value: Value| json!({"metadata": {"labels": {names::MAROON_LABEL: value}}});
    let harmless = || json!({"metadata": {"labels": {"example.com/colour": "blue"}}});
    let ungate = json!({"spec": {"schedulingGates": [{"$patch": "delete", "name": names::GATE}]}});
    let twin = change(pods, waiting, harmless());
    table
        .refuses(
            "remove the gate",
            "is removed by the reconciler",
            change(pods, waiting, ungate),
            twin,
        )
        .await;
    for (attempt, value) in [
        ("strip the opt-in label", Value::Null),
        ("opt a gated pod out", json!("false")),
    ] {
        let attack = change(pods, waiting, ours(value));
        let says = "are fixed when a pod is created";
        table
            .refuses(attempt, says, attack, change(pods, waiting, harmless()))
            .await;
    }
    let by_status = PatchParams::default();
    let (strip, harmless) = (Patch::Strategic(ours(Value::Null)), Patch::Strategic(harmless()));
    table
        .refuses(
            "strip the opt-in label by way of the status",
            "are fixed when a pod is created",
            pods.patch_status(waiting, &by_status, &strip),
            pods.patch_status(waiting, &by_status, &harmless),
        )
        .await;
    let note = |key: &str| json!({"metadata": {"annotations": {key: "x/y"}}});
    table
        .refuses(
            "annotate a pod in our name",
            "only the reconciler sets annotations of MaroonedPods",
            change(pods, waiting, note(names::POD_ANNOTATION)),
            change(pods, waiting, note("example.com/pod")),
        )
        .await;
    table
        .refuses(
            "give a pod an address",
            "only the reconciler sets annotations of MaroonedPods",
            change(pods, waiting, note(names::ADDRESS_ANNOTATION)),
            change(pods, waiting, note("example.com/address")),
        )
        .await;
    let tolerates = |key: &str| json!({"key": key, "operator": "Exists"});
    table
        .refuses(
            "add the toleration of an identity taint",
            "tolerations of maroonedpods.io/ taints are set by the reconciler",
            append(
                pods,
                waiting,
                tolerates(&names::identity_taint(names::DEFAULT_TAINT_KEY)),
            ),
            append(pods, waiting, tolerates("example.com/dedicated")),
        )
        .await;
    table
        .refuses(
            "give the class toleration an end",
            "tolerations of maroonedpods.io/ taints are set by the reconciler",
            outstay(pods, waiting, names::CLASS_TAINT),
            outstay(pods, waiting, "node.kubernetes.io/not-ready"),
        )
        .await;
    let selects =
        |key: &str| json!({"spec": {"nodeSelector": {key: "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10"}}});
    table
        .refuses(
            "add the selector of another pod's node",
            "node selectors of MaroonedPods are set by the reconciler",
            change(pods, waiting, selects(names::IDENTITY_LABEL)),
            change(pods, waiting, selects("example.com/pod-uid")),
        )
        .await;
    judged_anew(pods, waiting).await;

    let plain = pods
        .create(&PostParams::default(), &ordinary("plain"))
        .await
        .unwrap()
        .name_any();
    let twin = json!({"metadata": {"labels": {"example.com/maroon": "true"}}});
    table
        .refuses(
            "opt a pod in that exists",
            "are fixed when a pod is created",
            change(pods, &plain, ours(json!("true"))),
            change(pods, &plain, twin),
        )
        .await;
}

/// No marooned node has the label that the pod selects by now.
async fn judged_anew(pods: &Api<Pod>, name: &str) {
    let waits = |pod: &Pod| read::reason(pod) == "Unplaceable";
    becomes(pods, name, "a pod that waits for good", SOON, waits)
        .await
        .unwrap();
}

async fn change(pods: &Api<Pod>, name: &str, body: Value) -> kube::Result<Pod> {
    pods.patch(name, &PatchParams::default(), &Patch::Strategic(body))
        .await
}

async fn append(pods: &Api<Pod>, name: &str, toleration: Value) -> kube::Result<Pod> {
    let patch = from(json!([{"op": "add", "path": "/spec/tolerations/-", "value": toleration}]));
    pods.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))
        .await
}

/// Another end for the toleration of this key's `NoExecute`.
async fn outstay(pods: &Api<Pod>, name: &str, key: &str) -> kube::Result<Pod> {
    let tolerations = pods.get(name).await?.spec.unwrap().tolerations.unwrap();
    let of_key = |t: &Toleration| t.key.as_deref() == Some(key) && t.effect.as_deref() == Some("NoExecute");
    let path = format!(
        "/spec/tolerations/{}",
        tolerations.iter().position(of_key).unwrap()
    );
    let patch = from(json!([
        {"op": "test", "path": format!("{path}/key"), "value": key},
        {"op": "add", "path": format!("{path}/tolerationSeconds"), "value": 7},
    ]));
    pods.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))
        .await
}
