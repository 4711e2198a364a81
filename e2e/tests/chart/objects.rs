//! What the chart renders: accepted by a real API server, and secure enough for other people's clusters.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::apply::{FIELD_MANAGER, api_of, kind};
use maroonedpods_e2e::api::check::refused;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::install::{SYSTEM_NAMESPACE, render};
use serde_json::{Value, json};

use super::{config_spec, installed};

/// Values that differ in what is rendered. Objects whose kinds a plain cluster does not serve (monitoring,
/// cert-manager) are left to the tests of those parts.
pub fn choices() -> Vec<Value> {
    let digest = format!("sha256:{}", "0".repeat(64));
    vec![
        json!({}),
        json!({"config": config_spec()}),
        json!({
            "image": {"registry": "registry.example/platform", "tag": "1.2.3", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "pull"}],
            "webhook": {"image": {"digest": digest}, "nodeSelector": {"a": "b"}, "podAnnotations": {"a": "b"}},
            "reconciler": {
                "replicas": 1,
                "tolerations": [{"key": "control-plane", "operator": "Exists", "effect": "NoSchedule"}],
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}},
                ]}},
            },
            "networkPolicies": {
                "apiServer": {"cidrs": ["10.0.0.1/32", "fd00::1/128"], "ports": [6443]},
                "dns": {"to": [], "port": 5353},
                "monitoring": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
                "guests": {"egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443}]}]},
            },
            "guards": {"mode": "Warn,Audit"},
            "uninstall": {"force": true},
        }),
        json!({"networkPolicies": {"guests": {"openEgress": true}, "monitoring": []}}),
        json!({"networkPolicies": {"enabled": false}, "priorityClass": {"create": false, "name": ""}}),
        json!({"webhook": {"external": {"url": "https://10.0.0.1:8443", "caBundle": super::A_CERTIFICATE}}}),
        json!({"reconciler": {"enabled": false}}),
        json!({"webhook": {"clientCA": super::A_CERTIFICATE}}),
    ]
}

/// The one object of this kind and name that is rendered.
pub async fn rendered(values: &Value, wanted: &str, name: &str) -> DynamicObject {
    let mut objects = render(values).await.unwrap();
    objects.retain(|object| kind(object) == wanted && object.name_any() == name);
    assert_eq!(objects.len(), 1, "{wanted} {name}");
    objects.remove(0)
}

#[tokio::test]
async fn pods_of_excluded_namespaces_are_never_reviewed() {
    let values = json!({"webhook": {"excludedNamespaces": ["elsewhere"]}});
    let configuration = rendered(&values, "MutatingWebhookConfiguration", "maroonedpods").await;
    let entries = configuration.data["webhooks"].as_array().unwrap();
    assert_eq!(entries.len(), 5);
    let excluded = ["kube-system", names::VM_NAMESPACE, SYSTEM_NAMESPACE, "elsewhere"];
    let not_excluded = json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": excluded});
    for entry in entries {
        let all = entry["namespaceSelector"]["matchExpressions"].as_array().unwrap();
        assert!(all.contains(&not_excluded), "{entry}");
    }
}

#[tokio::test]
async fn a_client_ca_reaches_the_webhook_and_kubelets_ask_elsewhere() {
    let webhook = async |values: Value| {
        let deployment = rendered(&values, "Deployment", "maroonedpods-webhook").await;
        let pod = &deployment.data["spec"]["template"]["spec"];
        (pod["containers"][0].clone(), pod["volumes"].clone())
    };
    let flag = json!("--client-ca=/etc/maroonedpods/client-ca/ca.crt");
    let has_flag = |container: &Value| container["args"].as_array().unwrap().contains(&flag);
    let (container, _) = webhook(json!({})).await;
    assert!(!has_flag(&container));
    assert_eq!(container["readinessProbe"]["httpGet"]["port"], "https");

    let values = json!({"webhook": {"clientCA": super::A_CERTIFICATE}});
    let (container, volumes) = webhook(values.clone()).await;
    assert!(has_flag(&container));
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let asks = &container[probe]["httpGet"];
        assert_eq!(
            (&asks["port"], &asks["scheme"]),
            (&json!("metrics"), &Value::Null)
        );
    }
    let name = "maroonedpods-webhook-client-ca";
    assert_eq!(volumes[1]["configMap"]["name"], name);
    let authority = rendered(&values, "ConfigMap", name).await;
    assert_eq!(authority.data["data"]["ca.crt"], super::A_CERTIFICATE);
}

/// Name and template of each pod that the object makes, itself if it is one.
fn pod_of(object: &DynamicObject) -> Option<(String, Value)> {
    let template = match kind(object) {
        "Deployment" | "Job" => object.data["spec"]["template"].clone(),
        "Pod" => json!({"metadata": {"labels": object.labels()}, "spec": object.data["spec"]}),
        _ => return None,
    };
    Some((format!("{} {}", kind(object), object.name_any()), template))
}

fn containers(pod: &Value) -> &[Value] {
    pod["spec"]["containers"].as_array().unwrap()
}

#[tokio::test]
async fn a_real_api_server_takes_every_object() {
    let (_, admin) = installed().await;
    for values in choices() {
        for object in render(&values).await.unwrap() {
            let name = object.name_any();
            let dry_run = PatchParams {
                dry_run: true,
                ..PatchParams::apply(FIELD_MANAGER).force().validation_strict()
            };
            let api = api_of(&admin, &object).await.unwrap();
            let taken = api.patch(&name, &dry_run, &Patch::Apply(&object)).await;
            taken.unwrap_or_else(|error| panic!("{} {name} of {values}: {error}", kind(&object)));
        }
    }
}

#[tokio::test]
async fn our_pods_ask_for_nothing_that_restricted_namespaces_refuse() {
    let (_, admin) = installed().await;
    let restricted = TestNamespace::new(&admin, &[("pod-security.kubernetes.io/enforce", "restricted")])
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), &restricted.name);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let rendered = render(&json!({})).await.unwrap();
    let made: Vec<_> = rendered.iter().filter_map(pod_of).collect();
    assert_eq!(made.len(), 5, "webhook, reconciler and three hooks: {made:?}");
    for (name, mut template) in made {
        template["metadata"]["generateName"] = json!("pod-");
        // Ours are in another namespace.
        template["spec"]["serviceAccountName"] = json!("default");
        let pod: Pod = serde_json::from_value(template.clone()).unwrap();
        let taken = pods.create(&dry_run, &pod).await;
        taken.unwrap_or_else(|error| panic!("{name}: {error}"));

        // The same with more power is refused: the level is in force.
        template["spec"]["containers"][0]["securityContext"]["capabilities"] = json!({"add": ["NET_ADMIN"]});
        let pod: Pod = serde_json::from_value(template).unwrap();
        let message = refused(pods.create(&dry_run, &pod).await).unwrap();
        assert!(message.contains("violates PodSecurity"), "{message}");
    }
    restricted.close(&admin).await.unwrap();
}

#[tokio::test]
async fn every_container_is_pinned_bounded_and_confined() {
    for values in choices() {
        let rendered = render(&values).await.unwrap();
        for (name, pod) in rendered.iter().filter_map(pod_of) {
            let spec = &pod["spec"];
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
            assert!(spec["automountServiceAccountToken"].is_boolean(), "{name}");
            let account = spec["serviceAccountName"].as_str().unwrap();
            assert_eq!(
                spec["automountServiceAccountToken"],
                account != "maroonedpods-webhook",
                "{name}"
            );
            for container in containers(&pod) {
                let image = container["image"].as_str().unwrap();
                assert!(
                    image.contains(':') && !image.ends_with(":latest"),
                    "{name} runs {image}"
                );
                assert_eq!(
                    container["securityContext"]["readOnlyRootFilesystem"], true,
                    "{name}"
                );
                for bound in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
                    let path = format!("/resources{bound}");
                    assert!(container.pointer(&path).is_some(), "{name} has no {path}");
                }
            }
        }
    }
}

#[tokio::test]
async fn images_are_named_as_the_values_say() {
    let digest = format!("sha256:{}", "0".repeat(64));
    for (values, expected) in [
        (
            json!({}),
            concat!("maroonedpods-webhook:", env!("CARGO_PKG_VERSION")).to_owned(),
        ),
        (
            json!({"image": {"registry": "registry.example:5000/platform", "tag": "1.2.3"}}),
            "registry.example:5000/platform/maroonedpods-webhook:1.2.3".to_owned(),
        ),
        (
            json!({"image": {"tag": "1.2.3"}, "webhook": {"image": {"digest": digest}}}),
            format!("maroonedpods-webhook@{digest}"),
        ),
    ] {
        let rendered = render(&values).await.unwrap();
        let pods: BTreeMap<_, _> = rendered.iter().filter_map(pod_of).collect();
        assert_eq!(
            containers(&pods["Deployment maroonedpods-webhook"])[0]["image"],
            expected
        );
    }
}

/// Whether labels meet a selector's requirement; the chart uses one operator alone.
fn is_in(labels: &Value, requirement: &Value) -> bool {
    assert_eq!(requirement["operator"], "In");
    let key = requirement["key"].as_str().unwrap();
    requirement["values"].as_array().unwrap().contains(&labels[key])
}

/// A selector that took in a hook's pod, or another release's, would send it reviews, count it as a replica, or
/// open a port for it.
#[tokio::test]
async fn selectors_take_in_the_pods_that_they_are_for_and_no_others() {
    let rendered = render(&json!({})).await.unwrap();
    let pods: Vec<_> = rendered.iter().filter_map(pod_of).collect();
    let mut selectors = 0;
    for object in rendered
        .iter()
        .filter(|object| object.namespace().as_deref() == Some(SYSTEM_NAMESPACE))
    {
        let selector = &object.data["spec"];
        let Some(labels) = [
            &selector["selector"]["matchLabels"],
            &selector["podSelector"]["matchLabels"],
            &selector["selector"],
        ]
        .into_iter()
        .find_map(|selector| selector.as_object()) else {
            continue;
        };
        selectors += 1;
        assert!(
            labels.contains_key("app.kubernetes.io/name")
                && labels.contains_key("app.kubernetes.io/instance"),
            "{} {}: {labels:?}",
            kind(object),
            object.name_any()
        );
        // A policy that took in no pod would protect none.
        let among = [
            &selector["podSelector"]["matchExpressions"],
            &selector["selector"]["matchExpressions"],
        ];
        let among: Vec<_> = among.into_iter().filter_map(Value::as_array).flatten().collect();
        let taken: BTreeSet<_> = pods
            .iter()
            .filter(|(_, pod)| {
                let own = &pod["metadata"]["labels"];
                labels.iter().all(|(key, value)| own[key] == *value)
                    && among.iter().all(|one| is_in(own, one))
            })
            .map(|(name, _)| name.as_str())
            .collect();
        let for_whom = match (kind(object), object.name_any().as_str()) {
            ("NetworkPolicy", "maroonedpods-reconciler") => vec![
                "Deployment maroonedpods-reconciler",
                "Job maroonedpods-apply-crds",
                "Job maroonedpods-uninstall",
                "Pod maroonedpods-preflight",
            ],
            (_, "maroonedpods-reconciler") => vec!["Deployment maroonedpods-reconciler"],
            (_, "maroonedpods-webhook") => vec!["Deployment maroonedpods-webhook"],
            other => panic!("{other:?} selects pods"),
        };
        assert_eq!(taken, for_whom.into_iter().collect(), "{}", object.name_any());
    }
    assert_eq!(selectors, 8, "two each of Deployment, Service, budget and policy");
}
