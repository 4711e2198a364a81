//! Decisions on certificate signing requests: which guest gets which certificate.
//!
//! A bootstrap token may file a request for *any* node's name, and a node may request *any* subject alternative name:
//! the API server accepts both, and a signer signs every approved request. So these decisions are the only barrier,
//! and they approve only what a kubelet on a VM of ours requests:
//!
//! - one client certificate per attempt, for the Node of the record that the token was minted for, and its renewals
//!   until its pod has finished;
//! - serving certificates for that Node's name and the address that we wrote to it, nothing else.

mod filed;
mod pkcs10;

use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use maroonedpods_common::names;
use strum::{IntoStaticStr, VariantArray};

pub(crate) use filed::is_ours;
pub use filed::{Filed, MOST_DECIDED};
use pkcs10::{Name, Pkcs10, SubjectAttribute, Unreadable};

/// Signer of kubelets' client certificates.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of kubelets' serving certificates.
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// Serving certificates approved for one Node among the requests that still exist (kube-controller-manager removes an
/// approved one after an hour). A kubelet files a new request when it lost its key, when its address changed, and
/// when seven to nine tenths of the certificate's life are over: this is enough for a signer whose certificates last
/// minutes.
pub const MAX_SERVING: usize = 20;
/// The same for renewed client certificates.
pub const MAX_RENEWALS: usize = 20;

/// What one record's guest may request now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Name of the record's Node.
    pub node_name: String,
    /// Id of the token minted for the attempt under way.
    pub token_id: String,
    /// Whether the record still waits for its guest to join (phase Launched). If the cache says no, this must come
    /// from a live read: a guest may be faster than the watch, and a refusal is final.
    pub accepts_client: bool,
    /// Whether another client request by this token is approved already.
    pub approved_client: bool,
    /// The address that we wrote to the Node, once the VM has one.
    pub address: Option<IpAddr>,
    /// How many other serving requests of this Node are approved, among those that exist.
    pub approved_serving: usize,
    /// Whether the Node may renew its client certificate: its kubelet has joined, and its pod has not finished.
    pub accepts_renewal: bool,
    /// How many other renewals of this Node are approved, among those that exist.
    pub approved_renewals: usize,
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is the expected request.
    Approve,
    /// It must never be signed.
    Refuse(Refusal),
    /// A sound request that cannot be granted yet: the VM's address is not known, or the Node may not renew now.
    Wait,
    /// Already decided, or filed by a user who is not ours.
    Ignore,
}

/// Why a request is refused: the reason of the condition `Denied`, and the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
pub enum Refusal {
    /// The user is one of ours, but there is no record for it.
    NoRecord,
    /// The signer is not one for this user.
    WrongSigner,
    /// Not the user that this record expects.
    WrongUser,
    /// The user lacks the group that belongs to it.
    MissingGroup,
    /// The record does not wait for a guest to join.
    NotWaiting,
    /// The attempt has its client certificate already.
    SecondClient,
    /// This Node has more serving certificates than a healthy kubelet needs.
    TooManyServing,
    /// This Node renews its client certificate more often than a healthy kubelet.
    TooManyRenewals,
    /// Not one PEM block with one PKCS#10 request.
    Malformed,
    /// Not signed by the key that it carries, or with a weak algorithm.
    BadSignature,
    /// Not the Node's subject.
    WrongSubject,
    /// A serving request without a subject alternative name.
    MissingName,
    /// A subject alternative name that does not belong to the Node.
    ForeignName,
    /// An attribute or extension other than names and key usages.
    ForeignExtension,
    /// Not the usages of a kubelet.
    WrongUsages,
}

impl Refusal {
    /// What was expected. Never text of the request: its author may be hostile.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::NoRecord => "expected a MaroonedNode for this token or node, but there is none",
            Self::WrongSigner => {
                "expected signer kubernetes.io/kube-apiserver-client-kubelet, or kubernetes.io/kubelet-serving from \
                 the node itself"
            }
            Self::WrongUser => "expected the user of this attempt's own token, or the node itself",
            Self::MissingGroup => {
                "expected group system:bootstrappers:maroonedpods for a bootstrap token, system:nodes for a node"
            }
            Self::NotWaiting => "expected a MaroonedNode in phase Launched, but it is in another phase",
            Self::SecondClient => "expected one client request per attempt, but one is approved already",
            Self::TooManyServing => {
                "expected at most 20 approved serving requests of one node within an hour"
            }
            Self::TooManyRenewals => "expected at most 20 approved renewals of one node within an hour",
            Self::Malformed => "expected one PEM block that holds one PKCS#10 certificate request",
            Self::BadSignature => {
                "expected a signature by the request's own key: ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits \
                 or more with SHA-2"
            }
            Self::WrongSubject => {
                "expected subject O=system:nodes, CN=system:node:<name of the node>, and nothing else"
            }
            Self::MissingName => {
                "expected the node's name or address as subject alternative name, but there is none"
            }
            Self::ForeignName => {
                "expected no subject alternative names but the node's own name and address, and those only for \
                 serving"
            }
            Self::ForeignExtension => "expected no attributes or extensions beyond names and key usages",
            Self::WrongUsages => {
                "expected digital signature, optionally key encipherment, and client auth (server auth for serving)"
            }
        }
    }
}

/// Who filed a request, as the API server authenticated them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Requester<'a> {
    /// A bootstrap token, by its id. It may be ours or another program's.
    Token(&'a str),
    /// One of our Nodes, by its name.
    Node(&'a str),
}

/// The requester, by which the caller finds the record; `None` for users that are certainly not ours.
#[must_use]
pub fn requester(csr: &CertificateSigningRequest) -> Option<Requester<'_>> {
    requester_of(csr.spec.username.as_deref()?)
}

fn requester_of(user: &str) -> Option<Requester<'_>> {
    if let Some(id) = user.strip_prefix(names::BOOTSTRAP_USER_PREFIX) {
        return Some(Requester::Token(id));
    }
    let node = user.strip_prefix(names::NODE_USER_PREFIX)?;
    names::pod_uid_of(node).map(|_| Requester::Node(node))
}

/// Whether the request is for a client certificate, not a serving certificate.
#[must_use]
pub fn asks_for_client(csr: &CertificateSigningRequest) -> bool {
    csr.spec.signer_name == CLIENT_SIGNER
}

/// Whether no one has decided on the request yet.
#[must_use]
pub fn is_pending(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().is_none_or(|status| {
        status.certificate.is_none() && status.conditions.as_ref().is_none_or(Vec::is_empty)
    })
}

/// Whether the request is approved, signed or not.
#[must_use]
pub fn is_approved(csr: &CertificateSigningRequest) -> bool {
    let conditions = csr
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Approved")
}

/// The decision on `csr`, given the record of its [`requester`].
///
/// `None` means that there is no such record; the caller must have made sure of that with a live read, because a
/// refusal is final.
#[must_use]
pub fn decide(csr: &CertificateSigningRequest, expected: Option<&Expectation>) -> Decision {
    if !is_pending(csr) {
        return Decision::Ignore;
    }
    let decided = match (requester(csr), expected) {
        (None, _) => return Decision::Ignore,
        // The token belongs to another program, kubeadm perhaps.
        (Some(Requester::Token(_)), None) if !in_group(csr, names::BOOTSTRAP_GROUP) => {
            return Decision::Ignore;
        }
        (Some(_), None) => Err(Refusal::NoRecord),
        (Some(Requester::Token(id)), Some(expected)) => decide_client(csr, id, expected),
        (Some(Requester::Node(name)), Some(expected)) if asks_for_client(csr) => {
            decide_renewal(csr, name, expected)
        }
        (Some(Requester::Node(name)), Some(expected)) => decide_serving(csr, name, expected),
    };
    decided.unwrap_or_else(Decision::Refuse)
}

/// Whether the request cannot be approved at present whatever its content. This is known without parsing the content,
/// which is the expensive part.
#[must_use]
pub fn is_hopeless(csr: &CertificateSigningRequest, expected: &Expectation) -> bool {
    match requester(csr) {
        Some(Requester::Token(id)) => {
            id != expected.token_id || expected.approved_client || !expected.accepts_client
        }
        Some(Requester::Node(name)) => {
            let full = if asks_for_client(csr) {
                expected.approved_renewals >= MAX_RENEWALS
            } else {
                expected.approved_serving >= MAX_SERVING
            };
            full || name != expected.node_name
        }
        None => true,
    }
}

fn decide_client(
    csr: &CertificateSigningRequest,
    token_id: &str,
    expected: &Expectation,
) -> Result<Decision, Refusal> {
    require(csr.spec.signer_name == CLIENT_SIGNER, Refusal::WrongSigner)?;
    require(token_id == expected.token_id, Refusal::WrongUser)?;
    require(in_group(csr, names::BOOTSTRAP_GROUP), Refusal::MissingGroup)?;
    let asked = read(csr, expected)?;
    require(asked.names.is_empty(), Refusal::ForeignName)?;
    require(has_usages(csr, "client auth"), Refusal::WrongUsages)?;
    require(!expected.approved_client, Refusal::SecondClient)?;
    require(expected.accepts_client, Refusal::NotWaiting)?;
    Ok(Decision::Approve)
}

/// With a Node's certificate a client may get another one for the same Node, and for no other.
fn decide_renewal(
    csr: &CertificateSigningRequest,
    node_name: &str,
    expected: &Expectation,
) -> Result<Decision, Refusal> {
    require(node_name == expected.node_name, Refusal::WrongUser)?;
    require(in_group(csr, names::NODES_GROUP), Refusal::MissingGroup)?;
    let asked = read(csr, expected)?;
    require(asked.names.is_empty(), Refusal::ForeignName)?;
    require(has_usages(csr, "client auth"), Refusal::WrongUsages)?;
    require(
        expected.approved_renewals < MAX_RENEWALS,
        Refusal::TooManyRenewals,
    )?;
    Ok(if expected.accepts_renewal {
        Decision::Approve
    } else {
        Decision::Wait
    })
}

fn decide_serving(
    csr: &CertificateSigningRequest,
    node_name: &str,
    expected: &Expectation,
) -> Result<Decision, Refusal> {
    require(csr.spec.signer_name == SERVING_SIGNER, Refusal::WrongSigner)?;
    require(node_name == expected.node_name, Refusal::WrongUser)?;
    require(in_group(csr, names::NODES_GROUP), Refusal::MissingGroup)?;
    let asked = read(csr, expected)?;
    require(!asked.names.is_empty(), Refusal::MissingName)?;
    let is_own = |name: &Name| match name {
        Name::Dns(dns) => *dns == expected.node_name,
        Name::Ip(ip) => expected.address.is_none_or(|address| address == *ip),
        Name::Other => false,
    };
    require(asked.names.iter().all(is_own), Refusal::ForeignName)?;
    require(has_usages(csr, "server auth"), Refusal::WrongUsages)?;
    require(expected.approved_serving < MAX_SERVING, Refusal::TooManyServing)?;
    Ok(if expected.address.is_some() {
        Decision::Approve
    } else {
        Decision::Wait
    })
}

/// Parses the PKCS#10 part, and requires what client and serving requests have in common.
fn read(csr: &CertificateSigningRequest, expected: &Expectation) -> Result<Pkcs10, Refusal> {
    let asked = pkcs10::read(&csr.spec.request.0).map_err(|unreadable| match unreadable {
        Unreadable::Malformed => Refusal::Malformed,
        Unreadable::BadSignature => Refusal::BadSignature,
    })?;
    let organization = SubjectAttribute::Organization(names::NODES_GROUP.to_owned());
    let common_name =
        SubjectAttribute::CommonName(format!("{}{}", names::NODE_USER_PREFIX, expected.node_name));
    let subject_is_exact = asked.subject.len() == 2
        && asked.subject.contains(&organization)
        && asked.subject.contains(&common_name);
    require(subject_is_exact, Refusal::WrongSubject)?;
    require(!asked.more, Refusal::ForeignExtension)?;
    Ok(asked)
}

fn require(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

fn in_group(csr: &CertificateSigningRequest, group: &str) -> bool {
    csr.spec.groups.iter().flatten().any(|member| member == group)
}

/// Kubelets request digital signature and `needed`, and key encipherment if the key is RSA.
fn has_usages(csr: &CertificateSigningRequest, needed: &str) -> bool {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let allowed = ["digital signature", "key encipherment", needed];
    usages.iter().all(|usage| allowed.contains(&usage.as_str())) && usages.iter().any(|usage| usage == needed)
}

#[cfg(test)]
pub(crate) mod tests;
