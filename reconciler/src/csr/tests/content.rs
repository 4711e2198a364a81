//! What the PKCS#10 part may contain.

use rcgen::{
    Attribute, BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};

use super::*;

/// `openssl req -new -newkey rsa:2048 -sha256`, for [`NODE`].
const RSA_2048_SHA256: &str = include_str!("../testdata/rsa-2048-sha256.pem");
/// `openssl req -new -newkey rsa:1024 -sha1`, for [`NODE`].
const RSA_1024_SHA1: &str = include_str!("../testdata/rsa-1024-sha1.pem");
/// The same with one weakness each.
const RSA_2048_SHA1: &str = include_str!("../testdata/rsa-2048-sha1.pem");
const RSA_1024_SHA256: &str = include_str!("../testdata/rsa-1024-sha256.pem");

fn armored(der: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n").into_bytes()
}

#[test]
fn other_sound_keys_are_approved() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        approved(&client(signed(
            &params(&[]),
            &KeyPair::generate_for(algorithm).unwrap(),
        )));
    }
    let usages = Some(strings(&["key encipherment", "digital signature", "client auth"]));
    approved(&edited(client(RSA_2048_SHA256.into()), |spec| {
        spec.usages = usages;
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
        let decision = decide(&client(bad), Some(&expectation()));
        assert_eq!(decision, Decision::Refuse(Refusal::Malformed), "{shown}");
    }
    approved(&client(armored(&der)));
}

/// The same request with the other identifier of RSA with SHA-1, 1.3.14.3.2.29 (OIW) for 1.2.840.113549.1.1.5 (RFC 8017).
/// The signature does not cover its own algorithm.
fn by_the_older_name(pem: &str) -> Vec<u8> {
    const RFC_8017: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5, 5, 0];
    const OIW: [u8; 11] = [0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1d, 5, 0];
    let mut der = pem::parse(pem).unwrap().into_contents();
    let at = der
        .windows(RFC_8017.len())
        .rposition(|window| window == RFC_8017)
        .unwrap();
    der.splice(at..at + RFC_8017.len(), OIW);
    // The outermost SEQUENCE: its tag, 0x82, and its length in two bytes.
    let length = u16::try_from(der.len() - 4).unwrap();
    der[2..4].copy_from_slice(&length.to_be_bytes());
    der
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
    for weak in [RSA_1024_SHA1, RSA_2048_SHA1, RSA_1024_SHA256] {
        refused(&client(weak.into()), Refusal::BadSignature);
    }
    refused(
        &client(armored(&by_the_older_name(RSA_2048_SHA1))),
        Refusal::BadSignature,
    );
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
        let decision = decide(&serving(pem(&params(&names))), Some(&expectation()));
        assert_eq!(decision, Decision::Refuse(Refusal::ForeignName), "{foreign:?}");
    }
}

/// RFC 5280, 4.2.1.6: an address has four octets, or sixteen.
#[test]
fn serving_for_addresses_of_both_families_and_for_nothing_that_is_none() {
    let six = Expectation {
        address: "fd00::7".parse().ok(),
        ..expectation()
    };
    let for_address = |address: &str| {
        let name = SanType::IpAddress(address.parse().unwrap());
        decide(&serving(pem(&params(&[name]))), Some(&six))
    };
    assert_eq!(for_address("fd00::7"), Decision::Approve);
    assert_eq!(for_address("fd00::8"), Decision::Refuse(Refusal::ForeignName));
    assert_eq!(for_address(ADDRESS), Decision::Refuse(Refusal::ForeignName));
    for octets in [&[10, 42, 0][..], &[10, 42, 0, 7, 255, 255, 255, 255]] {
        let length = u8::try_from(octets.len()).unwrap();
        let names = [&[0x30, length + 2, 0x87, length], octets].concat();
        let mut odd = params(&[]);
        odd.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        refused(&serving(pem(&odd)), Refusal::ForeignName);
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
        Some(strings(&[])),
        Some(strings(&["digital signature"])),
        Some(strings(&["digital signature", "client auth", "server auth"])),
        Some(strings(&["digital signature", "client auth", "cert sign"])),
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
    let swapped = Some(strings(&["digital signature", "server auth"]));
    refused(
        &edited(good_client(), |spec| spec.usages = swapped),
        Refusal::WrongUsages,
    );
}
