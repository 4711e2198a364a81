//! Makes a pair: a CA for this one leaf certificate. The CA's key is dropped when the leaf is signed.
//!
//! Such a CA can sign nothing more: its key needs no safe place, and to trust it means to trust the one leaf.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

/// How far other clocks may be behind ours.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A new pair, as PEM.
pub struct Issued {
    /// The CA.
    pub ca: String,
    /// The leaf.
    pub certificate: String,
    /// The leaf's private key, PKCS #8.
    pub key: String,
}

/// A serving certificate for `dns_name`, ECDSA P-256, and a CA that signed only this certificate. Both are valid from
/// an hour before `now` until `lifetime` after it.
///
/// # Errors
/// The system has no randomness, or the name is not a DNS name.
pub fn issue(dns_name: &str, now: Timestamp, lifetime: Duration) -> Result<Issued, rcgen::Error> {
    let clock = SystemTime::from(now);
    let valid = |mut params: CertificateParams, common_name: String| {
        params.not_before = (clock - BACKDATED).into();
        params.not_after = (clock + lifetime).into();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params
    };
    // Each CA has a name of its own, by which a client that trusts several finds the right one.
    let mut ca = valid(
        CertificateParams::default(),
        format!("maroonedpods-webhook-ca {now}"),
    );
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

    let leaf = CertificateParams::new(vec![dns_name.to_owned()])?;
    let mut leaf = valid(leaf, "maroonedpods-webhook".to_owned());
    leaf.use_authority_key_identifier_extension = true;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    Ok(Issued {
        certificate: leaf.signed_by(&key, &ca)?.pem(),
        key: key.serialize_pem(),
        ca: ca.pem(),
    })
}
