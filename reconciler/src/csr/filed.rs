//! Certificate requests as the cache keeps them. A guest that has one of our certificates can file requests without
//! end, even long after its record is gone. So the memory that one requester takes is bounded: of a few requests the
//! cache keeps all that a decision needs, of the rest only what their deletion needs.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use maroonedpods_common::names;

use super::{Requester, is_pending, requester, requester_of};
use crate::read::{Beyond, Bound, Keep, Kind, Mark, View};

/// How many pending requests of one requester are kept whole and decided. A kubelet has two, and a few more if the
/// reconciler was down. Of a requester with more, the requests beyond this number are deleted; it may file them
/// again.
pub const MOST_DECIDED: usize = 30;

/// Bytes of the longest request that is kept; a kubelet's has 2 KiB at most. A longer request counts as malformed.
const LONGEST_REQUEST: usize = 4 << 10;

/// The kept part of a request. Requests that are certainly not ours have none.
#[derive(Clone, Debug, PartialEq)]
pub enum Filed {
    /// The request as it was filed, without the fields that no decision needs. The PKCS#10 part of a decided request
    /// is not kept.
    Whole(Box<CertificateSigningRequest>),
    /// One of too many requests of a requester: only what its deletion needs is kept.
    Named(Named),
}

/// What the deletion of a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    name: String,
    uid: String,
    user: String,
}

impl Filed {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Whole(csr) => csr.metadata.name.as_deref().unwrap_or_default(),
            Self::Named(named) => &named.name,
        }
    }

    /// Its UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        match self {
            Self::Whole(csr) => csr.metadata.uid.as_deref().unwrap_or_default(),
            Self::Named(named) => &named.uid,
        }
    }

    /// The parts that a decision needs, if they are kept.
    #[must_use]
    pub fn whole(&self) -> Option<&CertificateSigningRequest> {
        match self {
            Self::Whole(csr) => Some(csr),
            Self::Named(_) => None,
        }
    }

    /// Who filed it.
    #[must_use]
    pub fn requester(&self) -> Option<Requester<'_>> {
        requester_of(self.user())
    }

    /// What its deletion needs.
    pub(crate) fn in_brief(&self) -> Self {
        Self::Named(Named {
            name: self.name().to_owned(),
            uid: self.uid().to_owned(),
            user: self.user().to_owned(),
        })
    }

    fn user(&self) -> &str {
        match self {
            Self::Whole(csr) => csr.spec.username.as_deref().unwrap_or_default(),
            Self::Named(named) => &named.user,
        }
    }
}

/// Whether one of our users filed it. A token's user name alone does not show that: kubeadm's tokens have the same
/// prefix.
pub(crate) fn is_ours(csr: &CertificateSigningRequest) -> bool {
    match requester(csr) {
        Some(Requester::Token(_)) => super::in_group(csr, names::BOOTSTRAP_GROUP),
        Some(Requester::Node(_)) => true,
        None => false,
    }
}

impl View for Filed {
    const KIND: Kind = Kind::Csrs;
    const KEEP: Keep = Keep::Fields(&[
        (
            "metadata",
            Keep::Fields(&[
                ("name", Keep::All),
                ("uid", Keep::All),
                ("resourceVersion", Keep::All),
                ("creationTimestamp", Keep::Time),
            ]),
        ),
        (
            "spec",
            Keep::Fields(&[
                ("request", Keep::All),
                ("signerName", Keep::All),
                ("username", Keep::All),
                ("groups", Keep::All),
                ("usages", Keep::All),
            ]),
        ),
        (
            "status",
            Keep::Fields(&[
                ("certificate", Keep::All),
                (
                    "conditions",
                    Keep::Each(&Keep::Fields(&[("type", Keep::All), ("status", Keep::All)])),
                ),
            ]),
        ),
    ]);
    // Decided requests are few, and only this program decides them.
    const BOUND: Option<Bound<Self>> = Some(Bound {
        most: MOST_DECIDED,
        counts: |filed| filed.whole().is_some_and(is_pending),
        beyond: |filed| Beyond::Brief(filed.in_brief()),
    });
    type Object = CertificateSigningRequest;

    fn read(mut csr: CertificateSigningRequest) -> Option<Self> {
        if !is_ours(&csr) {
            return None;
        }
        if csr.spec.request.0.len() > LONGEST_REQUEST || !is_pending(&csr) {
            csr.spec.request = ByteString::default();
        }
        // Decisions only need to know that there is a certificate.
        if let Some(certificate) = csr.status.as_mut().and_then(|status| status.certificate.as_mut()) {
            *certificate = ByteString::default();
        }
        Some(Self::Whole(Box::new(csr)))
    }

    fn marks(&self) -> Vec<Mark> {
        vec![Mark::User(self.user().to_owned())]
    }
}
