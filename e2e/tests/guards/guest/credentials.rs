//! Certificates, tokens and Secrets.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::fake_kubevirt::Ask;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::test_env::TestEnv;
use rcgen::KeyPair;

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
    let attack = file(&csrs, &foreign, Some(CLIENT_SIGNER));
    let twin = file(&csrs, &own, None);
    table
        .refuses(
            "ask for another node's client certificate from another signer",
            says,
            attack,
            twin,
        )
        .await;
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
        let (_, message) = answer(admin, &filed.name_any()).await;
        let says = "expected no subject alternative names but the node's own name and address";
        table.fails(attempt, says, message);
    }
    let ask = Ask::client(&guest.node(), &["kubernetes".to_owned()]);
    let filed = csrs
        .create(&PostParams::default(), &signed(&ask, None))
        .await
        .unwrap();
    let (_, message) = answer(admin, &filed.name_any()).await;
    let says = "expected no subject alternative names";
    table.fails(
        "renew its client certificate with a name to serve by",
        says,
        message,
    );
    let filed = csrs
        .create(&PostParams::default(), &signed(&renewal, None))
        .await
        .unwrap();
    assert_eq!(answer(admin, &filed.name_any()).await.0, "Approved");
    // The twin of both.
    let filed = csrs
        .create(&PostParams::default(), &signed(&own, None))
        .await
        .unwrap();
    assert_eq!(answer(admin, &filed.name_any()).await.0, "Approved");
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

/// What the reconciler says to a request.
async fn answer(admin: &Client, name: &str) -> (String, String) {
    let csrs: Api<CertificateSigningRequest> = Api::all(admin.clone());
    eventually("an answer to a certificate request", SOON, || async {
        let status = csrs.get(name).await?.status.unwrap_or_default();
        let first = status.conditions.and_then(|all| all.into_iter().next());
        Ok(first.map(|c| (c.type_, c.message.unwrap_or_default())))
    })
    .await
    .unwrap()
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
    let (_, message) = answer(admin, &filed.name_any()).await;
    let says = "expected subject O=system:nodes, CN=system:node:<name of the node>";
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
    let attack = file(&csrs, &ask, None);
    table
        .refuses(
            "use its bootstrap token after the join",
            "Unauthorized",
            attack,
            guest.heartbeat(),
        )
        .await;
}

pub async fn reads_secrets(table: &mut Table, guest: &Guest, other: &Guest, booting: &MaroonedPod) {
    let says = "no relationship found between node";
    let secrets = guest.api_in::<Secret>(&guest.namespace.name);
    let join = names::join_secret_name(&booting.uid.as_str().into(), 1);
    let second = names::join_secret_name(&booting.uid.as_str().into(), 2);
    for (attempt, namespace, name) in [
        (
            "read another VM's join Secret",
            names::VM_NAMESPACE,
            join.as_str(),
        ),
        (
            "read that of its next attempt",
            names::VM_NAMESPACE,
            second.as_str(),
        ),
        (
            "read another guest's pod's Secret",
            other.namespace.name.as_str(),
            "own",
        ),
    ] {
        let foreign = guest.api_in::<Secret>(namespace);
        table
            .refuses(attempt, says, foreign.get(name), secrets.get("own"))
            .await;
    }
}
