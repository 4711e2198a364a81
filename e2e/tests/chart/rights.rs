//! The rights that the chart grants, as the API server itself reports them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually, refused, rejects};
use maroonedpods_e2e::api::leftovers::nothing_left;
use maroonedpods_e2e::install::{RECONCILER_ACCOUNT, SYSTEM_NAMESPACE, WEBHOOK_ACCOUNT};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;

use super::{SOON, UID, from, installed};

/// Whether `client` may do `verb` on `resource`, as the API server answers.
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
    let (control_plane, admin) = installed().await;
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
    let guest = control_plane.bearer("abcdef.0123456789abcdef").await.unwrap();

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, names::NODES_GROUP);
    params.distinguished_name.push(
        DnType::CommonName,
        format!("system:node:{}", names::node_name(&UID.into())),
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
async fn service_accounts_have_the_charts_rights_and_no_more() {
    let (control_plane, _) = installed().await;
    let reconciler = control_plane
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
    let answer = control_plane
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

    let webhook = control_plane
        .service_account(SYSTEM_NAMESPACE, WEBHOOK_ACCOUNT)
        .await
        .unwrap()
        .client;
    refused(Api::<Pod>::all(webhook).list(&ListParams::default()).await).unwrap();
}
