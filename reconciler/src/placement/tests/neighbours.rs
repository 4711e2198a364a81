//! Affinity to other pods and spread, as launchers have them.

use super::super::neighbours::{self, Me};
use super::*;

/// Whether a selector of launchers selects the launcher of a pod with these labels in that namespace.
fn selects(selector: &Value, namespace: &str, labels: &Value) -> bool {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use kube::core::{Selector, SelectorExt};
    let labels = serde_json::from_value(labels.clone()).unwrap();
    let theirs = Me {
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
    let expressions = json!([
        {"key": names::MAROON_LABEL, "operator": "NotIn", "values": ["true"]},
        {"key": names::POD_NAMESPACE_LABEL, "operator": "DoesNotExist"},
    ]);
    assert_eq!(
        of_pods["labelSelector"],
        json!({"matchLabels": {"app": "web"}, "matchExpressions": expressions})
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
    // One pod must match all terms.
    for (one, other) in [("db", "web"), ("web", "db")] {
        let both = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [about(one, ZONE), about(other, ZONE)]}}});
        let placement = judged(&both).unwrap();
        let terms = &placement["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(terms[0]["namespaces"], json!(["shop"]), "{one}, {other}");
        assert_eq!(terms[1]["namespaces"], json!(["shop"]), "{one}, {other}");
    }
}

#[test]
fn a_term_without_a_selector_keeps_no_pod_away() {
    let of_teams = json!({"topologyKey": ZONE, "namespaceSelector": {"matchLabels": {"team": "a"}}});
    let placement = judged(&near("podAntiAffinity", &of_teams)).unwrap();
    assert_eq!(placement.get("affinity"), None);
}

#[test]
fn label_keys_that_the_api_server_has_merged_are_not_merged_again() {
    let mut merged = about("db", ZONE);
    merged["matchLabelKeys"] = json!(["app"]);
    let placement = judged(&near("podAffinity", &merged)).unwrap();
    let terms = &placement["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(terms[0].get("matchLabelKeys"), None);
}

#[test]
fn preferences_about_other_pods_are_about_vms_and_ordinary_pods() {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let placement = judged(
            &json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 9, "podAffinityTerm": about("db", ZONE)}, {"weight": 1, "podAffinityTerm": {"topologyKey": ZONE}}]}}}),
        );
        let placement = placement.unwrap();
        let terms = placement["affinity"][kind]["preferredDuringSchedulingIgnoredDuringExecution"].clone();
        assert_eq!(terms.as_array().unwrap().len(), 2, "{terms}");
        assert_eq!((&terms[0]["weight"], &terms[1]["weight"]), (&json!(9), &json!(9)));
        assert!(selects(
            &terms[0]["podAffinityTerm"]["labelSelector"],
            "shop",
            &json!({"app": "db"})
        ));
        assert_eq!(terms[1]["podAffinityTerm"]["namespaces"], json!(["shop"]));
    }
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

/// The scheduler wants one pod that all terms are about.
#[test]
fn terms_that_only_other_pods_match_are_all_about_pods_as_they_are() {
    let both = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        about("web", ZONE), about("db", ZONE)]}}});
    let placement = judged(&both).unwrap();
    let terms =
        placement["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"].clone();
    for term in terms.as_array().unwrap() {
        assert_eq!(term["namespaces"], json!(["shop"]), "{term}");
    }
}

#[test]
fn labels_count_for_what_is_asked_only_where_other_pods_are_meant() {
    let asked = |labels: Value, spec: &Value| asked(&pod_with(&labels, spec)).unwrap();
    let (plain, apart) = (json!({}), near("podAntiAffinity", &about("web", ZONE)));
    assert_eq!(asked(json!({"a": "1"}), &plain), asked(json!({"a": "2"}), &plain));
    assert_eq!(asked(json!({"a": "1"}), &apart), asked(json!({"a": "1"}), &apart));
    assert_ne!(asked(json!({"a": "1"}), &apart), asked(json!({"a": "2"}), &apart));
    assert_ne!(asked(json!({}), &plain), asked(json!({}), &apart));
}
