//! Clients other than the API server reach the webhook: they make no creation fail, and with a client CA they are not
//! served.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::control_plane::{ControlPlane, ControlPlaneOptions};
use maroonedpods_e2e::harness::load::Load;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::install::{InstallValues, install};
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_e2e::system::pki::Authority;
use maroonedpods_testing::Attack;
use maroonedpods_webhook::{Args, Server};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const RATE: u32 = 200;
const LASTS: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn creates_go_on_under_attack() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let authority = CertificateDer::from_pem_slice(env.control_plane().ca_pem().as_bytes()).unwrap();
    let attack = Attack::on_tls(env.webhook_address(), "127.0.0.1", authority)
        .with_idle(1100)
        .with_unfinished_bodies(40)
        .with_unfinished_http1_bodies(20)
        .with_unfinished_headers(20, 60_000);
    eventually("all attackers to have been there", SOON, || async {
        Ok((attack.connected() >= 1180).then_some(()))
    })
    .await
    .unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let load = Load::start(&admin, RATE).await.unwrap();
    tokio::time::sleep(LASTS).await;
    let outcome = load.stop().await.unwrap();
    println!("{outcome}; attackers connected {} times", attack.connected());
    outcome.check().unwrap();
    drop(attack);
    env.stop().await.unwrap();
}

/// As docs/security.md says it.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_shows_its_certificate_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file);
    let (clients, servers) = (
        Authority::new("clients").unwrap(),
        Authority::new("servers").unwrap(),
    );
    let client = clients.client("kube-apiserver", "webhook-callers").unwrap();
    let server = servers.server(&["127.0.0.1"]).unwrap();
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "users": [{"name": "*", "user": {
        "client-certificate": path("client.crt"), "client-key": path("client.key")}}]});
    let admission = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [{"name": "MutatingAdmissionWebhook", "configuration": {
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration",
            "kubeConfigFile": path("webhooks.kubeconfig")}}]});
    for (file, content) in [
        ("tls.crt", server.certificate),
        ("tls.key", server.key),
        ("client.crt", client.certificate),
        ("client.key", client.key),
        ("clients.crt", clients.pem()),
        ("webhooks.kubeconfig", kubeconfig.to_string()),
        ("admission.yaml", admission.to_string()),
    ] {
        std::fs::write(path(file), content).unwrap();
    }
    let webhook = Server::bind(Args {
        bind: ANY_PORT,
        metrics_bind: ANY_PORT,
        tls_dir: folder.path().to_owned(),
        client_ca: Some(path("clients.crt")),
        reload_interval: LASTS,
        max_connections: 512,
        idle_timeout: Duration::from_secs(120),
        shutdown_delay: Duration::ZERO,
    })
    .await
    .unwrap();
    let webhook_url = format!("https://{}", webhook.addr());
    let serving = tokio::spawn(webhook.run(std::future::pending()));

    // An API server that shows nothing is refused, hence its creates.
    for (shows, flags) in [
        (
            true,
            vec![format!(
                "--admission-control-config-file={}",
                path("admission.yaml").display()
            )],
        ),
        (false, Vec::new()),
    ] {
        let options = ControlPlaneOptions {
            api_server_flags: flags,
            ..ControlPlaneOptions::default()
        };
        let control_plane = ControlPlane::start(options).await.unwrap();
        let values = InstallValues {
            webhook_url: webhook_url.clone(),
            ca_bundle: servers.pem(),
            config: None,
            more: json!(null),
        };
        install(&control_plane, &values).await.unwrap();
        let load = Load::start(&control_plane.admin().await.unwrap(), 20)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let outcome = load.stop().await.unwrap();
        assert_eq!(
            outcome.check().is_ok(),
            shows,
            "{outcome}: {:?}",
            outcome.failures.first()
        );
        control_plane.stop().await.unwrap();
    }
    serving.abort();
}
