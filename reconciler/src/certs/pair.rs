//! A pair as it is stored: certificates, a key, and the CAs that signed them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

const CERTIFICATE: &str = "CERTIFICATE";

/// The keys in the Secret's data under which a pair's parts are stored.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// The CAs.
    pub ca: &'static str,
    /// The leaf, and the intermediates between it and a CA.
    pub certificate: &'static str,
    /// The leaf's private key.
    pub key: &'static str,
}

/// The pair that webhook pods are given; laid out as cert-manager does.
pub const CURRENT: Keys = Keys {
    ca: "ca.crt",
    certificate: "tls.crt",
    key: "tls.key",
};
/// The pair that takes its place next.
pub const NEXT: Keys = Keys {
    ca: "next-ca.crt",
    certificate: "next-tls.crt",
    key: "next-tls.key",
};

/// A set of CA certificates, DER.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle(BTreeSet<Vec<u8>>);

impl Bundle {
    /// The certificates in a PEM text. A text that is not PEM holds none.
    #[must_use]
    pub fn from_pem(text: &[u8]) -> Self {
        let blocks = pem::parse_many(text).unwrap_or_default().into_iter();
        blocks
            .filter(|block| block.tag() == CERTIFICATE)
            .map(pem::Pem::into_contents)
            .collect()
    }

    /// As PEM; always the same text for the same set.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let blocks: Vec<_> = self
            .0
            .iter()
            .map(|der| pem::Pem::new(CERTIFICATE, der.clone()))
            .collect();
        let unix = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_many_config(&blocks, unix)
    }

    /// Whether all of `other` is in this bundle.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.0.is_superset(&other.0)
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    /// The number of certificates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no CA is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The roots for a TLS client that trusts this bundle. Leaves out what is not a certificate.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.0.iter().map(|der| CertificateDer::from(der.as_slice())));
        Arc::new(roots)
    }

    /// When the last of the CAs ends.
    fn not_after(&self) -> Option<Timestamp> {
        self.0.iter().filter_map(|der| not_after(der)).max()
    }
}

impl FromIterator<Vec<u8>> for Bundle {
    fn from_iter<I: IntoIterator<Item = Vec<u8>>>(certificates: I) -> Self {
        Self(certificates.into_iter().collect())
    }
}

/// A pair that API servers accept now if they trust `trust`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The CAs that signed it.
    pub trust: Bundle,
    /// When it ends, or the last of its CAs if that is sooner.
    pub not_after: Timestamp,
}

/// Why a pair cannot be used.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A part is missing.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// A part is not valid PEM of its kind.
    #[error("{0} is not usable")]
    Malformed(&'static str),
    /// The parts do not fit each other, the webhook's name or the time.
    #[error("the pair is not usable: {0}")]
    Unusable(String),
}

impl Pair {
    /// Reads a pair and verifies it as an API server does: for this DNS name, at this time.
    ///
    /// # Errors
    /// What is wrong with the pair.
    pub fn read(
        data: &BTreeMap<String, ByteString>,
        keys: Keys,
        dns_name: &str,
        now: Timestamp,
    ) -> Result<Self, Flaw> {
        let part = |name| match data.get(name) {
            Some(ByteString(content)) if !content.is_empty() => Ok(content.as_slice()),
            _ => Err(Flaw::Missing(name)),
        };
        let trust = Bundle::from_pem(part(keys.ca)?);
        let chain = CertificateDer::pem_slice_iter(part(keys.certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Flaw::Malformed(keys.certificate))?;
        let key = PrivateKeyDer::from_pem_slice(part(keys.key)?).map_err(|_| Flaw::Malformed(keys.key))?;
        let (leaf, between) = chain.split_first().ok_or(Flaw::Malformed(keys.certificate))?;
        verify(leaf, between, &trust, dns_name, now)?;
        let ends = not_after(leaf).ok_or(Flaw::Malformed(keys.certificate))?;
        let trust_ends = trust.not_after().ok_or(Flaw::Malformed(keys.ca))?;
        // Unlike Go, rustls does not check when a root ends.
        if trust_ends < now {
            return Err(Flaw::Unusable("its CA has expired".to_owned()));
        }
        CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(unusable)?;
        Ok(Self {
            trust,
            not_after: ends.min(trust_ends),
        })
    }
}

fn verify(
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    trust: &Bundle,
    dns_name: &str,
    now: Timestamp,
) -> Result<(), Flaw> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(trust.roots(), provider)
        .build()
        .map_err(unusable)?;
    let name = ServerName::try_from(dns_name).map_err(unusable)?;
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verifier
        .verify_server_cert(leaf, between, &name, &[], time)
        .map(drop)
        .map_err(unusable)
}

fn unusable(error: impl std::fmt::Display) -> Flaw {
    Flaw::Unusable(error.to_string())
}

fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}
