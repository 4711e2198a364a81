//! Everything at once: a control plane with the chart on it, a fake KubeVirt, our webhook and our reconcilers in this
//! process, each under its own identity.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};
use maroonedpods_common::api::MaroonedPodsConfigSpec;
use maroonedpods_common::names;
use maroonedpods_reconciler::Cluster;
use maroonedpods_reconciler::Reconciler;
use maroonedpods_reconciler::{CertsArgs, CertsMode};
use maroonedpods_webhook::Server;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinHandle;

use crate::api::apply::apply;
use crate::api::check::eventually;
use crate::control_plane::{ControlPlane, ControlPlaneOptions, Identity};
use crate::fake_kubevirt::{FakeKubeVirt, FakeKubeVirtOptions, QUICK_TEARDOWN, install_crd};
use crate::install::dns;
use crate::install::{InstallValues, RECONCILER_ACCOUNT, SYSTEM_NAMESPACE, install};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const HOSTS: u32 = 3;
/// Short enough for tests to wait for the check that finds a cluster repaired, and for the one, ten times later, that
/// finds a healthy cluster broken.
const RECHECK: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(20);

/// A configuration whose deadlines are short enough to be waited for.
pub fn quick_config(server_url: &str) -> Result<MaroonedPodsConfigSpec> {
    Ok(serde_json::from_value(json!({
        "nodeImage": "registry.example/marooned-node@sha256:0000",
        "join": {"serverURL": server_url},
        "deadlines": {"boot": "4s", "join": "4s", "finishedPodTTL": "1s"},
        "maxAttempts": 2,
    }))?)
}

/// A control plane with everything but the reconciler, which tests start, stop and kill as they like.
pub struct TestEnv {
    // Fields drop in this order: the fake KubeVirt goes before the API server that it speaks to.
    kubevirt: FakeKubeVirt,
    webhook: Webhook,
    control_plane: ControlPlane,
}

/// Our webhook, in this process.
struct Webhook {
    address: SocketAddr,
    serving: Running,
}

impl TestEnv {
    /// Starts control plane, chart, webhook and fake KubeVirt, with [`quick_config`].
    pub async fn start(seed: u64) -> Result<Self> {
        Self::start_with(seed, quick_config).await
    }

    /// [`Self::start`] with another configuration, made from the API server's URL.
    pub async fn start_with(
        seed: u64,
        config: impl FnOnce(&str) -> Result<MaroonedPodsConfigSpec>,
    ) -> Result<Self> {
        Self::start_on(ControlPlaneOptions::default(), seed, config).await
    }

    /// [`Self::start_with`] on a control plane with other options.
    pub async fn start_on(
        options: ControlPlaneOptions,
        seed: u64,
        config: impl FnOnce(&str) -> Result<MaroonedPodsConfigSpec>,
    ) -> Result<Self> {
        let control_plane = ControlPlane::start(options).await?;
        let webhook = Webhook::start(&control_plane, ANY_PORT).await?;
        let config = config(control_plane.server_url())?;
        let env = Self::furnish(&control_plane, &webhook, seed, config).await;
        match env {
            Ok(kubevirt) => Ok(Self {
                kubevirt,
                webhook,
                control_plane,
            }),
            Err(error) => {
                control_plane.keep_logs();
                Err(error)
            }
        }
    }

    async fn furnish(
        control_plane: &ControlPlane,
        webhook: &Webhook,
        seed: u64,
        config: MaroonedPodsConfigSpec,
    ) -> Result<FakeKubeVirt> {
        let admin = control_plane.admin().await?;
        install_crd(&admin).await?;
        dns::make_service(&admin).await?;
        let values = InstallValues {
            webhook_url: format!("https://{}", webhook.address),
            ca_bundle: control_plane.ca_pem(),
            config: Some(config),
            more: json!(null),
        };
        install(control_plane, &values).await?;
        wait_for_default_account(&admin, names::VM_NAMESPACE).await?;
        FakeKubeVirt::start(FakeKubeVirtOptions {
            control_plane,
            vm_namespace: names::VM_NAMESPACE.to_owned(),
            hosts: (1..=HOSTS).map(|index| format!("host-{index}")).collect(),
            teardown: QUICK_TEARDOWN,
            seed,
        })
        .await
    }

    /// The one environment of this process, with one reconciler at work, on a runtime that outlives each test's own.
    pub async fn shared() -> Result<&'static Self> {
        Ok(&Self::shared_with_reconciler().await?.0)
    }

    /// [`TestEnv::shared`] and the reconciler in it.
    pub async fn shared_with_reconciler() -> Result<&'static (Self, Running)> {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        static SHARED: OnceCell<(TestEnv, Running)> = OnceCell::const_new();
        let start = || async {
            let new = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let runtime = RUNTIME.get_or_init(|| new);
            let env = runtime.spawn(async {
                let env = Self::start(0).await?;
                let reconciler = env.reconciler(false).await?;
                anyhow::Ok((env, reconciler))
            });
            env.await?
        };
        SHARED.get_or_try_init(start).await
    }

    /// The control plane.
    #[must_use]
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The fake KubeVirt.
    #[must_use]
    pub fn kubevirt(&self) -> &FakeKubeVirt {
        &self.kubevirt
    }

    /// Our webhook.
    #[must_use]
    pub fn webhook(&self) -> &Running {
        &self.webhook.serving
    }

    /// Where our webhook serves the API server.
    #[must_use]
    pub fn webhook_address(&self) -> SocketAddr {
        self.webhook.address
    }

    /// Starts one more reconciler, under its own service account, and waits until it works (or, with
    /// `leader_elect`, until it serves).
    pub async fn reconciler(&self, leader_elect: bool) -> Result<Running> {
        let identity = self.reconciler_identity().await?;
        Self::reconciler_with(identity.kubeconfig, leader_elect).await
    }

    /// The reconciler's own service account.
    pub async fn reconciler_identity(&self) -> Result<Identity> {
        self.control_plane
            .service_account(SYSTEM_NAMESPACE, RECONCILER_ACCOUNT)
            .await
    }

    /// Starts a reconciler that reaches the API server by this kubeconfig.
    pub async fn reconciler_with(kubeconfig: PathBuf, leader_elect: bool) -> Result<Running> {
        let hands_off = CertsArgs {
            mode: CertsMode::None,
            lifetime: Duration::ZERO,
            renew_before: Duration::ZERO,
            settle: Duration::ZERO,
        };
        Self::reconciler_that_keeps(kubeconfig, leader_elect, hands_off).await
    }

    /// [`Self::reconciler_with`] for a reconciler that manages the webhook's certificate.
    pub async fn reconciler_that_keeps(
        kubeconfig: PathBuf,
        leader_elect: bool,
        certs: CertsArgs,
    ) -> Result<Running> {
        let cluster = Cluster::connect(Some(&kubeconfig), names::VM_NAMESPACE.to_owned()).await?;
        let args = maroonedpods_reconciler::Args {
            config: None,
            metrics_bind: ANY_PORT,
            leader_elect,
            namespace: SYSTEM_NAMESPACE.to_owned(),
            certs,
            recheck: RECHECK,
            starts_at_once: None,
        };
        let reconciler = Reconciler::new(cluster, args).await?;
        let address = reconciler.metrics_addr()?;
        Ok(Running::spawn(address, |stop| async move {
            reconciler.run(stop).await.map_err(|error| anyhow!(error))
        }))
    }

    /// Stops the webhook; nothing listens at its address then.
    pub async fn stop_webhook(&mut self) -> Result<()> {
        std::mem::replace(&mut self.webhook.serving, Running::nothing())
            .stop()
            .await
    }

    /// Starts the webhook again, at the same address.
    pub async fn restart_webhook(&mut self) -> Result<()> {
        self.webhook = Webhook::start(&self.control_plane, self.webhook.address).await?;
        Ok(())
    }

    /// Stops everything, the control plane last.
    ///
    /// # Errors
    /// Among others, the API server has forbidden something to an honest kubelet.
    pub async fn stop(self) -> Result<()> {
        let refusals = self.kubevirt.guests().refusals();
        ensure!(
            refusals.is_empty(),
            "forbidden to honest kubelets:\n{}",
            refusals.join("\n")
        );
        drop(self.kubevirt);
        self.webhook.serving.stop().await?;
        self.control_plane.stop().await
    }
}

impl Webhook {
    async fn start(control_plane: &ControlPlane, bind: SocketAddr) -> Result<Self> {
        // In the control plane's folder, which is removed even when this process is killed.
        let tls = control_plane.folder().join("webhook-tls");
        std::fs::create_dir_all(&tls)?;
        let pair = control_plane.authority().server(&["127.0.0.1"])?;
        std::fs::write(tls.join("tls.crt"), &pair.certificate)?;
        std::fs::write(tls.join("tls.key"), &pair.key)?;
        let (address, serving) = Running::webhook(bind, &tls, Duration::from_secs(2)).await?;
        Ok(Self { address, serving })
    }
}

/// One of our programs, in this process. Dropping it kills it on the spot, as SIGKILL would.
pub struct Running {
    /// Where its metrics are.
    pub metrics: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<()>>>,
}

impl Running {
    /// A webhook with the pair in `tls`, which it looks at that often, and where it serves.
    pub(crate) async fn webhook(
        bind: SocketAddr,
        tls: &Path,
        reload_interval: Duration,
    ) -> Result<(SocketAddr, Self)> {
        let server = Server::bind(maroonedpods_webhook::Args {
            bind,
            metrics_bind: ANY_PORT,
            tls_dir: PathBuf::from(tls),
            client_ca: None,
            reload_interval,
            max_connections: 512,
            idle_timeout: Duration::from_secs(120),
            shutdown_delay: Duration::ZERO,
        })
        .await?;
        let address = server.addr();
        let serving = Self::spawn(server.metrics_addr(), |stop| async move {
            server.run(stop).await.map_err(|error| anyhow!(error))
        });
        Ok((address, serving))
    }

    pub(crate) fn spawn<F>(
        metrics: SocketAddr,
        run: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> F,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(run(Box::pin(async {
            // A dropped sender is not a request for a graceful stop.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        })));
        Self {
            metrics,
            stop: Some(stop),
            task: Some(task),
        }
    }

    fn nothing() -> Self {
        Self {
            metrics: ANY_PORT,
            stop: None,
            task: None,
        }
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(stop) = self.stop.take() {
            let _: Result<(), ()> = stop.send(());
        }
        match self.task.take() {
            Some(task) => task.await.context("it ended in a panic")?,
            None => Ok(()),
        }
    }

    /// The value of one of its metrics, named with its labels as in the `OpenMetrics` text; 0 where there is
    /// none.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.scrape().await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0.0), str::parse)?)
    }

    /// All of its metrics, as the `OpenMetrics` text (below the answer's head).
    pub async fn scrape(&self) -> Result<String> {
        self.get("/metrics").await
    }

    /// What its metrics server answers for a path: status line, headers and body.
    pub async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.metrics).await?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Whether it has ended by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Makes the namespace of VMs as the chart does, for tests without it, and waits until pods can be created there.
///
/// # Errors
/// The API server's refusal, or no service account appeared.
pub async fn make_vm_namespace(admin: &Client) -> Result<()> {
    let name = names::VM_NAMESPACE;
    let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    apply(admin, vec![serde_json::from_value(namespace)?]).await?;
    wait_for_default_account(admin, name).await
}

/// Waits until pods can be created in the namespace.
pub async fn wait_for_default_account(admin: &Client, namespace: &str) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), namespace);
    eventually(
        "the default service account of the VM namespace",
        SETTLE,
        || async { Ok(accounts.get_opt("default").await?) },
    )
    .await
    .map(drop)
}
