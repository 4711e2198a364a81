//! Certificate requests with real PKCS#10 content. All worlds share the keys: no test depends on whose they are.

use std::sync::LazyLock;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use maroonedpods_common::names;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::{ADDRESS, FOREIGN_ADDRESS, POD_UID, World};
use crate::csr::{self, CLIENT_SIGNER, SERVING_SIGNER};

/// What a guest requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CsrKind {
    /// Its Node's client certificate, with its token.
    Client,
    /// Its Node's serving certificate.
    Serving,
    /// Its Node's serving certificate, for another VM's address.
    OtherAddress,
    /// A renewal of its Node's client certificate, with the present one.
    Renewal,
    /// A client certificate for another Node, with its token.
    OtherNode,
}

static CLIENT: LazyLock<Vec<u8>> = LazyLock::new(|| pem(&names::node_name(&POD_UID.into()), &[]));
static SERVING: LazyLock<Vec<u8>> = LazyLock::new(|| serving(ADDRESS));
static OTHER_ADDRESS: LazyLock<Vec<u8>> = LazyLock::new(|| serving(FOREIGN_ADDRESS));
static OTHER_NODE: LazyLock<Vec<u8>> = LazyLock::new(|| pem("worker-1", &[]));

fn serving(address: &str) -> Vec<u8> {
    let node = names::node_name(&POD_UID.into());
    let own = [
        SanType::DnsName(node.as_str().try_into().unwrap()),
        SanType::IpAddress(address.parse().unwrap()),
    ];
    pem(&node, &own)
}

fn pem(node: &str, names: &[SanType]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, names::NODES_GROUP);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node}"));
    params.subject_alt_names = names.to_vec();
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    request.pem().unwrap().into_bytes()
}

impl CsrKind {
    pub(in crate::plan::tests) fn request(self, token_id: &str) -> CertificateSigningRequest {
        let (pem, signer, usage) = match self {
            Self::Client | Self::Renewal => (&CLIENT, CLIENT_SIGNER, "client auth"),
            Self::OtherNode => (&OTHER_NODE, CLIENT_SIGNER, "client auth"),
            Self::Serving => (&SERVING, SERVING_SIGNER, "server auth"),
            Self::OtherAddress => (&OTHER_ADDRESS, SERVING_SIGNER, "server auth"),
        };
        let (user, group) = match self {
            Self::Client | Self::OtherNode => (
                format!("{}{token_id}", names::BOOTSTRAP_USER_PREFIX),
                names::BOOTSTRAP_GROUP,
            ),
            Self::Serving | Self::OtherAddress | Self::Renewal => (
                format!("{}{}", names::NODE_USER_PREFIX, names::node_name(&POD_UID.into())),
                names::NODES_GROUP,
            ),
        };
        CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                signer_name: signer.to_owned(),
                username: Some(user),
                groups: Some(vec![group.to_owned()]),
                usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
                request: ByteString(pem.to_vec()),
                ..CertificateSigningRequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        }
    }
}

impl World {
    /// Whether a serving certificate for another VM's address was approved.
    pub fn impersonates(&self) -> bool {
        let approved = self.objects.csrs.values().filter(|csr| csr::is_approved(csr));
        approved
            .into_iter()
            .any(|csr| csr.spec.request.0 == *OTHER_ADDRESS)
    }
}
