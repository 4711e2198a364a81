use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::read::view_of;

mod claims;

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = names::HOSTNAME_LABEL;

fn pod(spec: &Value) -> PodView {
    pod_with(&json!({"app": "web"}), spec)
}

fn pod_with(labels: &Value, spec: &Value) -> PodView {
    let mut pod = json!({
        "metadata": {"namespace": "shop", "name": "web-0", "uid": "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10", "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "i"}], "nodeSelector": {names::CLASS_LABEL: "true"}},
    });
    json_patch::merge(&mut pod["spec"], spec);
    view_of(&pod).unwrap()
}

fn config(more: &Value) -> MaroonedPodsConfigSpec {
    let mut config = json!({"nodeImage": "i", "join": {"serverURL": "https://a"},
        "placement": {"hostLabels": ["disk"], "hostTaints": ["team"], "nodeLabels": {"pool": "vms"}, "spreadReplicas": "Off"}});
    json_patch::merge(&mut config, more);
    serde_json::from_value(config).unwrap()
}

/// Of pods without claims.
fn judge(
    pod: &PodView,
    config: &MaroonedPodsConfigSpec,
    architecture: Architecture,
) -> Result<VmPlacement, String> {
    super::judge(pod, None, config, architecture).map_err(|unfit| match unfit {
        Unfit::Pod(why) => why,
        Unfit::Claims(_) | Unfit::ClaimsUnread => panic!("{unfit:?}"),
    })
}

fn judged(spec: &Value) -> Result<Value, String> {
    judge(&pod(spec), &config(&json!({})), Architecture::Amd64).map(|fit| serde_json::to_value(fit).unwrap())
}

fn required(terms: &Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

fn term(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

fn near(kind: &str, term: &Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn about(app: &str, key: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

/// The terms that the VM's host must meet one of.
fn host_terms(spec: &Value) -> Value {
    judged(spec).unwrap()["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone()
}

#[test]
fn a_pod_without_wishes_goes_anywhere() {
    let placement = judged(&json!({})).unwrap();
    assert_eq!(placement.get("affinity"), None);
    assert_eq!(placement.get("topologySpreadConstraints"), None);
    assert_eq!(placement["nodeLabels"], json!({"pool": "vms"}));
    let labels = placement["labels"].as_object().unwrap();
    assert_eq!(labels[names::POD_NAMESPACE_LABEL], "shop");
    assert!(!labels.contains_key("app"), "{labels:?}");
    assert!(labels.values().any(|value| value == "web"));
}

#[test]
fn selectors_of_host_labels_choose_the_host() {
    let by_zone = term(ZONE, "In", &["a"]);
    assert_eq!(
        host_terms(&json!({"nodeSelector": {ZONE: "a"}})),
        json!([by_zone])
    );
    assert_eq!(host_terms(&required(&json!([by_zone]))), json!([by_zone]));
    let disk = judged(&json!({"nodeSelector": {"disk": "fast"}})).unwrap();
    assert_eq!(disk["hostLabels"], json!(["disk"]), "the Node must have it too");
    assert_eq!(
        judged(&json!({"nodeSelector": {ZONE: "a"}}))
            .unwrap()
            .get("hostLabels"),
        None,
        "it has this anyway"
    );
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "disk", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {}}]});
    assert_eq!(judged(&spread).unwrap()["hostLabels"], json!(["disk"]));
    assert_eq!(
        judged(&near("podAffinity", &about("db", HOST)))
            .unwrap()
            .get("hostLabels"),
        None,
        "none has it"
    );
    let not_there = term(HOST, "NotIn", &["host-1"]);
    assert_eq!(host_terms(&required(&json!([not_there]))), json!([not_there]));
    let by_name =
        json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["host-1"]}]});
    assert_eq!(host_terms(&required(&json!([by_name]))), json!([by_name]));
}

#[test]
fn what_every_marooned_node_has_costs_the_host_nothing() {
    for spec in [
        json!({"nodeSelector": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "pool": "vms"}}),
        required(&json!([term("gpu", "DoesNotExist", &[])])),
        required(&json!([term("gpu", "NotIn", &["a100"])])),
        // One of the terms is met by the Node alone.
        required(&json!([term(ZONE, "In", &["a"]), term("pool", "Exists", &[])])),
        required(&json!([
            term("disk", "In", &["fast"]),
            term("kubernetes.io/arch", "In", &["amd64", "arm64"])
        ])),
    ] {
        assert_eq!(judged(&spec).unwrap().get("affinity"), None, "{spec}");
    }
}

#[test]
fn what_no_marooned_node_has_is_said() {
    for (spec, names) in [
        (json!({"nodeSelector": {"gpu": "a100"}}), "node selector gpu=a100"),
        (
            json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}),
            "kubernetes.io/arch=arm64",
        ),
        (
            required(&json!([term("rack", "Exists", &[])])),
            "node affinity (rack)",
        ),
        (required(&json!([{}])), "node affinity"),
        (required(&json!([term(HOST, "Exists", &[])])), HOST),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {}}]}),
            "topologyKey \"rack\"",
        ),
        (near("podAffinity", &about("web", "rack")), "topologyKey \"rack\""),
        (
            near("podAntiAffinity", &about("web", "rack")),
            "topologyKey \"rack\"",
        ),
        (
            near("podAffinity", &json!({"topologyKey": ZONE})),
            "no labelSelector",
        ),
        (
            near(
                "podAntiAffinity",
                &json!({"topologyKey": ZONE, "labelSelector": {},
            "namespaceSelector": {"matchLabels": {"team": "a"}}}),
            ),
            "namespaces by their labels",
        ),
    ] {
        let why = judged(&spec).expect_err(&spec.to_string());
        assert!(why.contains(names), "{why}");
    }
}

#[test]
fn a_term_that_the_node_cannot_meet_is_left_out() {
    let zone = term(ZONE, "In", &["a"]);
    let spec = required(&json!([term("gpu", "Exists", &[]), zone]));
    assert_eq!(host_terms(&spec), json!([zone]));
    // The selector holds beside each term.
    let mut both = required(&json!([zone, term(ZONE, "In", &["b"])]));
    both["nodeSelector"] = json!({"disk": "fast"});
    let terms = host_terms(&both);
    for term in terms.as_array().unwrap() {
        let keys: Vec<_> = term["matchExpressions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["key"].clone())
            .collect();
        assert_eq!(keys, [ZONE, "disk"]);
    }
    assert_eq!(terms.as_array().unwrap().len(), 2);
}

#[test]
fn preferences_are_carried_where_they_can_be() {
    let preferred = |term: Value| {
        json!({"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "preference": term}]}}})
    };
    let zone = judged(&preferred(term(ZONE, "In", &["a"]))).unwrap();
    let kept = &zone["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(kept[0]["weight"], 7);
    assert_eq!(zone.get("hostLabels"), None);
    for lost in [
        preferred(term("gpu", "Exists", &[])),
        json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": about("db", "rack")}]}}}),
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {}}]}),
    ] {
        let placement = judged(&lost).unwrap();
        assert_eq!(placement.get("affinity"), None, "{lost}");
        assert_eq!(placement.get("topologySpreadConstraints"), None, "{lost}");
    }
}

/// Whether a selector of launchers selects the launcher of a pod with these labels in that namespace.
fn selects(selector: &Value, namespace: &str, labels: &Value) -> bool {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use kube::core::{Selector, SelectorExt};
    let labels = serde_json::from_value(labels.clone()).unwrap();
    let theirs = neighbours::Me {
        namespace,
        labels: Some(&labels),
        host_labels: &[],
    };
    let selector: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
    Selector::try_from(selector)
        .unwrap()
        .matches(&neighbours::labels(&theirs, None))
}

#[test]
fn pods_apart_are_vms_apart_and_away_from_ordinary_pods() {
    let placement = judged(&near("podAntiAffinity", &about("web", ZONE))).unwrap();
    let terms =
        placement["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"].clone();
    let [of_vms, of_pods] = [&terms[0], &terms[1]];
    assert_eq!(
        (of_vms.get("namespaces"), &of_vms["topologyKey"]),
        (None, &json!(ZONE))
    );
    assert!(selects(
        &of_vms["labelSelector"],
        "shop",
        &json!({"app": "web", "x": "y"})
    ));
    assert!(!selects(&of_vms["labelSelector"], "shop", &json!({"app": "db"})));
    assert!(
        !selects(&of_vms["labelSelector"], "other", &json!({"app": "web"})),
        "another tenant's"
    );
    assert_eq!(of_pods["namespaces"], json!(["shop"]));
    assert_eq!(
        of_pods["labelSelector"],
        json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": names::MAROON_LABEL, "operator": "NotIn", "values": ["true"]}]})
    );
    // Everywhere.
    let everywhere = json!({"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": {}});
    let placement = judged(&near("podAntiAffinity", &everywhere)).unwrap();
    let terms =
        placement["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"].clone();
    assert!(selects(
        &terms[0]["labelSelector"],
        "other",
        &json!({"app": "web"})
    ));
    assert_eq!(terms[1]["namespaceSelector"], json!({}));
}

#[test]
fn pods_together_are_vms_together_if_the_pod_is_one_of_them_and_else_near_pods_as_they_are() {
    let aimed = |app: &str| {
        let placement = judged(&near("podAffinity", &about(app, ZONE))).unwrap();
        placement["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"].clone()
    };
    let replicas = aimed("web");
    assert!(selects(
        &replicas[0]["labelSelector"],
        "shop",
        &json!({"app": "web"})
    ));
    assert_eq!(
        aimed("db"),
        json!([{"topologyKey": ZONE, "namespaces": ["shop"], "labelSelector": {"matchLabels": {"app": "db"}}}])
    );
}

#[test]
fn spread_counts_vms() {
    let spec = json!({"topologySpreadConstraints": [{"maxSkew": 2, "minDomains": 3, "topologyKey": HOST, "whenUnsatisfiable": "DoNotSchedule",
        "matchLabelKeys": ["app"], "labelSelector": {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}}]});
    let spread = judged(&spec).unwrap()["topologySpreadConstraints"][0].clone();
    assert_eq!(
        (
            &spread["maxSkew"],
            &spread["minDomains"],
            spread.get("matchLabelKeys")
        ),
        (&json!(2), &json!(3), None)
    );
    assert!(selects(&spread["labelSelector"], "shop", &json!({"app": "web"})));
    assert!(!selects(
        &spread["labelSelector"],
        "shop",
        &json!({"app": "web", "tier": "x"})
    ));
    assert!(!selects(&spread["labelSelector"], "shop", &json!({"app": "db"})));
    assert!(!selects(
        &spread["labelSelector"],
        "other",
        &json!({"app": "web"})
    ));
}

#[test]
fn replicas_prefer_different_hosts_and_zones() {
    let owned = |uid: &str, namespace: &str| {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"namespace": namespace, "name": "p", "uid": "u", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true}]},
            "spec": {"containers": []}}),
        )
        .unwrap();
        let config = config(&json!({"placement": {"spreadReplicas": "Preferred"}}));
        judge(&PodView::of(&pod).unwrap(), &config, Architecture::Amd64).unwrap()
    };
    let mine = owned("one", "shop");
    let apart = mine.affinity.unwrap().pod_anti_affinity.unwrap();
    let keys: Vec<_> = apart
        .preferred_during_scheduling_ignored_during_execution
        .unwrap()
        .into_iter()
        .map(|preferred| (preferred.weight, preferred.pod_affinity_term.topology_key))
        .collect();
    assert_eq!(keys, [(50, HOST.to_owned()), (50, ZONE.to_owned())]);
    let owner = |placement: &VmPlacement| placement.labels[names::OWNER_LABEL].clone();
    let of_mine = mine.labels[names::OWNER_LABEL].clone();
    assert_eq!(of_mine, owner(&owned("one", "shop")));
    assert_ne!(of_mine, owner(&owned("two", "shop")));
    assert_ne!(
        of_mine,
        owner(&owned("one", "other")),
        "another tenant claims the controller"
    );
    // Whatever a tenant writes fits into a label.
    assert_eq!(owner(&owned(&"no label ".repeat(40), "shop")).len(), 16);
}

#[test]
fn tolerations_of_listed_taints_are_the_vms_too() {
    let own = json!({"tolerations": [
        {"key": "team", "operator": "Equal", "value": "blue", "effect": "NoSchedule"},
        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"},
        {"operator": "Exists", "effect": "NoExecute"}]});
    assert_eq!(
        judged(&own).unwrap()["tolerations"],
        json!([
        {"key": "team", "operator": "Equal", "value": "blue", "effect": "NoSchedule"},
        {"key": "team", "operator": "Exists", "effect": "NoExecute"}])
    );
}

#[test]
fn what_the_guest_lacks_is_said_and_what_it_offers_is_not() {
    let container = |part: Value| {
        let mut container = json!({"name": "main", "image": "i"});
        json_patch::merge(&mut container, &part);
        json!({"containers": [container]})
    };
    let cases = [
        (
            container(json!({"resources": {"limits": {"example.test/accel": "1"}}})),
            "resource/example.test/accel",
        ),
        (
            container(json!({"resources": {"requests": {"hugepages-2Mi": "64Mi"}}})),
            "resource/hugepages-2Mi",
        ),
        (
            container(json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}})),
            "apparmor",
        ),
        (
            container(
                json!({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "p"}}}),
            ),
            "seccomp-profiles",
        ),
        (
            json!({"volumes": [{"name": "v", "csi": {"driver": "secrets.example.test"}}]}),
            "csi/secrets.example.test",
        ),
        (
            json!({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}),
            "volume/nfs",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "vm.max_map_count", "value": "1"}]}}),
            "sysctl/vm.max_map_count",
        ),
        (json!({"hostUsers": false}), "user-namespaces"),
        (json!({"os": {"name": "windows"}}), "os/windows"),
        (json!({"runtimeClassName": "gvisor"}), "runtime-class/gvisor"),
        (
            json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]}),
            "resource-claims",
        ),
    ];
    for (spec, capability) in &cases {
        let why = judged(spec).expect_err(capability);
        assert!(why.contains(capability), "{why}");
        let offering = config(&json!({"guestCapabilities": [capability]}));
        assert!(
            judge(&pod(spec), &offering, Architecture::Amd64).is_ok(),
            "{capability}"
        );
    }
    for fine in [
        container(
            json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi", "example.test/accel": "0"}}}),
        ),
        container(
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}, "seccompProfile": {"type": "RuntimeDefault"}}}),
        ),
        json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "4096"}, {"name": "kernel/sem", "value": "1"},
            {"name": "net.ipv4.tcp_syncookies", "value": "1"}]}}),
        json!({"hostUsers": true, "os": {"name": "linux"}, "runtimeClassName": ""}),
        json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "c"}},
            {"name": "d", "hostPath": {"path": "/e"}}]}),
    ] {
        assert!(judged(&fine).is_ok(), "{fine}");
    }
}

#[test]
fn too_many_wishes_are_not_judged() {
    let many: Vec<_> = (0..400)
        .map(|n| term(&format!("key-{n}"), "Exists", &[]))
        .collect();
    let why = judged(&required(&json!(many))).unwrap_err();
    assert!(why.contains("4096 bytes"), "{why}");
    let labels: serde_json::Map<_, _> = (0..400).map(|n| (format!("label-{n}"), json!(""))).collect();
    let crowded = pod_with(&json!(labels), &near("podAffinity", &about("web", ZONE)));
    let why = judge(&crowded, &config(&json!({})), Architecture::Amd64).unwrap_err();
    assert!(why.contains("too many labels"), "{why}");
}
