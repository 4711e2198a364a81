//! Affinity to other pods and spread are held to the real scheduler: in one namespace marooned pods, in another their ordinary
//! twins on the same hosts; a further pod may be with them in a zone if and only if its twin may.

use std::collections::BTreeMap;

use maroonedpods_e2e::harness::tenant::{HOSTS, Tenant, ZONE};
use serde_json::{Value, json};

use super::twins::{Wish, end_alike};
use super::{HOSTNAME, affinity};

/// Those that others are to be near or away from: their name, label `app` and zone. The last is an ordinary pod in both
/// namespaces.
const NEIGHBOURS: [(&str, &str, &str); 4] = [
    ("red-1", "red", "zone-a"),
    ("red-2", "red", "zone-a"),
    ("blue", "blue", "zone-b"),
    ("green", "green", "zone-c"),
];

fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

fn app(names: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": "app", "operator": "In", "values": names}]})
}

fn any() -> Value {
    json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]})
}

/// Only the pod that asks is of this label: `own` becomes its name.
fn itself() -> Value {
    json!({"matchLabels": {"own": "own"}})
}

/// Over all zones, although each pod that asks is for one of them.
fn spread(key: &str, selector: &Value) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "labelSelector": selector,
        "whenUnsatisfiable": "DoNotSchedule", "nodeAffinityPolicy": "Ignore"}]})
}

/// Terms about neighbours. Two kinds are not among them, as `docs/placement.md` says: an affinity over hosts to marooned pods
/// that the pod does not match itself, and a spread that counts ordinary pods.
fn terms() -> Vec<Value> {
    let (together, apart) = ("podAffinity", "podAntiAffinity");
    let mut terms = Vec::new();
    for selector in [
        app(&["red"]),
        app(&["blue", "green"]),
        app(&["none"]),
        any(),
        itself(),
    ] {
        terms.push(affinity(together, ZONE, &selector));
        terms.push(affinity(apart, ZONE, &selector));
    }
    for selector in [app(&["green"]), app(&["none"]), itself()] {
        terms.push(affinity(together, HOSTNAME, &selector));
    }
    for selector in [app(&["red"]), app(&["green"]), any(), itself()] {
        terms.push(affinity(apart, HOSTNAME, &selector));
    }
    for selector in [app(&["blue"]), app(&["green"])] {
        terms.push(affinity(apart, "disk", &selector));
    }
    for selector in [app(&["red"]), app(&["blue"]), app(&["red", "blue"]), itself()] {
        terms.push(spread(ZONE, &selector));
    }
    for selector in [app(&["red"]), itself()] {
        terms.push(spread(HOSTNAME, &selector));
    }
    terms.push(spread("disk", &app(&["red", "blue"])));
    for (one, other) in [
        (
            affinity(together, ZONE, &app(&["blue", "green"])),
            affinity(apart, HOSTNAME, &app(&["green"])),
        ),
        (
            affinity(apart, ZONE, &app(&["green"])),
            spread(ZONE, &app(&["red"])),
        ),
    ] {
        let mut both = one;
        json_patch::merge(&mut both, &other);
        terms.push(both);
    }
    terms
}

/// A pod with these terms for each zone.
fn wishes() -> Vec<Wish> {
    let in_zones = |(at, term): (usize, Value)| {
        HOSTS.map(|(_, zone)| {
            let name = format!("near-{at}-{zone}");
            let text = term
                .to_string()
                .replace("\"own\":\"own\"", &format!("\"own\":\"{name}\""));
            let mut spec: Value = serde_json::from_str(&text).unwrap();
            json_patch::merge(&mut spec, &json!({"nodeSelector": {ZONE: zone}}));
            Wish {
                labels: labels("own", &name),
                name,
                spec,
            }
        })
    };
    terms().into_iter().enumerate().flat_map(in_zones).collect()
}

pub async fn a_pod_is_near_others_where_its_ordinary_twin_would_be(tenant: &Tenant<'_>) {
    let twins = Tenant::new(tenant.env, None).await.unwrap();
    for (name, app, zone) in NEIGHBOURS {
        let wish = Wish {
            name: name.to_owned(),
            labels: labels("app", app),
            spec: json!({"nodeSelector": {ZONE: zone}}),
        };
        if app == "green" {
            for tenant in [tenant, &twins] {
                tenant.creates(&wish.twin()).await.unwrap();
            }
        } else {
            wish.created(tenant, &twins).await;
        }
        for tenant in [tenant, &twins] {
            tenant.sees_running(name).await.unwrap();
        }
    }
    let wishes = wishes();
    let ran = end_alike(tenant, &twins, &wishes).await;
    assert!(
        (20..wishes.len() - 20).contains(&ran),
        "{ran} of {} ran",
        wishes.len()
    );
    for (name, ..) in NEIGHBOURS {
        tenant.deletes(name).await.unwrap();
    }
    twins.leaves().await.unwrap();
}
