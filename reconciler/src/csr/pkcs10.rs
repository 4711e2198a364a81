//! Reads a certificate signing request (PKCS#10, RFC 2986) into the few facts that a decision needs.
//!
//! x509-parser decodes the request and verifies its signature; only the PEM block around it is decoded by hand.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_X509_COMMON_NAME};
use x509_parser::oid_registry::{OID_X509_ORGANIZATION_NAME, Oid};
use x509_parser::prelude::FromDer;

/// What a request contains, besides the key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pkcs10 {
    /// Every attribute of the subject, in the request's order.
    pub subject: Vec<SubjectAttribute>,
    /// Every subject alternative name.
    pub names: Vec<Name>,
    /// Whether it contains anything other than names and key usages.
    pub more: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum SubjectAttribute {
    Organization(String),
    CommonName(String),
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    Dns(String),
    Ip(IpAddr),
    /// Any other kind, such as e-mail, URI or directory name.
    Other,
}

/// Why a request cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Malformed,
    BadSignature,
}

/// Reads a PEM request that its own key signed. SHA-1 signatures and RSA keys below 2048 bits count as bad.
pub(super) fn read(pem: &[u8]) -> Result<Pkcs10, Unreadable> {
    let der = decode(pem).ok_or(Unreadable::Malformed)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| Unreadable::Malformed)?;
    if !rest.is_empty() {
        return Err(Unreadable::Malformed);
    }
    let algorithm = &request.signature_algorithm.algorithm;
    let sha1 = *algorithm == OID_PKCS1_SHA1WITHRSA || *algorithm == OID_SHA1_WITH_RSA;
    if sha1 || request.verify_signature().is_err() {
        return Err(Unreadable::BadSignature);
    }

    let info = &request.certification_request_info;
    let mut names = Vec::new();
    let mut more = false;
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else {
            more = true;
            continue;
        };
        for extension in &requested.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => {
                    names.extend(san.general_names.iter().map(name));
                }
                ParsedExtension::KeyUsage(_) | ParsedExtension::ExtendedKeyUsage(_) => {}
                _ => more = true,
            }
        }
    }
    let subject = info
        .subject
        .iter_attributes()
        .map(|part| subject_attribute(part.attr_type(), part.as_str().ok()));
    Ok(Pkcs10 {
        subject: subject.collect(),
        names,
        more,
    })
}

/// Decodes exactly one PEM block with nothing around it. Lenient decoders look for the first block that they accept,
/// and the signer's decoder might accept another block than ours.
fn decode(pem: &[u8]) -> Option<Vec<u8>> {
    let body = std::str::from_utf8(pem)
        .ok()?
        .trim_ascii()
        .strip_prefix("-----BEGIN CERTIFICATE REQUEST-----")?
        .strip_suffix("-----END CERTIFICATE REQUEST-----")?;
    let text: String = body.lines().collect();
    STANDARD.decode(text).ok()
}

fn subject_attribute(kind: &Oid<'_>, value: Option<&str>) -> SubjectAttribute {
    match value {
        Some(value) if *kind == OID_X509_ORGANIZATION_NAME => {
            SubjectAttribute::Organization(value.to_owned())
        }
        Some(value) if *kind == OID_X509_COMMON_NAME => SubjectAttribute::CommonName(value.to_owned()),
        _ => SubjectAttribute::Other,
    }
}

fn name(name: &GeneralName<'_>) -> Name {
    match name {
        GeneralName::DNSName(dns) => Name::Dns((*dns).to_owned()),
        GeneralName::IPAddress(octets) => address(octets).map_or(Name::Other, Name::Ip),
        _ => Name::Other,
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}
