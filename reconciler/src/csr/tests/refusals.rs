//! What people read of a refusal, and what is refused without a look inside.

use super::*;

/// What the condition `Denied` says to people: which part of what a kubelet files was missed, in terms of Kubernetes.
const fn expected_part(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NoRecord => "a MaroonedNode for this token or node",
        Refusal::WrongSigner => {
            "kubernetes.io/kube-apiserver-client-kubelet, or kubernetes.io/kubelet-serving from the node itself"
        }
        Refusal::WrongUser => "this attempt's own token, or the node itself",
        Refusal::MissingGroup => {
            "system:bootstrappers:maroonedpods for a bootstrap token, system:nodes for a node"
        }
        Refusal::NotWaiting => "phase Launched",
        Refusal::SecondClient => "one client request per attempt",
        Refusal::TooManyServing => "20 approved serving requests",
        Refusal::TooManyRenewals => "20 approved renewals",
        Refusal::Malformed => "PKCS#10",
        Refusal::BadSignature => "RSA of 2048 bits or more with SHA-2",
        Refusal::WrongSubject => "O=system:nodes, CN=system:node:<name of the node>",
        Refusal::MissingName => "as subject alternative name, but there is none",
        Refusal::ForeignName => "no subject alternative names but the node's own",
        Refusal::ForeignExtension => "no attributes or extensions",
        Refusal::WrongUsages => "digital signature, optionally key encipherment, and client auth",
    }
}

#[test]
fn a_refusal_says_what_was_expected() {
    for refusal in Refusal::VARIANTS {
        let message = refusal.message();
        assert!(message.starts_with("expected "), "{refusal:?}: {message}");
        assert!(
            message.contains(expected_part(*refusal)),
            "{refusal:?}: {message}"
        );
    }
    assert_eq!((MAX_SERVING, MAX_RENEWALS), (20, 20), "the numbers in the texts");
}

#[test]
fn what_no_content_can_save_is_known_without_parsing() {
    type Change = fn(&mut Expectation);
    let none: Change = |_| {};
    let cases: [(CertificateSigningRequest, Change, bool); 12] = [
        (good_client(), none, false),
        (good_client(), |e| e.token_id = "fedcba".to_owned(), true),
        (good_client(), |e| e.approved_client = true, true),
        (good_client(), |e| e.accepts_client = false, true),
        (good_renewal(), |e| e.approved_renewals = MAX_RENEWALS - 1, false),
        (good_renewal(), |e| e.approved_renewals = MAX_RENEWALS, true),
        (good_renewal(), |e| e.approved_serving = MAX_SERVING, false),
        (good_renewal(), |e| e.node_name = OTHER_NODE.to_owned(), true),
        (good_serving(), |e| e.approved_serving = MAX_SERVING - 1, false),
        (good_serving(), |e| e.approved_serving = MAX_SERVING, true),
        (good_serving(), |e| e.approved_renewals = MAX_RENEWALS, false),
        (good_serving(), |e| e.node_name = OTHER_NODE.to_owned(), true),
    ];
    for (at, (csr, change, hopeless)) in cases.into_iter().enumerate() {
        let mut expected = expectation();
        change(&mut expected);
        assert_eq!(is_hopeless(&csr, &expected), hopeless, "case {at}");
    }
    let stranger = edited(good_client(), |spec| spec.username = Some("alice".to_owned()));
    assert!(is_hopeless(&stranger, &expectation()));
}

#[test]
fn the_last_renewal_that_a_healthy_kubelet_may_need_is_approved() {
    let last = Expectation {
        approved_renewals: MAX_RENEWALS - 1,
        ..expectation()
    };
    assert_eq!(decide(&good_renewal(), Some(&last)), Decision::Approve);
}
