//! The chart on a real control plane: what it installs, refuses, selects and allows.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

mod objects;
mod values;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use maroonedpods_common::api::{MaroonedNode, MaroonedPodsConfig, MaroonedPodsConfigSpec};
use maroonedpods_common::names;
use maroonedpods_e2e::check::{TestNamespace, accepts, eventually, gone, nothing_left, refused, rejects};
use maroonedpods_e2e::install::{
    InstallValues, RECONCILER_ACCOUNT, SYSTEM_NAMESPACE, WEBHOOK_ACCOUNT, install,
};
use maroonedpods_e2e::plane::Plane;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";
const SOON: Duration = Duration::from_secs(30);
/// Somebody's: the API server wants to see one.
const A_CERTIFICATE: &str = include_str!("certificate.pem");

/// The shared plane with the chart on it.
async fn installed() -> (&'static Plane, Client) {
    static INSTALLED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let plane = Plane::shared().await.unwrap();
    INSTALLED
        .get_or_init(|| async {
            let config: MaroonedPodsConfigSpec = serde_json::from_value(config_spec()).unwrap();
            install(plane, &values(plane, Some(config))).await.unwrap();
        })
        .await;
    (plane, plane.admin().await.unwrap())
}

fn values(plane: &Plane, config: Option<MaroonedPodsConfigSpec>) -> InstallValues {
    InstallValues {
        // Nobody listens there: an opted-in pod is refused.
        webhook_url: "https://127.0.0.1:1".to_owned(),
        ca_bundle: plane.ca_pem(),
        config,
        more: json!(null),
    }
}

fn config_spec() -> Value {
    json!({"nodeImage": "registry.example/node@sha256:0", "join": {"serverURL": "https://10.0.0.1:6443"}})
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn record(name: &str, uid: &str) -> MaroonedNode {
    from(json!({
        "apiVersion": "maroonedpods.io/v1alpha1",
        "kind": "MaroonedNode",
        "metadata": {"name": name},
        "spec": {
            "podRef": {"namespace": "default", "name": "web-0", "uid": uid},
            "resources": {"cpu": 1, "memoryMi": 1024, "diskMi": 10240, "reservedMemoryMi": 256, "reservedCpuMilli": 100},
            "configHash": "0",
            "vm": {
                "nodeImage": "registry.example/node@sha256:0",
                "taintKey": "maroonedpods.io",
                "join": {"serverURL": "https://10.0.0.1:6443"},
                "options": {},
            },
        },
    }))
}

fn pod(labels: &Value) -> Pod {
    from(json!({
        "metadata": {"generateName": "pod-", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app"}]},
    }))
}

/// Whether `client` may do `verb` on `resource`, by the API server's own word.
async fn may(client: &Client, verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: Some(subresource.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = accepts(&Api::all(client.clone()), &review).await.unwrap();
    answer.status.unwrap().allowed
}

#[tokio::test]
async fn a_bootstrap_token_files_a_request_and_nothing_else() {
    let (plane, admin) = installed().await;
    let token: Secret = from(json!({
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef",
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": names::BOOTSTRAP_GROUP,
        },
    }));
    let tokens: Api<Secret> = Api::namespaced(admin.clone(), "kube-system");
    accepts(&tokens, &token).await.unwrap();
    let guest = plane.bearer("abcdef.0123456789abcdef").await.unwrap();

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, names::NODES_GROUP);
    params.distinguished_name.push(
        DnType::CommonName,
        format!("system:node:{}", names::node_name(UID)),
    );
    let pem = params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
        .unwrap();
    let request: CertificateSigningRequest = from(json!({
        "metadata": {"generateName": "csr-"},
        "spec": {
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
            "request": STANDARD.encode(pem),
        },
    }));
    let requests: Api<CertificateSigningRequest> = Api::all(guest.clone());
    // The authenticator learns of a new token by a watch.
    let filed = eventually("the token to be known", SOON, || async {
        accepts(&requests, &request).await.map(Some)
    })
    .await
    .unwrap();
    assert_eq!(filed.spec.username.as_deref(), Some("system:bootstrap:abcdef"));
    assert!(
        filed
            .spec
            .groups
            .unwrap()
            .contains(&names::BOOTSTRAP_GROUP.to_owned())
    );
    refused(Api::<Node>::all(guest).list(&ListParams::default()).await).unwrap();

    let name = filed.metadata.name.unwrap();
    let left = nothing_left(&admin).await.unwrap();
    assert!(
        left.contains(&"bootstrap token bootstrap-token-abcdef".to_owned()),
        "{left:?}"
    );
    assert!(
        left.contains(&format!("CertificateSigningRequest {name}")),
        "{left:?}"
    );
    Api::<CertificateSigningRequest>::all(admin)
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    tokens
        .delete("bootstrap-token-abcdef", &DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_chart_installs_and_installs_again() {
    let (plane, admin) = installed().await;
    install(plane, &values(plane, None)).await.unwrap();
    let vms = Api::<Namespace>::all(admin.clone())
        .get(names::VM_NAMESPACE)
        .await
        .unwrap();
    let level = vms
        .metadata
        .labels
        .unwrap()
        .remove("pod-security.kubernetes.io/enforce");
    assert_eq!(level.as_deref(), Some("privileged"));
    let config = Api::<MaroonedPodsConfig>::all(admin)
        .get(names::CONFIG_NAME)
        .await
        .unwrap();
    assert_eq!(
        config.spec,
        serde_json::from_value(config_spec()).unwrap(),
        "server's and our defaults differ"
    );
}

#[tokio::test]
async fn a_config_is_validated() {
    let (_, admin) = installed().await;
    let configs: Api<MaroonedPodsConfig> = Api::all(admin);
    let change = |spec: Value| {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let (configs, parameters) = (
            configs.clone(),
            PatchParams {
                dry_run: true,
                ..PatchParams::default()
            },
        );
        async move { configs.patch(names::CONFIG_NAME, &parameters, &patch).await }
    };
    for (spec, sentence) in [
        (
            json!({"resourceOverhead": {"cpu": "half"}}),
            "must be a quantity of 0 or more",
        ),
        (
            json!({"resourceOverhead": {"cpu": "-1"}}),
            "must be a quantity of 0 or more",
        ),
        (
            json!({"resourceOverhead": {"cpu": -1}}),
            "must be a quantity of 0 or more",
        ),
        (
            json!({"resourceOverhead": {"memory": "10Mi"}}),
            "must be a quantity of at least 256Mi",
        ),
        (
            json!({"deadlines": {"boot": "soon"}}),
            "must be a duration of at least 1s",
        ),
        (
            json!({"deadlines": {"join": "0s"}}),
            "must be a duration of at least 1s",
        ),
        (
            json!({"deadlines": {"finishedPodTTL": "-1s"}}),
            "must be a duration such as 60s",
        ),
        (
            json!({"join": {"serverURL": "http://10.0.0.1"}}),
            "must be an https URL",
        ),
        (
            json!({"join": {"serverURL": "10.0.0.1:6443"}}),
            "must be an https URL",
        ),
        (json!({"maxAttempts": 0}), "should be greater than or equal to 1"),
        (json!({"nodeImage": ""}), "should be at least 1 chars long"),
        (json!({"taintKey": "Bad_Key"}), "should match"),
    ] {
        let message = refused(change(spec.clone()).await).unwrap();
        assert!(message.contains(sentence), "{spec}: {message}");
    }
    for spec in [
        json!({"resourceOverhead": {"cpu": 1, "memory": "1Gi"}}),
        json!({"resourceOverhead": {"memory": 536_870_912}}),
        json!({"deadlines": {"boot": "1h30m", "finishedPodTTL": "0s"}}),
        json!({"enableKernelBoot": true, "kernelBootConfig": {"initrdPath": null}}),
    ] {
        change(spec.clone())
            .await
            .unwrap_or_else(|error| panic!("{spec}: {error}"));
    }
    // Not by a merge patch, where null means the default.
    let mut bootless = configs.get(names::CONFIG_NAME).await.unwrap();
    bootless.spec.enable_kernel_boot = true;
    bootless.spec.kernel_boot_config.kernel_path = None;
    bootless.spec.kernel_boot_config.initrd_path = None;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let message = refused(configs.replace(names::CONFIG_NAME, &dry_run, &bootless).await).unwrap();
    assert!(
        message.contains("kernelBootConfig needs kernelPath or initrdPath"),
        "{message}"
    );
    let second: MaroonedPodsConfig = from(json!({
        "apiVersion": "maroonedpods.io/v1alpha1",
        "kind": "MaroonedPodsConfig",
        "metadata": {"name": "second"},
        "spec": config_spec(),
    }));
    let message = rejects(&configs, &second).await.unwrap();
    assert!(message.contains("its name is \"default\""), "{message}");
}

#[tokio::test]
async fn a_record_is_named_after_its_pod_and_keeps_it() {
    let (_, admin) = installed().await;
    let records: Api<MaroonedNode> = Api::all(admin.clone());
    let message = rejects(&records, &record("marooned-other", UID)).await.unwrap();
    assert!(
        message.contains("a MaroonedNode is named marooned-<pod uid>"),
        "{message}"
    );

    let name = names::node_name(UID);
    let made = accepts(&records, &record(&name, UID)).await.unwrap();
    assert_eq!(
        made.spec,
        record(&name, UID).spec,
        "server's and our defaults differ"
    );
    let other = json!({"spec": {"podRef": {"name": "web-1"}}});
    let message = refused(
        records
            .patch(&name, &PatchParams::default(), &Patch::Merge(other))
            .await,
    )
    .unwrap();
    assert!(message.contains("podRef is immutable"), "{message}");
    let harmless = json!({"spec": {"configHash": "1"}});
    records
        .patch(&name, &PatchParams::default(), &Patch::Merge(harmless))
        .await
        .unwrap();

    let left = nothing_left(&admin).await.unwrap();
    assert!(left.contains(&format!("MaroonedNode {name}")), "{left:?}");
    records.delete(&name, &DeleteParams::default()).await.unwrap();
    gone(&records, &name, SOON).await.unwrap();
}

#[tokio::test]
async fn only_opted_in_pods_need_the_webhook() {
    let (_, admin) = installed().await;
    let label = names::MAROON_LABEL;
    // (labels of the namespace, labels of the pod, the entry that reviews it)
    let cases = [
        (vec![], json!({}), None),
        (vec![], json!({label: "false"}), None),
        (vec![], json!({label: "true"}), Some("pods.maroonedpods.io")),
        (
            vec![(label, "true")],
            json!({}),
            Some("namespaces.maroonedpods.io"),
        ),
        (
            vec![(label, "true")],
            json!({label: "true"}),
            Some("pods.maroonedpods.io"),
        ),
        (vec![(label, "true")], json!({label: "false"}), None),
        (
            vec![(label, "enforced")],
            json!({}),
            Some("enforced.maroonedpods.io"),
        ),
        (
            vec![(label, "enforced")],
            json!({label: "false"}),
            Some("enforced.maroonedpods.io"),
        ),
        (
            vec![(label, "enforced")],
            json!({label: "true"}),
            Some("pods.maroonedpods.io"),
        ),
    ];
    for (namespace_labels, labels, entry) in cases {
        let namespace = TestNamespace::new(&admin, &namespace_labels).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace.name);
        match (entry, pods.create(&PostParams::default(), &pod(&labels)).await) {
            (None, Ok(_)) => {}
            (Some(entry), Err(error)) => {
                assert!(
                    error.to_string().contains(&format!("webhook \"{entry}\"")),
                    "{error}"
                );
            }
            (_, answer) => panic!("{namespace_labels:?} {labels}: {answer:?}"),
        }
        let namespaces: Api<Namespace> = Api::all(admin.clone());
        namespaces
            .delete(&namespace.name, &DeleteParams::default())
            .await
            .unwrap();
    }
    // Nothing of ours stands in the way of the cluster's own parts, whatever their labels say.
    for namespace in ["kube-system", names::VM_NAMESPACE, SYSTEM_NAMESPACE] {
        let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
        let made = eventually("the pod", SOON, || async {
            accepts(&pods, &pod(&json!({label: "true"}))).await.map(Some)
        });
        let name = made.await.unwrap().metadata.name.unwrap();
        pods.delete(&name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn service_accounts_have_the_charts_rights_and_no_more() {
    let (plane, _) = installed().await;
    let reconciler = plane
        .service_account(SYSTEM_NAMESPACE, RECONCILER_ACCOUNT)
        .await
        .unwrap();
    let client = &reconciler.client;
    for (verb, group, resource, namespace) in [
        ("patch", "", "pods", None),
        ("patch", "", "pods/status", None),
        ("create", "", "nodes", None),
        (
            "create",
            "kubevirt.io",
            "virtualmachineinstances",
            Some(names::VM_NAMESPACE),
        ),
        ("create", "", "secrets", Some(names::TOKEN_NAMESPACE)),
        (
            "patch",
            "certificates.k8s.io",
            "certificatesigningrequests/approval",
            None,
        ),
        ("update", "coordination.k8s.io", "leases", Some(SYSTEM_NAMESPACE)),
    ] {
        assert!(
            may(client, verb, group, resource, namespace).await,
            "may not {verb} {resource}"
        );
    }
    for (verb, group, resource, namespace) in [
        ("list", "", "secrets", None),
        ("get", "", "secrets", Some("default")),
        ("create", "", "pods", None),
        ("update", "", "pods", None),
        ("sign", "certificates.k8s.io", "signers", None),
        ("approve", "certificates.k8s.io", "signers", None),
        (
            "create",
            "certificates.k8s.io",
            "certificatesigningrequests",
            None,
        ),
        (
            "delete",
            "kubevirt.io",
            "virtualmachineinstances",
            Some("default"),
        ),
        ("create", "rbac.authorization.k8s.io", "clusterrolebindings", None),
    ] {
        assert!(
            !may(client, verb, group, resource, namespace).await,
            "may {verb} {resource}"
        );
    }
    Api::<Pod>::all(client.clone())
        .list(&ListParams::default())
        .await
        .unwrap();
    let map: ConfigMap = from(json!({"metadata": {"name": "mine"}}));
    rejects(&Api::namespaced(client.clone(), "default"), &map)
        .await
        .unwrap();

    // The same identity by its file, as a program of its own uses it.
    let file = reconciler.kubeconfig.to_str().unwrap();
    let answer = plane
        .kubectl(&[
            "--kubeconfig",
            file,
            "auth",
            "whoami",
            "--output",
            "jsonpath={.status.userInfo.username}",
        ])
        .await
        .unwrap();
    assert_eq!(
        answer,
        format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{RECONCILER_ACCOUNT}")
    );

    let webhook = plane
        .service_account(SYSTEM_NAMESPACE, WEBHOOK_ACCOUNT)
        .await
        .unwrap()
        .client;
    refused(Api::<Pod>::all(webhook).list(&ListParams::default()).await).unwrap();
}
