//! What each kind of request is answered.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use serde_json::{Value, json};

mod support;
use support::router::{assert_denied, assert_untouched, labelled, review};
use support::{UID, creation, operations, ordinary_pod, patched};

#[tokio::test]
async fn an_opted_in_pod_gets_the_constants() {
    let pod = ordinary_pod();
    let stored = patched(&pod, &review("/mutate", &creation(&pod)).await);

    let mut expected = pod;
    expected["metadata"]["labels"]["maroonedpods.io/maroon"] = "true".into();
    expected["spec"]["schedulingGates"] = json!([{"name": "maroonedpods.io/gate"}]);
    expected["spec"]["nodeSelector"] =
        json!({"maroonedpods.node-restriction.kubernetes.io/marooned": "true"});
    expected["spec"]["schedulerName"] = "maroonedpods".into();
    let tolerations = expected["spec"]["tolerations"].as_array_mut().unwrap();
    for effect in ["NoSchedule", "NoExecute"] {
        let key = "maroonedpods.io/marooned";
        tolerations.push(json!({"key": key, "operator": "Equal", "value": "true", "effect": effect}));
    }
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn a_lost_node_is_tolerated_for_30_seconds_where_the_pod_does_not_say() {
    let mut pod = ordinary_pod();
    pod["spec"]["tolerations"].as_array_mut().unwrap().remove(0);
    let stored = patched(&pod, &review("/mutate", &creation(&pod)).await);
    let seconds = |taint| {
        let tolerations = stored["spec"]["tolerations"].as_array().unwrap().iter();
        let matching = tolerations.filter(|toleration| toleration["key"] == taint);
        matching
            .map(|toleration| toleration["tolerationSeconds"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(seconds("node.kubernetes.io/not-ready"), [30]);
    assert_eq!(seconds("node.kubernetes.io/unreachable"), [300]);
}

#[tokio::test]
async fn a_pod_that_needs_a_scheduler_keeps_its_own() {
    let scheduler = async |pod: &Value| {
        let stored = patched(pod, &review("/mutate", &creation(pod)).await);
        stored["spec"]["schedulerName"].clone()
    };
    let plain = json!([{"name": "cache", "emptyDir": {}}, {"name": "ephemeral", "emptyDir": {}}]);
    let with = |field: &str, value: Value| {
        let mut pod = ordinary_pod();
        pod["spec"][field] = value;
        pod
    };
    assert_eq!(scheduler(&ordinary_pod()).await, "maroonedpods");
    assert_eq!(scheduler(&with("volumes", plain)).await, "maroonedpods");
    assert_eq!(
        scheduler(&with("schedulerName", json!("another"))).await,
        "another"
    );
    let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "c"}});
    for claims in [
        with("volumes", json!([{"name": "cache", "emptyDir": {}}, claim])),
        with(
            "volumes",
            json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]),
        ),
        with("resourceClaims", json!([{"name": "gpu"}])),
    ] {
        assert_eq!(scheduler(&claims).await, "default-scheduler", "{claims}");
    }
}

#[tokio::test]
async fn reinvocation_adds_nothing() {
    for path in ["/mutate", "/mutate/enforced"] {
        let pod = ordinary_pod();
        let stored = patched(&pod, &review(path, &creation(&pod)).await);
        assert_untouched(&review(path, &creation(&stored)).await);
    }
}

#[tokio::test]
async fn opting_out_holds_unless_the_namespace_enforces() {
    let pod = labelled("false");
    assert_untouched(&review("/mutate", &creation(&pod)).await);
    // A changed label would hide the pod from the ReplicaSet that selects by it.
    let answer = review("/mutate/enforced", &creation(&pod)).await;
    assert_denied(&answer, 403, "remove the label");
}

#[tokio::test]
async fn a_pod_that_names_its_node_is_left_to_it_or_refused() {
    let mut agent = ordinary_pod();
    agent["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}});
    assert_untouched(&review("/mutate", &creation(&agent)).await);
    let says = "ask for a node by its name";
    assert_denied(&review("/mutate/enforced", &creation(&agent)).await, 403, says);
    agent["metadata"]["labels"]["maroonedpods.io/maroon"] = "true".into();
    assert_denied(&review("/mutate", &creation(&agent)).await, 403, says);
}

#[tokio::test]
async fn daemon_set_and_mirror_pods_are_left_alone() {
    let mut daemon = labelled("true");
    daemon["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true}]);
    let mut mirror = labelled("true");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    for pod in [daemon, mirror] {
        assert_untouched(&review("/mutate", &creation(&pod)).await);
        assert_untouched(&review("/mutate/enforced", &creation(&pod)).await);
    }
}

#[tokio::test]
async fn what_cannot_be_marooned_is_denied_with_advice() {
    let mut pinned = labelled("true");
    pinned["spec"]["nodeName"] = "node-1".into();
    assert_denied(
        &review("/mutate", &creation(&pinned)).await,
        403,
        "remove spec.nodeName",
    );

    let mut selected = labelled("true");
    selected["spec"]["nodeSelector"] = json!({"maroonedpods.node-restriction.kubernetes.io/marooned": "no"});
    assert_denied(
        &review("/mutate", &creation(&selected)).await,
        403,
        "remove it from the pod",
    );

    assert_denied(
        &review("/mutate", &creation(&labelled("yes"))).await,
        403,
        "set it to \"true\"",
    );
}

#[tokio::test]
async fn what_neither_creates_nor_updates_a_pod_is_allowed_untouched() {
    let with = |changes: Value| {
        let mut review = creation(&ordinary_pod());
        for (key, value) in changes.as_object().unwrap() {
            review["request"][key] = value.clone();
        }
        review
    };
    let deployment = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let cases = [
        with(json!({"operation": "UPDATE", "oldObject": ordinary_pod()})),
        with(json!({"operation": "DELETE", "object": null, "oldObject": ordinary_pod()})),
        with(json!({"operation": "CONNECT", "subResource": "exec"})),
        with(json!({"subResource": "status"})),
        with(json!({"subResource": "binding", "kind": {"group": "", "version": "v1", "kind": "Binding"}})),
        with(json!({"kind": deployment, "object": {"spec": {"replicas": 1}}})),
        // An object that is not a pod need not look like one.
        with(json!({"kind": deployment, "object": {"metadata": {"labels": []}, "spec": {"nodeName": 1}}})),
        with(json!({"kind": {"group": "", "version": "v2", "kind": "Pod"}})),
    ];
    for case in cases {
        assert_untouched(&review("/mutate", &case).await);
    }
}

const POD_UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

/// A pod whose author wrote one toleration and one selector.
fn authored() -> Value {
    let mut pod = labelled("true");
    pod["metadata"]["uid"] = POD_UID.into();
    pod["spec"]["tolerations"] = json!([{"key": "team", "operator": "Exists"}]);
    pod["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    pod
}

/// The same as it is stored once its gate is lifted.
fn lifted() -> Value {
    let mut pod = authored();
    pod["spec"]["schedulerName"] = "maroonedpods".into();
    pod["spec"]["nodeSelector"]["maroonedpods.node-restriction.kubernetes.io/marooned"] = "true".into();
    pod["spec"]["nodeSelector"]["maroonedpods.node-restriction.kubernetes.io/pod-uid"] = POD_UID.into();
    let tolerations = pod["spec"]["tolerations"].as_array_mut().unwrap();
    for (key, value) in [
        ("maroonedpods.io/marooned", "true"),
        ("corp.test/dedicated", POD_UID),
    ] {
        for effect in ["NoSchedule", "NoExecute"] {
            tolerations.push(json!({"key": key, "operator": "Equal", "value": value, "effect": effect}));
        }
    }
    pod
}

fn update(old: &Value, new: &Value) -> Value {
    let mut review = creation(new);
    review["request"]["operation"] = "UPDATE".into();
    review["request"]["oldObject"] = old.clone();
    review
}

#[tokio::test]
async fn an_update_gets_back_what_its_author_never_wrote() {
    let update = update(&lifted(), &authored());
    for path in ["/mutate", "/mutate/enforced"] {
        assert_eq!(patched(&authored(), &review(path, &update).await), lifted());
    }
}

#[tokio::test]
async fn an_update_gets_back_what_it_lacks_altogether() {
    let mut bare = authored();
    bare["spec"].as_object_mut().unwrap().remove("tolerations");
    bare["spec"].as_object_mut().unwrap().remove("nodeSelector");
    bare["spec"].as_object_mut().unwrap().remove("schedulerName");
    let stored = patched(&bare, &review("/mutate", &update(&lifted(), &bare)).await);
    assert_eq!(
        stored["spec"]["tolerations"].as_array().unwrap()[..],
        lifted()["spec"]["tolerations"].as_array().unwrap()[1..]
    );
    let selector = stored["spec"]["nodeSelector"].as_object().unwrap();
    assert_eq!(selector.len(), 2, "ours alone: {selector:?}");
    assert_eq!(stored["spec"]["schedulerName"], "maroonedpods");
}

#[tokio::test]
async fn an_update_that_takes_nothing_is_untouched() {
    let mut more = lifted();
    more["spec"]["tolerations"]
        .as_array_mut()
        .unwrap()
        .push(json!({"key": "more", "operator": "Exists"}));
    for (old, new) in [(lifted(), more), (authored(), authored()), (lifted(), lifted())] {
        assert_untouched(&review("/mutate", &update(&old, &new)).await);
    }
}

#[tokio::test]
async fn endless_lists_are_looked_at_in_part() {
    let mut pod = labelled("true");
    let empty = vec![json!({}); 500_000];
    pod["spec"]["tolerations"] = empty.clone().into();
    pod["spec"]["schedulingGates"] = empty.clone().into();
    pod["metadata"]["ownerReferences"] = empty.into();
    let answer = review("/mutate", &creation(&pod)).await;
    // The gate, the selector and the list that it is in, the scheduler, two tolerations: `{}` is one of a lost node.
    assert_eq!(operations(&answer).len(), 6, "{answer}");
}

#[tokio::test]
async fn a_dry_run_is_answered_the_same() {
    let mut dry = creation(&ordinary_pod());
    let real = review("/mutate", &dry).await;
    dry["request"]["dryRun"] = true.into();
    assert_eq!(review("/mutate", &dry).await, real);
}

/// What makes kube-scheduler wait is that the pod is not there: reason and code both say so.
#[tokio::test]
async fn a_preemption_is_refused_with_the_answer_that_ends_it() {
    let mut request = creation(&labelled("true"));
    request["request"]["operation"] = "UPDATE".into();
    request["request"]["subResource"] = "status".into();
    let answer = review("/preemption", &request).await;
    assert_denied(&answer, 404, "a marooned pod is not preempted");
    assert_eq!(answer["response"]["status"]["reason"], "NotFound");
    assert_eq!(answer["response"]["uid"], UID);
}
