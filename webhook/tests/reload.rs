//! Certificates that change under a running server, by the kubelet's symlink swap.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;

use maroonedpods_testing::until;
use maroonedpods_webhook::{Args, Error, Server, TlsError};

mod support;
use support::UID;
use support::server::{ClientIdentity, Identity, Running, SecretVolume, mutate, mutate_as};

const NOT_AFTER: &str = "maroonedpods_webhook_tls_cert_not_after_seconds";

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart() {
    let (old, new) = (Identity::new(), Identity::until(2050));
    let mut volume = SecretVolume::of(&old);
    let webhook = Running::start(volume.args()).await;
    assert_eq!(webhook.certificate(&[&old, &new]).await, old.certificate);
    let ends = async |second: f64| (webhook.metric(NOT_AFTER).await - second).abs() < 1.0;
    until("the end of the old one is shown", async || {
        ends(4_102_444_800.0).await
    })
    .await;

    volume.write(&new.certificate_pem, &new.key_pem);
    until("the new certificate is served", async || {
        webhook.certificate(&[&old, &new]).await == new.certificate
    })
    .await;
    assert!(mutate(webhook.addr, &new).await.contains(UID));
    until("the end of the new one is shown", async || {
        ends(2_524_608_000.0).await
    })
    .await;
}

#[tokio::test]
async fn an_unusable_pair_keeps_the_last_good_one() {
    let (old, new) = (Identity::new(), Identity::new());
    let mut volume = SecretVolume::of(&old);
    let webhook = Running::start(volume.args()).await;
    let errors = "maroonedpods_webhook_tls_reloads_total{result=\"error\"}";
    let successes = "maroonedpods_webhook_tls_reloads_total{result=\"success\"}";

    let bad = [
        ("garbage", "garbage"),
        (new.certificate_pem.as_str(), old.key_pem.as_str()),
        ("", new.key_pem.as_str()),
    ];
    for ((certificate, key), count) in bad.into_iter().zip([1.0, 2.0, 3.0]) {
        volume.write(certificate, key);
        until("the bad pair is counted", async || {
            webhook.metric(errors).await >= count
        })
        .await;
        assert_eq!(webhook.certificate(&[&old, &new]).await, old.certificate);
    }
    volume.write(&new.certificate_pem, &new.key_pem);
    until("the good pair is counted", async || {
        webhook.metric(successes).await >= 1.0
    })
    .await;
    assert_eq!(webhook.certificate(&[&old, &new]).await, new.certificate);
    assert!(
        (webhook.metric(errors).await - 3.0).abs() < 0.5,
        "each bad pair is counted once"
    );
}

/// A client's certificate and key, signed by an authority of its own.
fn client() -> (String, ClientIdentity) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["kube-apiserver".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let identity = ClientIdentity {
        certificate: certificate.der().clone(),
        key: key.serialize_der(),
    };
    (authority.pem(), identity)
}

#[tokio::test]
async fn with_a_client_ca_only_its_clients_are_served() {
    let server = Identity::new();
    let volume = SecretVolume::of(&server);
    let ((authority, known), (other_authority, unknown)) = (client(), client());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority).unwrap();
    let webhook = Running::start(Args {
        client_ca: Some(file.path().to_owned()),
        ..volume.args()
    })
    .await;
    let served = async |client| mutate_as(webhook.addr, &server, client).await.contains(UID);
    assert!(served(Some(&known)).await);
    assert!(!served(Some(&unknown)).await);
    assert!(!served(None).await);
    // Which certificate is served is asked without one, by the reconciler.
    assert_eq!(webhook.certificate(&[&server]).await, server.certificate);

    std::fs::write(file.path(), other_authority).unwrap();
    until("the new authority's clients are served", async || {
        served(Some(&unknown)).await
    })
    .await;
    assert!(!served(Some(&known)).await);
}

#[tokio::test]
async fn an_unusable_client_ca_is_refused_at_the_start() {
    let volume = SecretVolume::of(&Identity::new());
    let file = tempfile::NamedTempFile::new().unwrap();
    let args = || Args {
        client_ca: Some(file.path().to_owned()),
        ..volume.args()
    };
    let empty = Server::bind(args()).await.err().unwrap();
    assert!(matches!(empty, Error::Tls(TlsError::ClientCa(_))), "{empty}");
    let missing = Server::bind(Args {
        client_ca: Some(file.path().with_extension("missing")),
        ..volume.args()
    });
    assert!(matches!(
        missing.await.err().unwrap(),
        Error::Tls(TlsError::Read { .. })
    ));
}

#[tokio::test]
async fn an_unusable_certificate_is_refused_before_anything_is_bound() {
    let (one, other) = (Identity::new(), Identity::new());
    // An address that cannot be bound: the certificate must be complained about first.
    let refused = async |volume: &SecretVolume| {
        let args = Args {
            bind: SocketAddr::from(([192, 0, 2, 1], 1)),
            ..volume.args()
        };
        Server::bind(args).await.err().unwrap()
    };
    let mismatch = SecretVolume::new(&one.certificate_pem, &other.key_pem);
    assert!(matches!(
        refused(&mismatch).await,
        Error::Tls(TlsError::Unusable(_))
    ));
    let garbage = SecretVolume::new("garbage", &one.key_pem);
    assert!(matches!(
        refused(&garbage).await,
        Error::Tls(TlsError::NoCertificate)
    ));
    let no_key = SecretVolume::new(&one.certificate_pem, "");
    assert!(matches!(
        refused(&no_key).await,
        Error::Tls(TlsError::Pem { file: "tls.key", .. })
    ));
    let empty = tempfile::tempdir().unwrap();
    let args = Args {
        tls_dir: empty.path().to_owned(),
        ..no_key.args()
    };
    assert!(matches!(
        Server::bind(args).await.err().unwrap(),
        Error::Tls(TlsError::Read { .. })
    ));
    assert!(matches!(
        refused(&SecretVolume::of(&one)).await,
        Error::Bind { flag: "--bind", .. }
    ));
}
