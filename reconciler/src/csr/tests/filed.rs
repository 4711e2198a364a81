//! What the cache keeps of a request.

use super::*;
use crate::read::{Mark, View};

fn stored(mut csr: CertificateSigningRequest) -> CertificateSigningRequest {
    csr.metadata.name = Some("csr-1".to_owned());
    csr.metadata.uid = Some("uid-1".to_owned());
    csr
}

fn whole(csr: CertificateSigningRequest) -> CertificateSigningRequest {
    Filed::read(csr).unwrap().whole().unwrap().clone()
}

#[test]
fn a_request_is_the_same_in_brief() {
    let whole = Filed::read(stored(good_client())).unwrap();
    let brief = whole.in_brief();
    assert!(whole.whole().is_some() && brief.whole().is_none());
    for filed in [&whole, &brief] {
        assert_eq!((filed.name(), filed.uid()), ("csr-1", "uid-1"));
        assert_eq!(filed.requester(), Some(Requester::Token("abcdef")));
        assert_eq!(filed.marks(), [Mark::User("system:bootstrap:abcdef".to_owned())]);
    }
}

#[test]
fn only_requests_of_our_users_are_kept() {
    assert!(is_ours(&good_client()) && is_ours(&good_serving()));
    let kubeadm = edited(good_client(), |spec| {
        spec.groups = Some(strings(&["system:bootstrappers:kubeadm:default-node-token"]));
    });
    let stranger = edited(good_client(), |spec| spec.username = Some("alice".to_owned()));
    for other in [kubeadm, stranger] {
        assert!(!is_ours(&other));
        assert_eq!(Filed::read(other), None);
    }
}

/// A kubelet's request has 2 KiB at most, so one of 4 KiB is kept, and none that is longer.
#[test]
fn the_content_of_a_long_or_a_decided_request_is_not_kept() {
    let of_length = |bytes: usize| whole(client(vec![b'a'; bytes])).spec.request.0.len();
    assert_eq!(of_length(4096), 4096);
    assert_eq!(of_length(4097), 0);
    let mut decided = good_client();
    decided.status = Some(CertificateSigningRequestStatus {
        certificate: Some(ByteString(b"certificate".to_vec())),
        ..Default::default()
    });
    let kept = whole(decided);
    assert!(kept.spec.request.0.is_empty() && !is_pending(&kept));
    let certificate = kept.status.unwrap().certificate;
    assert_eq!(
        certificate,
        Some(ByteString::default()),
        "that there is one is known"
    );
}

/// Decided requests are few, because only the reconciler decides them.
#[test]
fn pending_requests_alone_are_counted() {
    let bound = Filed::BOUND.unwrap();
    let pending = Filed::read(stored(good_client())).unwrap();
    assert!((bound.counts)(&pending));
    assert!(!(bound.counts)(&pending.in_brief()));
    let mut signed = good_client();
    signed.status = Some(CertificateSigningRequestStatus {
        certificate: Some(ByteString::default()),
        ..Default::default()
    });
    assert!(!(bound.counts)(&Filed::read(signed).unwrap()));
}
