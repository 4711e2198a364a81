//! Requests as the cache keeps them. Whoever holds a certificate of ours may file them without end, also long after its
//! record is gone, so what one requester costs is bounded: of a few requests all is kept that a decision needs, of the
//! rest what their deletion needs.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use maroonedpods_common::names;

use super::{Requester, is_pending, requester, requester_of};
use crate::read::{Beyond, Bound, Keep, Kind, Mark, View};

/// Pending requests of one requester that are decided, and kept for that. A kubelet has two, and a few more where nobody
/// was there to answer; a requester with more than these loses what is beyond them, and may ask again.
pub const MOST_DECIDED: usize = 30;

/// Bytes of the longest request that is kept; a kubelet's has 2 KiB at most. What is longer counts as malformed.
const LONGEST_REQUEST: usize = 4 << 10;

/// A request, as much of it as is kept. Of requests that are certainly none of ours there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Filed {
    /// As it was filed, but for what no decision needs. Of one that is decided the PKCS#10 part is not kept.
    Whole(Box<CertificateSigningRequest>),
    /// One of a crowd.
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

    /// All that a decision needs, if that is kept.
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

/// Whether a user of ours filed it; a token may be anybody's.
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
        // That there is one is all that is asked.
        if let Some(certificate) = csr.status.as_mut().and_then(|status| status.certificate.as_mut()) {
            *certificate = ByteString::default();
        }
        Some(Self::Whole(Box::new(csr)))
    }

    fn marks(&self) -> Vec<Mark> {
        vec![Mark::User(self.user().to_owned())]
    }
}
