//! Makes a pair: a CA for this one leaf, whose key is gone when the leaf is signed.
//!
//! A CA that can sign nothing more needs no safe place, and trusting it is trusting the one leaf.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

/// By how much other clocks may be behind ours.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A new pair, PEM.
pub struct Issued {
    /// The CA.
    pub ca: String,
    /// The leaf.
    pub certificate: String,
    /// The leaf's private key, PKCS #8.
    pub key: String,
}

/// A serving certificate for `dns_name`, ECDSA P-256, and the CA that vouches for it alone. Both are valid from an
/// hour before `now` until `lifetime` after it.
///
/// # Errors
/// The system has no randomness, or the name is none.
pub fn issue(dns_name: &str, now: SystemTime, lifetime: Duration) -> Result<Issued, rcgen::Error> {
    let valid = |mut params: CertificateParams, common_name: String| {
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + lifetime).into();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params
    };
    let key = KeyPair::generate()?;
    // Named after the leaf: a client that trusts several finds the right one by name.
    let serial: String = key
        .public_key_raw()
        .iter()
        .skip(1)
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut ca = valid(
        CertificateParams::default(),
        format!("maroonedpods-webhook-ca-{serial}"),
    );
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

    let leaf = CertificateParams::new(vec![dns_name.to_owned()])?;
    let mut leaf = valid(leaf, format!("maroonedpods-webhook-{serial}"));
    leaf.use_authority_key_identifier_extension = true;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(Issued {
        certificate: leaf.signed_by(&key, &ca)?.pem(),
        key: key.serialize_pem(),
        ca: ca.pem(),
    })
}
