//! Certificates, tokens and Secrets.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually};
use maroonedpods_e2e::fake_kubevirt::Ask;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::test_env::TestEnv;
use rcgen::KeyPair;
use serde_json::json;

use super::breached::Guest;
use crate::fixtures::dry_run;
use crate::table::Table;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub async fn asks_for_certificates(table: &mut Table, admin: &Client, guest: &Guest, other: &Guest) {
    let csrs: Api<CertificateSigningRequest> = Api::all(guest.client.clone());
    let own = Ask::serving(&guest.node(), vec![guest.node()]);
    let foreign = Ask::serving(&other.node(), vec![other.node()]);
    let renewal = Ask::client(&guest.node(), &[]);
    table
        .refuses(
            "ask for another node's serving certificate",
            "can only create a node CSR with CN=",
            file(&csrs, &foreign, None),
            file(&csrs, &own, None),
        )
        .await;
    let says = "a marooned node asks for a kubelet's certificates only";
    table
        .refuses(
            "ask another signer for a certificate",
            says,
            file(&csrs, &own, Some(CLIENT_SIGNER)),
            file(&csrs, &own, None),
        )
        .await;
    let mut denied = Vec::new();
    for (attempt, san) in [
        (
            "ask for a serving certificate of kubernetes.default.svc",
            "kubernetes.default.svc",
        ),
        ("ask for a serving certificate of a foreign address", "10.96.0.1"),
    ] {
        let ask = Ask::serving(&guest.node(), vec![guest.node(), san.to_owned()]);
        let filed = csrs
            .create(&PostParams::default(), &signed(&ask, None))
            .await
            .unwrap();
        let says = "expected no subject alternative names but the node's own name and address";
        table.fails(attempt, says, denial(admin, &filed.name_any()).await);
        denied.push(filed.name_any());
    }
    let ask = Ask::client(&guest.node(), &["kubernetes".to_owned()]);
    let filed = csrs
        .create(&PostParams::default(), &signed(&ask, None))
        .await
        .unwrap();
    let says = "expected no subject alternative names";
    table.fails(
        "renew its client certificate with a name to serve by",
        says,
        denial(admin, &filed.name_any()).await,
    );
    denied.push(filed.name_any());
    // The twins: the same requests without a foreign name.
    for twin in [&renewal, &own] {
        let filed = csrs
            .create(&PostParams::default(), &signed(twin, None))
            .await
            .unwrap();
        is_issued(admin, &filed.name_any()).await;
    }
    // The signer has had its turn with all of them.
    for name in denied {
        denial(admin, &name).await;
    }
}

fn signed(ask: &Ask, signer: Option<&str>) -> CertificateSigningRequest {
    let mut request = ask.request(&KeyPair::generate().unwrap()).unwrap();
    if let Some(signer) = signer {
        signer.clone_into(&mut request.spec.signer_name);
    }
    request
}

async fn file(
    csrs: &Api<CertificateSigningRequest>,
    ask: &Ask,
    signer: Option<&str>,
) -> kube::Result<CertificateSigningRequest> {
    csrs.create(&dry_run(), &signed(ask, signer)).await
}

/// Waits until a request is denied, which is all that becomes of it, and gives the message.
async fn denial(admin: &Client, name: &str) -> String {
    let csrs: Api<CertificateSigningRequest> = Api::all(admin.clone());
    let answered = becomes(&csrs, name, "an answered request", SOON, |csr| {
        csr.status
            .as_ref()
            .is_some_and(|status| status.conditions.is_some())
    });
    let status = answered.await.unwrap().status.unwrap();
    assert_eq!(status.certificate, None, "{name} was issued");
    let [only] = <[_; 1]>::try_from(status.conditions.unwrap()).unwrap();
    assert_eq!((only.type_.as_str(), only.status.as_str()), ("Denied", "True"));
    only.message.unwrap()
}

/// Waits until a request has its certificate.
async fn is_issued(admin: &Client, name: &str) {
    let csrs: Api<CertificateSigningRequest> = Api::all(admin.clone());
    becomes(&csrs, name, "an issued certificate", SOON, |csr| {
        csr.status
            .as_ref()
            .is_some_and(|status| status.certificate.is_some())
    })
    .await
    .unwrap();
}

/// A guest that has not joined yet has its token, and this one holds it for others to use.
pub async fn joins_twice(table: &mut Table, admin: &Client, env: &TestEnv, booting: &MaroonedPod) {
    let tokens: Api<Secret> = Api::namespaced(admin.clone(), names::TOKEN_NAMESPACE);
    let of_pod = ListParams::default().labels(&format!("{}={}", names::POD_UID_LABEL, booting.uid));
    let data = tokens.list(&of_pod).await.unwrap().items.remove(0).data.unwrap();
    let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
    let token = format!("{}.{}", text("token-id"), text("token-secret"));
    let csrs: Api<CertificateSigningRequest> = Api::all(env.control_plane().bearer(&token).await.unwrap());
    let (own, foreign) = (Ask::client(&booting.node_name(), &[]), Ask::client("host-1", &[]));
    eventually("the token to be known", SOON, || async {
        Ok(Some(file(&csrs, &own, None).await?))
    })
    .await
    .unwrap();
    table
        .refuses(
            "ask another signer with a join token",
            "a join token asks for a kubelet's client certificate only",
            file(&csrs, &own, Some(CLIENT_SIGNER)),
            file(&csrs, &own, None),
        )
        .await;
    let filed = csrs
        .create(&PostParams::default(), &signed(&foreign, None))
        .await
        .unwrap();
    let says = "expected subject O=system:nodes, CN=system:node:<name of the node>";
    let message = denial(admin, &filed.name_any()).await;
    table.fails("ask to be another node with a join token", says, message);
}

pub async fn reuses_its_token(table: &mut Table, env: &TestEnv, guest: &Guest) {
    let client = env.control_plane().bearer(&guest.stolen.token).await.unwrap();
    let csrs: Api<CertificateSigningRequest> = Api::all(client);
    let ask = Ask::client(&guest.node(), &[]);
    // The API server remembers a token for 10 s; meanwhile what it files is refused (tests/csr).
    eventually("the token to be forgotten", SOON, || async {
        let answer = file(&csrs, &ask, None).await;
        Ok(matches!(answer, Err(kube::Error::Api(status)) if status.code == 401).then_some(()))
    })
    .await
    .unwrap();
    // That a token is good for this before the join is the twin in `joins_twice`.
    let attack = file(&csrs, &ask, None);
    table
        .refuses_all("use its bootstrap token after the join", "Unauthorized", attack)
        .await;
}

/// The join Secret of one attempt of a guest that never joins.
pub struct JoinSecret {
    secrets: Api<Secret>,
    pub name: String,
}

impl JoinSecret {
    /// Waits for it, and keeps it by a finalizer when the reconciler deletes it.
    pub async fn kept(admin: &Client, booting: &MaroonedPod, attempt: u32) -> Self {
        let secrets: Api<Secret> = Api::namespaced(admin.clone(), names::VM_NAMESPACE);
        let name = names::join_secret_name(&booting.uid.as_str().into(), attempt);
        let kept = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/kept"]}}));
        eventually("the join Secret", SOON, || async {
            Ok(Some(secrets.patch(&name, &PatchParams::default(), &kept).await?))
        })
        .await
        .unwrap();
        Self { secrets, name }
    }

    pub async fn let_go(self) {
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        self.secrets
            .patch(&self.name, &PatchParams::default(), &free)
            .await
            .unwrap();
    }
}

pub async fn reads_secrets(
    table: &mut Table,
    admin: &Client,
    guest: &Guest,
    other: &Guest,
    seeds: &[JoinSecret; 2],
) {
    let says = "no relationship found between node";
    let secrets = guest.api_in::<Secret>(&guest.namespace.name);
    for (attempt, namespace, name) in [
        (
            "read another VM's join Secret",
            names::VM_NAMESPACE,
            seeds[0].name.as_str(),
        ),
        (
            "read that of its next attempt",
            names::VM_NAMESPACE,
            seeds[1].name.as_str(),
        ),
        (
            "read another guest's pod's Secret",
            other.namespace.name.as_str(),
            "own",
        ),
    ] {
        // It is there: the API server refuses what it would otherwise give.
        Api::<Secret>::namespaced(admin.clone(), namespace)
            .get(name)
            .await
            .unwrap();
        let foreign = guest.api_in::<Secret>(namespace);
        table
            .refuses(attempt, says, foreign.get(name), secrets.get("own"))
            .await;
    }
}
