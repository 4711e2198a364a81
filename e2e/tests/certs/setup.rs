//! A control plane on which our webhooks are behind their Service, and reconcilers keep their certificate.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::api::MaroonedPodsConfig;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually};
use maroonedpods_e2e::control_plane::{ControlPlane, ControlPlaneOptions};
use maroonedpods_e2e::harness::test_env::{Running, TestEnv, quick_config};
use maroonedpods_e2e::harness::webhook_pod::WebhookPod;
use maroonedpods_e2e::install::{InstallValues, RECONCILER_ACCOUNT, SYSTEM_NAMESPACE, install};
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_reconciler::CERTS_SECRET;
use maroonedpods_reconciler::{CertsArgs, CertsMode};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// By which an operator asks for a new pair (`docs/certificates.md`).
const ROTATE: &str = "maroonedpods.io/rotate";
/// Entries of the webhook configuration.
const ENTRIES: usize = 5;

/// How long tests wait for what should take a few seconds.
pub const SOON: Duration = Duration::from_secs(60);

/// The load needs the machine for itself: a settling time is real time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

pub struct Setup {
    pub control_plane: ControlPlane,
    pub admin: Client,
    _turn: MutexGuard<'static, ()>,
}

/// Seldom due, quick to settle.
pub fn usual() -> CertsArgs {
    CertsArgs {
        mode: CertsMode::Builtin,
        lifetime: Duration::from_secs(3600),
        renew_before: Duration::from_secs(600),
        settle: Duration::from_millis(500),
    }
}

impl Setup {
    pub async fn start() -> Self {
        logs();
        let turn = ONE_AT_A_TIME.lock().await;
        let control_plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
        let values = InstallValues {
            webhook_url: String::new(),
            ca_bundle: String::new(),
            config: Some(quick_config(control_plane.server_url()).unwrap()),
            more: Value::Null,
        };
        install(&control_plane, &values).await.unwrap();
        let admin = control_plane.admin().await.unwrap();
        Self {
            control_plane,
            admin,
            _turn: turn,
        }
    }

    /// A reconciler under its own service account, whether or not another one is at work.
    pub async fn reconciler(&self, certs: CertsArgs) -> Running {
        let identity = self
            .control_plane
            .service_account(SYSTEM_NAMESPACE, RECONCILER_ACCOUNT)
            .await
            .unwrap();
        TestEnv::reconciler_that_keeps(identity.kubeconfig, false, certs)
            .await
            .unwrap()
    }

    /// Two webhooks. What the Secret holds reaches the second one later.
    pub async fn webhooks(&self) -> [WebhookPod; 2] {
        let lag = Duration::from_millis(400);
        [
            WebhookPod::start(&self.admin, "1", Duration::ZERO).await.unwrap(),
            WebhookPod::start(&self.admin, "2", lag).await.unwrap(),
        ]
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.admin.clone(), SYSTEM_NAMESPACE)
    }

    pub fn registrations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.admin.clone())
    }

    /// The file of the Secret that has this name.
    pub async fn file(&self, name: &str) -> String {
        let secret = self.secrets().get(CERTS_SECRET).await.unwrap();
        let content = secret.data.unwrap_or_default().remove(name).unwrap_or_default();
        String::from_utf8(content.0).unwrap()
    }

    /// Waits until a pair other than `former` is served and alone trusted; gives its certificate.
    pub async fn rests_on_another(&self, former: &str) -> String {
        eventually("a rotation to be over", SOON, || async {
            let Some(secret) = self.secrets().get_opt(CERTS_SECRET).await? else {
                return Ok(None);
            };
            let rotate = secret.annotations().contains_key(ROTATE);
            let data = secret.data.unwrap_or_default();
            let text = |name: &str| {
                let content = data.get(name).cloned().unwrap_or_default();
                String::from_utf8_lossy(&content.0).into_owned()
            };
            let (certificate, ca) = (text("tls.crt"), text("ca.crt"));
            let webhooks = self.registrations().get("maroonedpods").await?.webhooks;
            let bundles: Vec<_> = webhooks
                .into_iter()
                .flatten()
                .map(|entry| entry.client_config.ca_bundle.unwrap_or_default().0)
                .collect();
            let only = bundles.len() == ENTRIES && bundles.iter().all(|bundle| *bundle == ca.as_bytes());
            let over = only && !rotate && !data.contains_key("next-tls.crt");
            let is_new = certificate.starts_with("-----BEGIN CERTIFICATE-----") && certificate != former;
            Ok((over && is_new).then_some(certificate))
        })
        .await
        .unwrap()
    }

    /// Asks for a new pair as an operator does.
    pub async fn ask(&self) {
        let asked = json!({"metadata": {"annotations": {ROTATE: "now"}}});
        self.change_secret(asked).await;
    }

    pub async fn change_secret(&self, change: Value) {
        self.secrets()
            .patch(CERTS_SECRET, &PatchParams::default(), &Patch::Merge(change))
            .await
            .unwrap();
    }

    /// Waits until the condition on the configuration says this.
    pub async fn says(&self, status: &str, reason: &str, message: &str) {
        let configs: Api<MaroonedPodsConfig> = Api::all(self.admin.clone());
        let says_so = |config: &MaroonedPodsConfig| {
            let mut conditions = config.status.iter().flat_map(|status| &status.conditions);
            conditions.any(|c| {
                c.type_ == "CertificatesReady"
                    && (c.status.as_str(), c.reason.as_str()) == (status, reason)
                    && c.message.starts_with(message)
            })
        };
        becomes(&configs, names::CONFIG_NAME, message, SOON, says_so)
            .await
            .unwrap();
    }

    /// Has the API server open new connections to the webhooks: it keeps a client for each content of a `clientConfig`.
    pub async fn forget_connections(&self) {
        let mut registered = self.registrations().get("maroonedpods").await.unwrap();
        for entry in registered.webhooks.iter_mut().flatten() {
            let bundle = entry.client_config.ca_bundle.get_or_insert_default();
            bundle.0.push(b'\n');
        }
        self.registrations()
            .replace("maroonedpods", &PostParams::default(), &registered)
            .await
            .unwrap();
    }
}
