use serde_json::json;

use super::*;
use crate::names::SCHEDULER_NAME;

fn complete() -> PodView<'static> {
    let class = TAINT_EFFECTS.map(class_toleration);
    let lost = LOST_NODE_TAINTS.map(lost_node_toleration);
    PodView {
        opt_in: Some(MAROON_TRUE),
        gated: true,
        scheduler_name: SCHEDULER_NAME,
        class_selector: Some(CLASS_LABEL_VALUE),
        tolerations: [class, lost].concat(),
        ..PodView::default()
    }
}

fn denial(pod: &PodView<'_>, opt_out: OptOut) -> String {
    match decide(pod, opt_out) {
        Outcome::Deny(message) => message,
        other => panic!("not denied: {other:?}"),
    }
}

#[test]
fn a_bare_pod_gets_everything() {
    let Outcome::Add(additions) = decide(&PodView::default(), OptOut::Honoured) else {
        panic!("not added to")
    };
    assert_eq!(
        additions[..4],
        [
            Addition::Label,
            Addition::Gate,
            Addition::ClassSelector,
            Addition::SchedulerName
        ]
    );
    let tolerations: Vec<_> = additions[4..]
        .iter()
        .map(|addition| match addition {
            Addition::Toleration(toleration) => serde_json::to_value(toleration).unwrap(),
            other => panic!("{other:?} is not a toleration"),
        })
        .collect();
    let expected = json!([
        {"key": "maroonedpods.io/marooned", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
        {"key": "maroonedpods.io/marooned", "operator": "Equal", "value": "true", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
         "tolerationSeconds": 30},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
         "tolerationSeconds": 30},
    ]);
    assert_eq!(serde_json::Value::from(tolerations), expected);
}

#[test]
fn a_complete_pod_is_left_alone() {
    for opt_out in [OptOut::Honoured, OptOut::Overruled] {
        assert_eq!(
            decide(&complete(), opt_out),
            Outcome::LeaveAlone(Reason::Complete)
        );
    }
}

#[test]
fn each_missing_piece_is_added_alone() {
    let lacks = |change: fn(&mut PodView<'static>)| {
        let mut pod = complete();
        change(&mut pod);
        missing(&pod)
    };
    assert_eq!(lacks(|pod| pod.opt_in = None), [Addition::Label]);
    assert_eq!(lacks(|pod| pod.gated = false), [Addition::Gate]);
    assert_eq!(lacks(|pod| pod.class_selector = None), [Addition::ClassSelector]);
    for name in ["", "default-scheduler"] {
        let mut pod = complete();
        pod.scheduler_name = name;
        assert_eq!(missing(&pod), [Addition::SchedulerName]);
    }
    for index in 0..4 {
        let mut pod = complete();
        let removed = pod.tolerations.remove(index);
        assert_eq!(missing(&pod), [Addition::Toleration(removed)]);
    }
}

#[test]
fn a_pod_that_needs_a_scheduler_keeps_its_own() {
    let names = ["", "default-scheduler", "another"];
    for (scheduler_name, has_claims) in names
        .map(|name| (name, true))
        .into_iter()
        .chain([("another", false)])
    {
        let pod = PodView {
            scheduler_name,
            has_claims,
            ..complete()
        };
        assert_eq!(missing(&pod), [], "{scheduler_name:?} {has_claims}");
    }
}

#[test]
fn opting_out_is_honoured_or_refused_and_never_rewritten() {
    let pod = PodView {
        opt_in: Some(MAROON_FALSE),
        ..complete()
    };
    assert_eq!(
        decide(&pod, OptOut::Honoured),
        Outcome::LeaveAlone(Reason::OptedOut)
    );
    assert!(denial(&pod, OptOut::Overruled).contains("no pod of this namespace may opt out"));
}

#[test]
fn pods_that_name_their_node_are_left_to_it_or_refused() {
    let agent = |opt_in, daemon_set_owned| PodView {
        opt_in,
        daemon_set_owned,
        names_nodes: true,
        ..PodView::default()
    };
    let alone = |pod: &PodView<'_>, opt_out| match decide(pod, opt_out) {
        Outcome::LeaveAlone(reason) => reason,
        other => panic!("not left alone: {other:?}"),
    };
    assert_eq!(alone(&agent(None, false), OptOut::Honoured), Reason::NamesNodes);
    let out = agent(Some(MAROON_FALSE), false);
    assert_eq!(alone(&out, OptOut::Honoured), Reason::OptedOut);
    for opt_out in [OptOut::Honoured, OptOut::Overruled] {
        assert_eq!(alone(&agent(None, true), opt_out), Reason::DaemonSet);
        assert!(denial(&agent(Some(MAROON_TRUE), false), opt_out).contains("ask for a node by its name"));
    }
    let silent = denial(&agent(None, false), OptOut::Overruled);
    assert!(
        silent.contains("in a namespace that is not \"enforced\""),
        "{silent}"
    );
}

#[test]
fn daemon_set_and_mirror_pods_are_left_alone_whatever_they_say() {
    let pods = [
        (
            PodView {
                daemon_set_owned: true,
                node_name: "n",
                ..PodView::default()
            },
            Reason::DaemonSet,
        ),
        (
            PodView {
                mirror: true,
                node_name: "n",
                ..PodView::default()
            },
            Reason::MirrorPod,
        ),
    ];
    for (pod, reason) in pods {
        assert_eq!(decide(&pod, OptOut::Overruled), Outcome::LeaveAlone(reason));
    }
}

#[test]
fn what_cannot_be_marooned_is_denied_with_advice() {
    let pinned = PodView {
        node_name: "node-1",
        ..complete()
    };
    assert!(denial(&pinned, OptOut::Honoured).contains("remove spec.nodeName"));
    let selected = PodView {
        class_selector: Some("false"),
        ..complete()
    };
    assert!(denial(&selected, OptOut::Honoured).contains("remove it"));
    // With additions, such a pod would wait for ever: no label selector of ours finds it.
    let misspelt = PodView {
        opt_in: Some("yes"),
        ..complete()
    };
    for opt_out in [OptOut::Honoured, OptOut::Overruled] {
        assert!(denial(&misspelt, opt_out).contains("set it to \"true\""));
    }
}

#[test]
fn only_the_exact_class_toleration_counts() {
    let blanket = Toleration {
        key: "",
        operator: "Exists",
        value: "",
        effect: "",
        toleration_seconds: None,
    };
    let pod = PodView {
        tolerations: vec![blanket],
        ..complete()
    };
    assert_eq!(
        missing(&pod),
        TAINT_EFFECTS.map(class_toleration).map(Addition::Toleration)
    );

    let mut implied = complete();
    implied.tolerations[0].operator = "";
    assert_eq!(missing(&implied), []);
}

#[test]
fn the_users_own_tolerations_of_lost_nodes_stay() {
    let tolerates = |operator, value, effect| {
        let key = LOST_NODE_TAINTS[0];
        let seconds = Some(300);
        Toleration {
            key,
            operator,
            value,
            effect,
            toleration_seconds: seconds,
        }
        .covers_no_execute(key)
    };
    assert!(tolerates("Exists", "", "NoExecute"));
    assert!(tolerates("", "", ""));
    assert!(!tolerates("Equal", "x", "NoExecute"));
    assert!(!tolerates("Exists", "", "NoSchedule"));
    assert!(!tolerates("Gt", "1", "NoExecute"));
    assert!(!class_toleration("NoExecute").covers_no_execute(LOST_NODE_TAINTS[0]));
}

#[test]
fn a_typed_pod_is_seen_as_it_is() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "labels": {MAROON_LABEL: "true"},
            "annotations": {MIRROR_ANNOTATION: "x"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u"}],
        },
        "spec": {
            "containers": [],
            "nodeName": "node-1",
            "nodeSelector": {CLASS_LABEL: "true"},
            "schedulingGates": [{"name": "other"}, {"name": GATE}],
            "schedulerName": "s",
            "resourceClaims": [{"name": "gpu"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]}}},
            "tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute",
                             "tolerationSeconds": 5}],
        },
    }))
    .unwrap();
    let toleration = Toleration {
        key: "k",
        operator: "Equal",
        value: "v",
        effect: "NoExecute",
        toleration_seconds: Some(5),
    };
    let expected = PodView {
        opt_in: Some("true"),
        daemon_set_owned: true,
        mirror: true,
        node_name: "node-1",
        names_nodes: true,
        gated: true,
        scheduler_name: "s",
        has_claims: true,
        class_selector: Some("true"),
        tolerations: vec![toleration],
    };
    assert_eq!(PodView::from(&pod), expected);
    let on_host = json!({"spec": {"containers": [], "nodeSelector": {HOSTNAME_LABEL: "node-1"}}});
    let on_host: Pod = serde_json::from_value(on_host).unwrap();
    assert!(PodView::from(&on_host).names_nodes);
    assert_eq!(PodView::from(&Pod::default()), PodView::default());
}

/// Asserts what the rule sees in the typed pod of this JSON.
fn assert_seen(pod: &serde_json::Value, expected: &PodView<'_>) {
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    assert_eq!(PodView::from(&typed), *expected, "{pod}");
}

/// Kubernetes' `DaemonSet` is of the API group apps, in whichever version; other groups have kinds of that name.
#[test]
fn a_daemon_set_is_that_kind_of_that_group() {
    for version in ["apps/v1", "apps/v1beta2"] {
        assert!(is_daemon_set(version, "DaemonSet"), "{version}");
    }
    for (version, kind) in [
        ("apps/v1", "ReplicaSet"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "daemonset"),
        ("apps/v1", ""),
        ("batch/v1", "Job"),
        ("v1", "DaemonSet"),
        ("apps", "DaemonSet"),
        ("apps.kruise.io/v1alpha1", "DaemonSet"),
        ("example.org/apps/v1", "DaemonSet"),
        ("", "DaemonSet"),
        ("", ""),
    ] {
        assert!(!is_daemon_set(version, kind), "{version} {kind}");
    }
}

#[test]
fn each_fact_of_a_typed_pod_is_seen_alone() {
    let spec = |field: &str, value: serde_json::Value| json!({"spec": {"containers": [], field: value}});
    let metadata = |field: &str, value: serde_json::Value| json!({"metadata": {field: value}});
    let owner =
        |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind, "name": "o", "uid": "u"});
    let none = PodView::default();

    let labels = json!({"app": "web", MAROON_LABEL: "false"});
    let opted = PodView {
        opt_in: Some("false"),
        ..none.clone()
    };
    assert_seen(&metadata("labels", labels), &opted);
    assert_seen(
        &metadata("labels", json!({"maroon": "true", CLASS_LABEL: "true"})),
        &none,
    );

    let daemon = PodView {
        daemon_set_owned: true,
        ..none.clone()
    };
    let owners = json!([owner("apps/v1", "ReplicaSet"), owner("apps/v1", "DaemonSet")]);
    assert_seen(&metadata("ownerReferences", owners), &daemon);
    for other in [
        owner("apps/v1", "ReplicaSet"),
        owner("example.org/v1", "DaemonSet"),
    ] {
        assert_seen(&metadata("ownerReferences", json!([other])), &none);
    }

    let mirror = PodView {
        mirror: true,
        ..none.clone()
    };
    assert_seen(&metadata("annotations", json!({MIRROR_ANNOTATION: ""})), &mirror);
    assert_seen(
        &metadata("annotations", json!({"kubernetes.io/config.source": "api"})),
        &none,
    );

    let named = PodView {
        node_name: "n",
        ..none.clone()
    };
    assert_seen(&spec("nodeName", json!("n")), &named);
    let on_host = PodView {
        names_nodes: true,
        ..none.clone()
    };
    assert_seen(&spec("nodeSelector", json!({HOSTNAME_LABEL: "n"})), &on_host);
    let selected = PodView {
        class_selector: Some("x"),
        ..none.clone()
    };
    assert_seen(
        &spec("nodeSelector", json!({"disk": "ssd", CLASS_LABEL: "x"})),
        &selected,
    );
    assert_seen(&spec("nodeSelector", json!({"disk": "ssd"})), &none);
    let gated = PodView {
        gated: true,
        ..none.clone()
    };
    assert_seen(
        &spec("schedulingGates", json!([{"name": "kueue"}, {"name": GATE}])),
        &gated,
    );
    assert_seen(&spec("schedulingGates", json!([{"name": "kueue"}])), &none);
}

#[test]
fn what_a_typed_pod_needs_of_a_scheduler_is_seen() {
    let spec = |field: &str, value: serde_json::Value| json!({"spec": {"containers": [], field: value}});
    let none = PodView::default();
    let scheduled = PodView {
        scheduler_name: "s",
        ..none.clone()
    };
    assert_seen(&spec("schedulerName", json!("s")), &scheduled);
    let claims = PodView {
        has_claims: true,
        ..none.clone()
    };
    let plain = json!({"name": "plain", "emptyDir": {}});
    for claim in [
        json!({"name": "data", "persistentVolumeClaim": {"claimName": "c"}}),
        json!({"name": "scratch", "ephemeral": {}}),
    ] {
        assert_seen(&spec("volumes", json!([plain, claim])), &claims);
    }
    assert_seen(&spec("volumes", json!([plain])), &none);
    assert_seen(&spec("resourceClaims", json!([{"name": "gpu"}])), &claims);
    assert_seen(&spec("resourceClaims", json!([])), &none);
}

#[test]
fn the_affinity_of_a_typed_pod_names_nodes_only_if_each_term_does() {
    let named = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]});
    let on_host = json!({"matchExpressions": [{"key": HOSTNAME_LABEL, "operator": "In", "values": ["n"]}]});
    let zone = json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]});
    for (terms, names_nodes) in [
        (json!([named]), true),
        (json!([on_host]), true),
        (json!([on_host, named, {}]), true),
        (json!([zone]), false),
        (json!([named, zone]), false),
        (json!([{}]), false),
        (json!([]), false),
    ] {
        let required =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        let pod = json!({"spec": {"containers": [], "affinity": {"nodeAffinity": required}}});
        assert_seen(
            &pod,
            &PodView {
                names_nodes,
                ..PodView::default()
            },
        );
    }
    // What is only preferred keeps the pod from no node.
    let preferred =
        json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": named}]});
    let pod = json!({"spec": {"containers": [], "affinity": {"nodeAffinity": preferred}}});
    assert_seen(&pod, &PodView::default());
}
