use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequestCondition, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SigningKey};

use super::*;

mod content;
mod filed;
mod refusals;

const NODE: &str = "marooned-8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";
const OTHER_NODE: &str = "marooned-00000000-52b3-4d1c-9a77-0d6f6f2f7b10";
const ADDRESS: &str = "10.42.0.7";

pub(crate) fn expectation() -> Expectation {
    Expectation {
        node_name: NODE.to_owned(),
        token_id: "abcdef".to_owned(),
        accepts_client: true,
        approved_client: false,
        address: ADDRESS.parse().ok(),
        approved_serving: 0,
        accepts_renewal: true,
        approved_renewals: 0,
    }
}

fn subject(organization: &str, common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, organization);
    subject.push(DnType::CommonName, common_name);
    subject
}

fn params(names: &[SanType]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("system:nodes", &format!("system:node:{NODE}"));
    params.subject_alt_names = names.to_vec();
    params
}

fn own_names() -> Vec<SanType> {
    vec![
        SanType::DnsName(NODE.try_into().unwrap()),
        SanType::IpAddress(ADDRESS.parse().unwrap()),
    ]
}

fn signed(params: &CertificateParams, key: &impl SigningKey) -> Vec<u8> {
    params.serialize_request(key).unwrap().pem().unwrap().into_bytes()
}

fn pem(params: &CertificateParams) -> Vec<u8> {
    signed(params, &KeyPair::generate().unwrap())
}

fn strings(of: &[&str]) -> Vec<String> {
    of.iter().map(|&one| one.to_owned()).collect()
}

fn request(spec: CertificateSigningRequestSpec) -> CertificateSigningRequest {
    CertificateSigningRequest {
        spec,
        ..Default::default()
    }
}

/// What a healthy kubelet files with its token.
fn client(pem: Vec<u8>) -> CertificateSigningRequest {
    request(CertificateSigningRequestSpec {
        signer_name: "kubernetes.io/kube-apiserver-client-kubelet".to_owned(),
        username: Some("system:bootstrap:abcdef".to_owned()),
        groups: Some(strings(&[
            "system:bootstrappers",
            names::BOOTSTRAP_GROUP,
            "system:authenticated",
        ])),
        usages: Some(strings(&["digital signature", "client auth"])),
        request: ByteString(pem),
        ..Default::default()
    })
}

/// What a healthy kubelet files for its own server.
fn serving(pem: Vec<u8>) -> CertificateSigningRequest {
    request(CertificateSigningRequestSpec {
        signer_name: "kubernetes.io/kubelet-serving".to_owned(),
        username: Some(format!("system:node:{NODE}")),
        groups: Some(strings(&[names::NODES_GROUP, "system:authenticated"])),
        usages: Some(strings(&["digital signature", "server auth"])),
        request: ByteString(pem),
        ..Default::default()
    })
}

fn good_client() -> CertificateSigningRequest {
    client(pem(&params(&[])))
}

/// What a healthy kubelet files before its certificate expires.
fn renewal(pem: Vec<u8>) -> CertificateSigningRequest {
    let asked = client(pem);
    let holder = serving(Vec::new());
    edited(asked, |spec| {
        spec.username = holder.spec.username;
        spec.groups = holder.spec.groups;
    })
}

fn good_renewal() -> CertificateSigningRequest {
    renewal(pem(&params(&[])))
}

fn good_serving() -> CertificateSigningRequest {
    serving(pem(&params(&own_names())))
}

fn edited(
    mut csr: CertificateSigningRequest,
    edit: impl FnOnce(&mut CertificateSigningRequestSpec),
) -> CertificateSigningRequest {
    edit(&mut csr.spec);
    csr
}

#[track_caller]
fn refused(csr: &CertificateSigningRequest, refusal: Refusal) {
    assert_eq!(decide(csr, Some(&expectation())), Decision::Refuse(refusal));
}

#[track_caller]
fn approved(csr: &CertificateSigningRequest) {
    assert_eq!(decide(csr, Some(&expectation())), Decision::Approve);
}

#[test]
fn the_expected_ones_are_approved() {
    approved(&good_client());
    approved(&good_serving());
    // Any subset of the Node's own names is accepted.
    for name in own_names() {
        approved(&serving(pem(&params(&[name]))));
    }
}

#[test]
fn decided_requests_are_ignored() {
    for type_ in ["Approved", "Denied", "Failed"] {
        let mut csr = good_client();
        let condition = CertificateSigningRequestCondition {
            type_: type_.to_owned(),
            ..Default::default()
        };
        csr.status = Some(CertificateSigningRequestStatus {
            conditions: Some(vec![condition]),
            ..Default::default()
        });
        assert_eq!(decide(&csr, Some(&expectation())), Decision::Ignore, "{type_}");
        assert_eq!(is_approved(&csr), type_ == "Approved");
    }
    let mut signed = good_client();
    let certificate = Some(ByteString(b"certificate".to_vec()));
    signed.status = Some(CertificateSigningRequestStatus {
        certificate,
        ..Default::default()
    });
    assert_eq!(decide(&signed, Some(&expectation())), Decision::Ignore);
    assert!(is_pending(&good_client()) && !is_approved(&good_client()));
}

#[test]
fn strangers_are_ignored() {
    for user in [
        "alice",
        "system:node:worker-1",
        "system:node:marooned-vms",
        "system:serviceaccount:a:b",
    ] {
        let csr = edited(good_client(), |spec| spec.username = Some(user.to_owned()));
        assert_eq!(requester(&csr), None, "{user}");
        assert_eq!(decide(&csr, Some(&expectation())), Decision::Ignore, "{user}");
    }
    assert_eq!(
        decide(&edited(good_client(), |spec| spec.username = None), None),
        Decision::Ignore
    );
    let kubeadm = edited(good_client(), |spec| {
        spec.groups = Some(strings(&["system:bootstrappers:kubeadm:default-node-token"]));
    });
    assert_eq!(decide(&kubeadm, None), Decision::Ignore);
}

#[test]
fn requesters_lead_to_their_record() {
    assert_eq!(requester(&good_client()), Some(Requester::Token("abcdef")));
    assert_eq!(requester(&good_serving()), Some(Requester::Node(NODE)));
}

#[test]
fn our_identities_without_a_record() {
    assert_eq!(decide(&good_client(), None), Decision::Refuse(Refusal::NoRecord));
    assert_eq!(decide(&good_serving(), None), Decision::Refuse(Refusal::NoRecord));
}

#[test]
fn any_other_signer() {
    let signer = |name: &str| {
        let name = name.to_owned();
        move |spec: &mut CertificateSigningRequestSpec| spec.signer_name = name
    };
    refused(
        &edited(good_client(), signer("kubernetes.io/kube-apiserver-client")),
        Refusal::WrongSigner,
    );
    refused(
        &edited(good_client(), signer(SERVING_SIGNER)),
        Refusal::WrongSigner,
    );
    // A renewal with a serving certificate's names.
    refused(
        &edited(good_serving(), signer(CLIENT_SIGNER)),
        Refusal::ForeignName,
    );
    refused(
        &edited(good_serving(), signer("example.com/mine")),
        Refusal::WrongSigner,
    );
}

#[test]
fn another_user() {
    let user = |name: String| move |spec: &mut CertificateSigningRequestSpec| spec.username = Some(name);
    // The token of an earlier attempt, or of another record.
    refused(
        &edited(good_client(), user("system:bootstrap:fedcba".to_owned())),
        Refusal::WrongUser,
    );
    refused(
        &edited(good_client(), user("system:bootstrap:".to_owned())),
        Refusal::WrongUser,
    );
    refused(
        &edited(good_serving(), user(format!("system:node:{OTHER_NODE}"))),
        Refusal::WrongUser,
    );
    refused(
        &edited(good_serving(), user(format!("system:node:{NODE}-r2"))),
        Refusal::WrongUser,
    );
}

#[test]
fn the_group_is_missing() {
    for groups in [
        None,
        Some(strings(&[])),
        Some(strings(&["system:bootstrappers", "system:nodes2"])),
    ] {
        refused(
            &edited(good_client(), |spec| spec.groups = groups.clone()),
            Refusal::MissingGroup,
        );
        refused(
            &edited(good_serving(), |spec| spec.groups = groups),
            Refusal::MissingGroup,
        );
    }
}

#[test]
fn one_client_certificate_while_the_record_waits() {
    let late = Expectation {
        accepts_client: false,
        ..expectation()
    };
    assert_eq!(
        decide(&good_client(), Some(&late)),
        Decision::Refuse(Refusal::NotWaiting)
    );
    let second = Expectation {
        approved_client: true,
        ..expectation()
    };
    assert_eq!(
        decide(&good_client(), Some(&second)),
        Decision::Refuse(Refusal::SecondClient)
    );
    // Serving certificates come after the join.
    let joined = Expectation {
        accepts_client: false,
        approved_client: true,
        ..expectation()
    };
    assert_eq!(decide(&good_serving(), Some(&joined)), Decision::Approve);
}

#[test]
fn a_node_renews_its_own_certificate_and_gets_nothing_else_by_it() {
    approved(&good_renewal());
    let user = |name: &str| {
        let name = name.to_owned();
        move |spec: &mut CertificateSigningRequestSpec| spec.username = Some(name)
    };
    refused(
        &edited(good_renewal(), user(&format!("system:node:{OTHER_NODE}"))),
        Refusal::WrongUser,
    );
    refused(
        &edited(good_renewal(), |spec| {
            spec.groups = Some(strings(&["system:authenticated"]));
        }),
        Refusal::MissingGroup,
    );
    let mut foreign = params(&[]);
    foreign.distinguished_name = subject("system:nodes", &format!("system:node:{OTHER_NODE}"));
    refused(&renewal(pem(&foreign)), Refusal::WrongSubject);
    let mut master = params(&[]);
    master.distinguished_name = subject("system:masters", &format!("system:node:{NODE}"));
    refused(&renewal(pem(&master)), Refusal::WrongSubject);
    refused(&renewal(pem(&params(&own_names()))), Refusal::ForeignName);
    refused(
        &edited(good_renewal(), |spec| {
            spec.usages = Some(strings(&["digital signature", "client auth", "server auth"]));
        }),
        Refusal::WrongUsages,
    );
}

#[test]
fn nothing_is_renewed_before_the_join_or_after_the_pod() {
    let over = Expectation {
        accepts_renewal: false,
        ..expectation()
    };
    assert_eq!(decide(&good_renewal(), Some(&over)), Decision::Wait);
    assert_eq!(decide(&good_renewal(), None), Decision::Refuse(Refusal::NoRecord));
    let full = Expectation {
        approved_renewals: MAX_RENEWALS,
        ..expectation()
    };
    assert_eq!(
        decide(&good_renewal(), Some(&full)),
        Decision::Refuse(Refusal::TooManyRenewals)
    );
}

#[test]
fn a_bounded_number_of_serving_certificates() {
    let last = Expectation {
        approved_serving: MAX_SERVING - 1,
        ..expectation()
    };
    assert_eq!(decide(&good_serving(), Some(&last)), Decision::Approve);
    let full = Expectation {
        approved_serving: MAX_SERVING,
        ..expectation()
    };
    assert_eq!(
        decide(&good_serving(), Some(&full)),
        Decision::Refuse(Refusal::TooManyServing)
    );
}

#[test]
fn serving_waits_for_the_address() {
    let unknown = Expectation {
        address: None,
        ..expectation()
    };
    assert_eq!(decide(&good_serving(), Some(&unknown)), Decision::Wait);
    // A request that no address can make right is refused at once.
    let foreign = serving(pem(&params(&[SanType::DnsName(
        "kubernetes.default.svc".try_into().unwrap(),
    )])));
    assert_eq!(
        decide(&foreign, Some(&unknown)),
        Decision::Refuse(Refusal::ForeignName)
    );
}
