use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use maroonedpods_common::names;

use super::*;
use crate::read::view_of;

mod claims;
mod neighbours;

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
    fit(pod, config, architecture).map(|fit| fit.placement)
}

fn fit(pod: &PodView, config: &MaroonedPodsConfigSpec, architecture: Architecture) -> Result<Fit, String> {
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
        (required(&json!([{}])), "node affinity has no term that matches"),
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
        // Kubernetes takes it without a selector.
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": names::CLASS_LABEL,
            "whenUnsatisfiable": "DoNotSchedule"}]}),
            "by which VMs are not placed",
        ),
        (
            near(
                "podAntiAffinity",
                &json!({"topologyKey": "node.kubernetes.io/exclude-disruption"}),
            ),
            "by which VMs are not placed",
        ),
        (
            near(
                "podAffinity",
                &json!({"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": "web"}},
            "namespaceSelector": {"matchLabels": {"team": "a"}}}),
            ),
            "namespaces by their labels",
        ),
        (
            required(&json!([term(
                "node.kubernetes.io/exclude-disruption",
                "DoesNotExist",
                &[]
            )])),
            "exclude-disruption",
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
fn what_is_said_can_be_done() {
    let why = |spec: &Value| judged(spec).unwrap_err();
    let gpu = why(&required(
        &json!([{"matchExpressions": [{"key": "gpu", "operator": "Exists"}, {"key": ZONE, "operator": "In", "values": ["a"]}]}]),
    ));
    assert!(gpu.contains("node affinity (gpu) asks"), "{gpu}");
    assert!(gpu.contains("ask the administrator"), "{gpu}");
    // No configuration takes these labels.
    for refused in [
        json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}),
        json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}),
        required(&json!([term(HOST, "Exists", &[])])),
    ] {
        assert!(!why(&refused).contains("placement."), "{}", why(&refused));
    }
    let windows = pod_with(&json!({"kubernetes.io/os": "windows"}), &json!({}));
    let why = judge(&windows, &config(&json!({})), Architecture::Amd64).unwrap_err();
    assert!(why.contains("label kubernetes.io/os=windows"), "{why}");
}

#[test]
fn the_configured_architecture_is_that_of_the_vms() {
    let arm = config(&json!({"architecture": "arm64"}));
    let fits = |arch: &str| {
        let pod = pod(&json!({"nodeSelector": {"kubernetes.io/arch": arch}}));
        judge(&pod, &arm, Architecture::Amd64).is_ok()
    };
    assert_eq!((fits("arm64"), fits("amd64")), (true, false));
}

#[test]
fn hosts_avoided_by_name_are_avoided_beside_what_else_is_asked() {
    let by_name =
        json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["host-1"]}]});
    let mut both = required(&json!([by_name]));
    both["nodeSelector"] = json!({ZONE: "a"});
    let mut joined = by_name;
    joined["matchExpressions"] = json!([{"key": ZONE, "operator": "In", "values": ["a"]}]);
    assert_eq!(host_terms(&both), json!([joined]));
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
    let ignored = |spec: &Value| {
        fit(&pod(spec), &config(&json!({})), Architecture::Amd64)
            .unwrap()
            .ignored
    };
    for carried in [
        term(ZONE, "In", &["a"]),
        term(HOST, "In", &["host-2"]),
        term("kubernetes.io/os", "In", &["linux"]),
        // It asks for nothing.
        json!({}),
    ] {
        assert_eq!(ignored(&preferred(carried)), [""; 0]);
    }
    let by_name = judged(&preferred(term(HOST, "In", &["host-2"]))).unwrap();
    let carried = &by_name["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(carried[0]["preference"], term(HOST, "In", &["host-2"]));
    let near = |kind: &str, term: Value| json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}}});
    assert_eq!(ignored(&near("podAntiAffinity", about("db", ZONE))), [""; 0]);
    for (lost, name) in [
        (preferred(term("gpu", "Exists", &[])), "node affinity (gpu)"),
        (
            preferred(json!({"matchExpressions": [
                {"key": "gpu", "operator": "Exists"}, {"key": ZONE, "operator": "In", "values": ["a"]}]})),
            "node affinity (gpu)",
        ),
        (near("podAffinity", about("db", "rack")), "pod affinity over rack"),
        (
            near("podAntiAffinity", about("db", "rack")),
            "pod anti-affinity over rack",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {}}]}),
            "topology spread over rack",
        ),
    ] {
        let placement = judged(&lost).unwrap();
        assert_eq!(placement.get("affinity"), None, "{lost}");
        assert_eq!(placement.get("topologySpreadConstraints"), None, "{lost}");
        assert_eq!(ignored(&lost), [name]);
    }
    // It matches no pod.
    assert_eq!(
        ignored(&near("podAffinity", json!({"topologyKey": "rack"}))),
        [""; 0]
    );
    let mut of_namespaces = about("db", ZONE);
    of_namespaces["namespaceSelector"] = json!({"matchLabels": {"team": "a"}});
    assert_eq!(
        ignored(&near("podAffinity", of_namespaces)),
        [format!(
            "pod affinity to marooned pods, with a namespaceSelector, over {ZONE}"
        )]
    );
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
            json!({"volumes": [{"name": "v", "iscsi": {"targetPortal": "s", "iqn": "i", "lun": 0}}]}),
            "volume/iscsi",
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
            {"name": "d", "hostPath": {"path": "/e"}}, {"name": "f", "nfs": {"server": "s", "path": "/"}}]}),
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
    for kind in ["podAffinity", "podAntiAffinity"] {
        let crowded = pod_with(&json!(labels), &near(kind, &about("web", ZONE)));
        let why = judge(&crowded, &config(&json!({})), Architecture::Amd64).unwrap_err();
        assert!(why.contains("too many labels"), "{why}");
    }
}
