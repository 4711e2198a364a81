use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequestCondition, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
};
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
    SigningKey,
};

use super::*;

const NODE: &str = "marooned-8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";
const OTHER_NODE: &str = "marooned-00000000-52b3-4d1c-9a77-0d6f6f2f7b10";
const ADDRESS: &str = "10.42.0.7";

fn expectation() -> Expectation {
    Expectation {
        node_name: NODE.to_owned(),
        token_id: "abcdef".to_owned(),
        accepts_client: true,
        approved_client: false,
        address: ADDRESS.parse().ok(),
        approved_serving: 0,
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

fn armored(der: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n").into_bytes()
}

fn strings(of: &[&str]) -> Option<Vec<String>> {
    Some(of.iter().map(|&one| one.to_owned()).collect())
}

fn request(spec: CertificateSigningRequestSpec) -> CertificateSigningRequest {
    CertificateSigningRequest {
        spec,
        ..Default::default()
    }
}

/// What a sound kubelet files with its token.
fn client(pem: Vec<u8>) -> CertificateSigningRequest {
    request(CertificateSigningRequestSpec {
        signer_name: CLIENT_SIGNER.to_owned(),
        username: Some("system:bootstrap:abcdef".to_owned()),
        groups: strings(&[
            "system:bootstrappers",
            names::BOOTSTRAP_GROUP,
            "system:authenticated",
        ]),
        usages: strings(&["digital signature", "client auth"]),
        request: ByteString(pem),
        ..Default::default()
    })
}

/// What a sound kubelet files for its own server.
fn serving(pem: Vec<u8>) -> CertificateSigningRequest {
    request(CertificateSigningRequestSpec {
        signer_name: SERVING_SIGNER.to_owned(),
        username: Some(format!("system:node:{NODE}")),
        groups: strings(&[names::NODES_GROUP, "system:authenticated"]),
        usages: strings(&["digital signature", "server auth"]),
        request: ByteString(pem),
        ..Default::default()
    })
}

fn good_client() -> CertificateSigningRequest {
    client(pem(&params(&[])))
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
    assert_eq!(verdict(csr, Some(&expectation())), Verdict::Refuse(refusal));
}

#[track_caller]
fn approved(csr: &CertificateSigningRequest) {
    assert_eq!(verdict(csr, Some(&expectation())), Verdict::Approve);
}

#[test]
fn the_expected_ones_are_approved() {
    approved(&good_client());
    approved(&good_serving());
    // Any part of the own names will do.
    for name in own_names() {
        approved(&serving(pem(&params(&[name]))));
    }
}

#[test]
fn other_sound_keys_are_approved() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        approved(&client(signed(
            &params(&[]),
            &KeyPair::generate_for(algorithm).unwrap(),
        )));
    }
    let usages = strings(&["key encipherment", "digital signature", "client auth"]);
    approved(&edited(client(RSA_2048_SHA256.into()), |spec| {
        spec.usages = usages
    }));
}

#[test]
fn key_usages_may_be_asked_for_in_the_request_too() {
    let mut params = params(&[]);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    approved(&client(pem(&params)));
}

#[test]
fn the_order_of_the_subject_is_free() {
    let mut params = params(&[]);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{NODE}"));
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    approved(&client(pem(&params)));
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
        assert_eq!(verdict(&csr, Some(&expectation())), Verdict::Ignore, "{type_}");
        assert_eq!(is_approved(&csr), type_ == "Approved");
    }
    let mut signed = good_client();
    let certificate = Some(ByteString(b"certificate".to_vec()));
    signed.status = Some(CertificateSigningRequestStatus {
        certificate,
        ..Default::default()
    });
    assert_eq!(verdict(&signed, Some(&expectation())), Verdict::Ignore);
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
        assert_eq!(verdict(&csr, Some(&expectation())), Verdict::Ignore, "{user}");
    }
    assert_eq!(
        verdict(&edited(good_client(), |spec| spec.username = None), None),
        Verdict::Ignore
    );
    let kubeadm = edited(good_client(), |spec| {
        spec.groups = strings(&["system:bootstrappers:kubeadm:default-node-token"]);
    });
    assert_eq!(verdict(&kubeadm, None), Verdict::Ignore);
}

#[test]
fn requesters_lead_to_their_record() {
    assert_eq!(requester(&good_client()), Some(Requester::Token("abcdef")));
    assert_eq!(requester(&good_serving()), Some(Requester::Node(NODE)));
}

#[test]
fn our_identities_without_a_record() {
    assert_eq!(verdict(&good_client(), None), Verdict::Refuse(Refusal::NoRecord));
    assert_eq!(verdict(&good_serving(), None), Verdict::Refuse(Refusal::NoRecord));
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
    // A renewal: the record outlives no certificate.
    refused(
        &edited(good_serving(), signer(CLIENT_SIGNER)),
        Refusal::WrongSigner,
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
        strings(&[]),
        strings(&["system:bootstrappers", "system:nodes2"]),
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
        verdict(&good_client(), Some(&late)),
        Verdict::Refuse(Refusal::NotWaiting)
    );
    let second = Expectation {
        approved_client: true,
        ..expectation()
    };
    assert_eq!(
        verdict(&good_client(), Some(&second)),
        Verdict::Refuse(Refusal::SecondClient)
    );
    // Serving certificates come after the join.
    let joined = Expectation {
        accepts_client: false,
        approved_client: true,
        ..expectation()
    };
    assert_eq!(verdict(&good_serving(), Some(&joined)), Verdict::Approve);
}

#[test]
fn a_bounded_number_of_serving_certificates() {
    let last = Expectation {
        approved_serving: MAX_SERVING - 1,
        ..expectation()
    };
    assert_eq!(verdict(&good_serving(), Some(&last)), Verdict::Approve);
    let full = Expectation {
        approved_serving: MAX_SERVING,
        ..expectation()
    };
    assert_eq!(
        verdict(&good_serving(), Some(&full)),
        Verdict::Refuse(Refusal::TooManyServing)
    );
}

#[test]
fn serving_waits_for_the_address() {
    let unknown = Expectation {
        address: None,
        ..expectation()
    };
    assert_eq!(verdict(&good_serving(), Some(&unknown)), Verdict::Wait);
    // What no address can make good is refused at once.
    let foreign = serving(pem(&params(&[SanType::DnsName(
        "kubernetes.default.svc".try_into().unwrap(),
    )])));
    assert_eq!(
        verdict(&foreign, Some(&unknown)),
        Verdict::Refuse(Refusal::ForeignName)
    );
}

#[test]
fn malformed_requests() {
    let good = pem(&params(&[]));
    let text = String::from_utf8(good.clone()).unwrap();
    let der = params(&[])
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec();
    let trailing = [der.as_slice(), &[0]].concat();
    let truncated = &der[..der.len() - 1];
    for bad in [
        Vec::new(),
        b"garbage".to_vec(),
        vec![0xff; 64],
        der.clone(),
        text.replace("CERTIFICATE REQUEST", "CERTIFICATE").into_bytes(),
        text.replace("-----END", "----END").into_bytes(),
        // A second block, or a header, that another decoder might take for the first.
        [good.as_slice(), &good].concat(),
        text.replacen("REQUEST-----\n", "REQUEST-----\nA: b\n\n", 1)
            .into_bytes(),
        format!("x\n{text}").into_bytes(),
        armored(b""),
        armored(b"garbage"),
        armored(&trailing),
        armored(truncated),
    ] {
        let shown = String::from_utf8_lossy(&bad).into_owned();
        let verdict = verdict(&client(bad), Some(&expectation()));
        assert_eq!(verdict, Verdict::Refuse(Refusal::Malformed), "{shown}");
    }
    approved(&client(armored(&der)));
}

#[test]
fn bad_signatures() {
    let key = KeyPair::generate().unwrap();
    let mut foreign = params(&[]);
    foreign.distinguished_name = subject("system:nodes", &format!("system:node:{OTHER_NODE}"));
    let mut der = foreign.serialize_request(&key).unwrap().der().to_vec();
    let at = der
        .windows(NODE.len())
        .position(|window| window == OTHER_NODE.as_bytes())
        .unwrap();
    der[at..at + NODE.len()].copy_from_slice(NODE.as_bytes());
    refused(&client(armored(&der)), Refusal::BadSignature);
    refused(&client(RSA_1024_SHA1.into()), Refusal::BadSignature);
}

#[test]
fn another_subject() {
    let own = format!("system:node:{NODE}");
    let mut unit = subject("system:nodes", &own);
    unit.push(DnType::OrganizationalUnitName, "more");
    let mut masters = subject("system:nodes", &own);
    masters.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "system:masters");
    let mut nameless = DistinguishedName::new();
    nameless.push(DnType::OrganizationName, "system:nodes");
    for bad in [
        subject("system:nodes", "system:node:control-plane-1"),
        subject("system:nodes", &format!("system:node:{OTHER_NODE}")),
        subject("system:nodes", &format!("{own} ")),
        subject("system:nodes", NODE),
        subject("system:masters", &own),
        subject("system:nodes", ""),
        unit,
        masters,
        nameless,
        DistinguishedName::new(),
    ] {
        let mut client_params = params(&[]);
        client_params.distinguished_name = bad.clone();
        refused(&client(pem(&client_params)), Refusal::WrongSubject);
        let mut serving_params = params(&own_names());
        serving_params.distinguished_name = bad;
        refused(&serving(pem(&serving_params)), Refusal::WrongSubject);
    }
}

#[test]
fn clients_have_no_other_names() {
    for name in own_names() {
        refused(&client(pem(&params(&[name]))), Refusal::ForeignName);
    }
}

#[test]
fn serving_for_other_names() {
    refused(&serving(pem(&params(&[]))), Refusal::MissingName);
    for foreign in [
        SanType::DnsName("kubernetes.default.svc".try_into().unwrap()),
        SanType::DnsName(OTHER_NODE.try_into().unwrap()),
        SanType::DnsName(format!("{NODE}.").try_into().unwrap()),
        SanType::DnsName("*".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
        SanType::IpAddress(format!("::ffff:{ADDRESS}").parse().unwrap()),
        SanType::Rfc822Name(format!("root@{NODE}").try_into().unwrap()),
        SanType::URI(format!("spiffe://{NODE}").try_into().unwrap()),
        SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], NODE.into())),
    ] {
        let mut names = own_names();
        names.push(foreign.clone());
        let verdict = verdict(&serving(pem(&params(&names))), Some(&expectation()));
        assert_eq!(verdict, Verdict::Refuse(Refusal::ForeignName), "{foreign:?}");
    }
}

#[test]
fn other_extensions_and_attributes() {
    let mut authority = params(&[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    refused(&client(pem(&authority)), Refusal::ForeignExtension);

    for (oid, content) in [
        (vec![1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]),
        (vec![2, 5, 29, 17], vec![1, 2, 3]),
    ] {
        let mut extended = params(&[]);
        extended.custom_extensions = vec![CustomExtension::from_oid_content(&oid, content)];
        refused(&client(pem(&extended)), Refusal::ForeignExtension);
    }

    // A challenge password (RFC 2985, 5.4.1): SET { UTF8String "abc" }.
    let password = Attribute {
        oid: &[1, 2, 840, 113_549, 1, 9, 7],
        values: vec![0x31, 5, 0x0c, 3, b'a', b'b', b'c'],
    };
    let key = KeyPair::generate().unwrap();
    let request = params(&[])
        .serialize_request_with_attributes(&key, vec![password])
        .unwrap();
    refused(
        &client(request.pem().unwrap().into_bytes()),
        Refusal::ForeignExtension,
    );
}

#[test]
fn other_usages() {
    for usages in [
        None,
        strings(&[]),
        strings(&["digital signature"]),
        strings(&["digital signature", "client auth", "server auth"]),
        strings(&["digital signature", "client auth", "cert sign"]),
    ] {
        refused(
            &edited(good_client(), |spec| spec.usages = usages.clone()),
            Refusal::WrongUsages,
        );
        refused(
            &edited(good_serving(), |spec| spec.usages = usages),
            Refusal::WrongUsages,
        );
    }
    let swapped = strings(&["digital signature", "server auth"]);
    refused(
        &edited(good_client(), |spec| spec.usages = swapped),
        Refusal::WrongUsages,
    );
}

/// `openssl req -new -newkey rsa:2048 -sha256`, for [`NODE`].
const RSA_2048_SHA256: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIICoDCCAYgCAQAwWzEVMBMGA1UECgwMc3lzdGVtOm5vZGVzMUIwQAYDVQQDDDlz
eXN0ZW06bm9kZTptYXJvb25lZC04YzJmNGY5ZS01MmIzLTRkMWMtOWE3Ny0wZDZm
NmYyZjdiMTAwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQDBg1NV0wrM
Txn6bn55vIn7pGZqh38UAcS9crF3+hmTWOITnwlgWuqev8R3QJfD8DzlYfPkZrFN
2mUFzwgQbhmPxQq5ZPrF2Tr7qv5c8ggi0eOZRT6pwOJweLtK/hAM1HFLDMe4RWko
kHPQG1b+VpZJr0Dss9+RESDb6lBwJ13RA6M0yEeBjaND7u8CKP/Wvq2SXmnCsMMU
cWVq0/KJ2r8XU2Md0LUWKjKKuxBJahInhJfJblygFk5QwTlgMBe1j2Z/fXwOeoxp
V81kTA06SjidTWAfaHe0Ky6m1xPyuG1r5odmk7Daw7gcEOaPkh/+BOL1Q7iZJmDB
DMdAIRRXpPAVAgMBAAGgADANBgkqhkiG9w0BAQsFAAOCAQEAnyYWBSseA97pLMdq
OEPVxWuy8hW5DufvXoyijj0H+8qeA7WMLBG1499imf7x3o6yitTUbT0sCbw0apoq
lgnoCFXc1iPKDQtxPS7VGlsOoONSPiKxRu06YpqZq8Gw8afGB5bQVTzBZsT00b6l
zE42O+rQooC6nQ2Wql7W19Icxmpoflsy3Q2urAY3C8ZO3povox7L+ZmeXFo9tT4T
Oj/VW8wUkaYxj55N488q+llc4bITCqLG7P8mBCqyJFbxzJQm3kdaDJmmIFQT3jPP
gJYAErTQ2Bvkh/JRrXJk8nV74yKAK3uc617h6M/5kZaagx6TQgoFK4p9NQXvoyoN
YVfDvQ==
-----END CERTIFICATE REQUEST-----
";

/// `openssl req -new -newkey rsa:1024 -sha1`, for [`NODE`].
const RSA_1024_SHA1: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIIBmzCCAQQCAQAwWzEVMBMGA1UECgwMc3lzdGVtOm5vZGVzMUIwQAYDVQQDDDlz
eXN0ZW06bm9kZTptYXJvb25lZC04YzJmNGY5ZS01MmIzLTRkMWMtOWE3Ny0wZDZm
NmYyZjdiMTAwgZ8wDQYJKoZIhvcNAQEBBQADgY0AMIGJAoGBANwFyACIVI5r9AYq
CbGTzomOSXCmHj5iw5W1ebXt582oBJ7sVi+bcAsxF+qSb1YBF8es7LzR/ucCaCPB
9qwspcWa0+CWbzRWTfTHIoaUVpUJEDRbiqo4WnTQcTVeObTkl+8Qf7z2C76UPApj
8ECqTxvTqqjYvemWrzAy4slkheIfAgMBAAGgADANBgkqhkiG9w0BAQUFAAOBgQBu
b3Fce/uTRqyJXnaxzwVatwLrKO7iwm6eJW9YNbxrE5bOv/iPClwmotCrJtp+s5ry
1Xc7xS/6eRD/xYG32aQD179Qha1syMRfqaAbl6jdmFLsL/PUh+oidUGN4xFgBlpC
rWZATox3XWCTxurVKXN8xYIqCUrXLmNQ5v09MPVB4g==
-----END CERTIFICATE REQUEST-----
";
