//! The webhook's certificate changes while the API server uses it, and no create is lost.

#![allow(clippy::unwrap_used, clippy::panic)]

mod setup;

use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::load::Load;
use maroonedpods_e2e::install::SYSTEM_NAMESPACE;
use maroonedpods_e2e::system::pki::Authority;
use maroonedpods_reconciler::CERTS_SECRET;
use maroonedpods_reconciler::CertsArgs;
use serde_json::{Value, json};

use setup::{SOON, Setup, usual};

const ROTATIONS: u32 = 100;
const RATE: u32 = 200;
/// A low rate, for tests that measure something else.
const LIGHT_RATE: u32 = 50;
const RELOADED: &str = "maroonedpods_webhook_tls_reloads_total{result=\"success\"}";
const SPOILT: &str = "maroonedpods_webhook_tls_reloads_total{result=\"error\"}";
const ROTATED: &str = "maroonedpods_webhook_certificate_rotations_total";

/// Ends the load. Not one create may have failed.
async fn lost_none(load: Load, what: &str) {
    let outcome = load.stop().await.unwrap();
    println!("{what}: {outcome}");
    outcome.check().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_rotations_lose_no_create() {
    let setup = Setup::start().await;
    let reconciler = setup.reconciler(usual()).await;
    let webhooks = setup.webhooks().await;
    let mut certificate = setup.rests_on_another("").await;
    let load = Load::start(&setup.admin, RATE).await.unwrap();
    let start = Instant::now();
    for _ in 0..ROTATIONS {
        setup.ask().await;
        certificate = setup.rests_on_another(&certificate).await;
    }
    println!("{ROTATIONS} rotations in {:.1} s", start.elapsed().as_secs_f64());
    lost_none(load, "100 rotations").await;
    for webhook in &webhooks {
        let reloaded = webhook.serving.metric(RELOADED).await.unwrap();
        assert!(reloaded >= f64::from(ROTATIONS), "{reloaded} reloads");
    }
    let rotated = reconciler.metric(ROTATED).await.unwrap();
    assert!(rotated >= f64::from(ROTATIONS), "{rotated} rotations");
    setup.control_plane.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoilt_or_lost_secret_is_made_good_and_loses_no_create() {
    let setup = Setup::start().await;
    let _reconciler = setup.reconciler(usual()).await;
    let webhooks = setup.webhooks().await;
    let first = setup.rests_on_another("").await;
    let load = Load::start(&setup.admin, LIGHT_RATE).await.unwrap();

    let garbage = json!(ByteString(b"garbage".to_vec()));
    setup
        .change_secret(json!({"data": {"tls.crt": garbage, "tls.key": garbage}}))
        .await;
    eventually("the garbage to be counted", SOON, || async {
        Ok((webhooks[0].serving.metric(SPOILT).await? >= 1.0).then_some(()))
    })
    .await
    .unwrap();
    let second = setup.rests_on_another(&first).await;

    setup
        .secrets()
        .delete(CERTS_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    let third = setup.rests_on_another(&second).await;
    lost_none(load, "garbage, then no Secret").await;

    // A webhook that cannot be reached keeps the former CA trusted, until it stops being an endpoint.
    drop(webhooks);
    setup.ask().await;
    setup
        .says(
            "True",
            "Rotating",
            "the former CA is trusted until every webhook pod",
        )
        .await;
    let slices: Api<EndpointSlice> = Api::namespaced(setup.admin.clone(), SYSTEM_NAMESPACE);
    slices
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
    setup.rests_on_another(&third).await;
    setup
        .says("True", "Issued", "the webhook's certificate is valid until")
        .await;
    setup.control_plane.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_kept_is_reported_until_it_can() {
    let setup = Setup::start().await;
    let _reconciler = setup.reconciler(usual()).await;
    let _webhooks = setup.webhooks().await;
    let kept = setup.rests_on_another("").await;
    let issued = "the webhook's certificate is valid until";
    setup.says("True", "Issued", issued).await;

    let mut registered = setup.registrations().get("maroonedpods").await.unwrap();
    setup
        .registrations()
        .delete("maroonedpods", &DeleteParams::default())
        .await
        .unwrap();
    let failed =
        "there is no MutatingWebhookConfiguration maroonedpods; install the chart; it is tried again";
    setup.says("False", "Failed", failed).await;

    registered.metadata.resource_version = None;
    setup
        .registrations()
        .create(&PostParams::default(), &registered)
        .await
        .unwrap();
    setup.says("True", "Issued", issued).await;
    assert_eq!(setup.rests_on_another("").await, kept);
    setup.control_plane.stop().await.unwrap();
}

/// The clock is the real one: the certificate's life is short, and no one renews it.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_recovers_by_itself() {
    let setup = Setup::start().await;
    let brief = CertsArgs {
        lifetime: Duration::from_secs(8),
        renew_before: Duration::from_secs(2),
        ..usual()
    };
    let reconciler = setup.reconciler(brief.clone()).await;
    let _webhooks = setup.webhooks().await;
    setup.rests_on_another("").await;
    drop(reconciler);
    let namespace = TestNamespace::new(&setup.admin, &[]).await.unwrap();
    let pods = Api::namespaced(setup.admin.clone(), &namespace.name);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let create = async || pods.create(&dry_run, &marooned("pod")).await;
    create().await.unwrap();
    // A connection outlives the certificate that it was made with: only a new one shows what has expired.
    let expired = setup.file("tls.crt").await;
    setup.forget_connections().await;
    eventually("the certificate to expire", SOON, || async {
        setup.forget_connections().await;
        let refused = create().await.err().map(|error| error.to_string());
        Ok(refused.filter(|message| message.contains("expired")))
    })
    .await
    .unwrap();

    let _reconciler = setup.reconciler(usual()).await;
    setup.rests_on_another(&expired).await;
    eventually("creates to pass again", SOON, || async {
        Ok(create().await.ok())
    })
    .await
    .unwrap();
    setup.control_plane.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_that_rotate_at_once_converge() {
    let setup = Setup::start().await;
    let leaders = [setup.reconciler(usual()).await, setup.reconciler(usual()).await];
    let _webhooks = setup.webhooks().await;
    let mut certificate = setup.rests_on_another("").await;
    let load = Load::start(&setup.admin, LIGHT_RATE).await.unwrap();
    for _ in 0..10 {
        setup.ask().await;
        certificate = setup.rests_on_another(&certificate).await;
    }
    lost_none(load, "10 rotations by two leaders").await;
    // Each pair was given out once, by one of them.
    let mut rotated = 0.0;
    for leader in &leaders {
        assert!(!leader.has_ended());
        rotated += leader.metric(ROTATED).await.unwrap();
    }
    assert!((10.5..11.5).contains(&rotated), "{rotated} pairs were given out");
    assert_eq!(setup.rests_on_another("").await, certificate);
    setup.control_plane.stop().await.unwrap();
}

/// The test acts as cert-manager: its one write of the Secret (server-side apply, its own CA, its annotations), then its
/// cainjector's of the bundle. What the real one does beside that is not seen here.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_hands_in_place() {
    let setup = Setup::start().await;
    let reconciler = setup.reconciler(usual()).await;
    let webhooks = setup.webhooks().await;
    let builtin = setup.rests_on_another("").await;
    drop(reconciler);

    let load = Load::start(&setup.admin, LIGHT_RATE).await.unwrap();
    let ca = Authority::new("cert-manager").unwrap();
    let pair = ca
        .server(&[&format!("maroonedpods-webhook.{SYSTEM_NAMESPACE}.svc")])
        .unwrap();
    let data = |text: &str| json!(ByteString(text.as_bytes().to_vec()));
    let issued = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": CERTS_SECRET, "annotations": {
            "cert-manager.io/certificate-name": "maroonedpods-webhook",
            "cert-manager.io/issuer-name": "maroonedpods-ca",
            "cert-manager.io/issuer-kind": "Issuer",
            "cert-manager.io/issuer-group": "cert-manager.io",
        }},
        "type": "kubernetes.io/tls",
        "data": {"ca.crt": data(&ca.pem()), "tls.crt": data(&pair.certificate), "tls.key": data(&pair.key)},
    });
    let params = PatchParams::apply("cert-manager-certificates-issuing").force();
    setup
        .secrets()
        .patch(CERTS_SECRET, &params, &Patch::Apply(issued))
        .await
        .unwrap();
    let registered = setup.registrations().get("maroonedpods").await.unwrap();
    let entries = registered.webhooks.iter().flatten();
    let injected: Vec<Value> = entries
        .map(|entry| json!({"name": entry.name, "clientConfig": {"caBundle": data(&ca.pem())}}))
        .collect();
    let injected = Patch::Strategic(json!({"webhooks": injected}));
    setup
        .registrations()
        .patch("maroonedpods", &PatchParams::default(), &injected)
        .await
        .unwrap();
    let theirs = setup.rests_on_another(&builtin).await;
    assert_eq!(theirs, pair.certificate);
    for webhook in &webhooks {
        eventually("the webhook to serve cert-manager's pair", SOON, || async {
            Ok((webhook.serving.metric(RELOADED).await? >= 1.0).then_some(()))
        })
        .await
        .unwrap();
    }
    let switch = load.stop().await.unwrap();
    // cert-manager cannot keep both CAs in the bundle: until a pod has the new pair, its answers are refused.
    println!(
        "builtin to cert-manager: {} of {} creates were refused",
        switch.failures.len(),
        switch.creates
    );
    for failure in &switch.failures {
        assert!(failure.contains("signed by unknown authority"), "{failure}");
    }

    let load = Load::start(&setup.admin, LIGHT_RATE).await.unwrap();
    let _reconciler = setup.reconciler(usual()).await;
    setup.ask().await;
    let ours = setup.rests_on_another(&theirs).await;
    lost_none(load, "cert-manager to builtin").await;
    assert_ne!(ours, theirs);
    let secret = setup.secrets().get(CERTS_SECRET).await.unwrap();
    assert!(
        !secret
            .annotations()
            .contains_key("cert-manager.io/certificate-name")
    );
    setup.control_plane.stop().await.unwrap();
}
