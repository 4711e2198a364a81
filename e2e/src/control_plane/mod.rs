//! A real Kubernetes control plane as child processes: etcd, kube-apiserver, kube-controller-manager and
//! kube-scheduler, in a temporary folder; on loopback, unless nodes must reach it.

pub mod audit;
mod components;
mod keys;
pub(crate) mod kubeconfig;

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Request;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use maroonedpods_image_build::command::last_lines;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::{task, time};

use self::audit::AuditEvent;
use self::components::Ports;
use self::kubeconfig::Credentials;
use crate::system::pki::{Authority, Pair};
use crate::system::process::Processes;
use crate::system::tools::{self, Tool};
use crate::system::work_folder::WorkFolder;

/// A start that takes longer has failed. Usual are 3 to 5 s.
const START_LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
/// Another program may take a free port between our check and the component's own bind.
const START_ATTEMPTS: u32 = 3;
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// What differs from the usual control plane.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// Further flags of kube-controller-manager, such as `--node-monitor-grace-period=5s`.
    pub controller_manager_flags: Vec<String>,
    /// Further flags of kube-apiserver.
    pub api_server_flags: Vec<String>,
    /// Where the API server listens, for nodes to reach it; on loopback when absent.
    pub address: Option<Ipv4Addr>,
    /// The API server runs without the admission plugin `NodeRestriction`.
    pub no_node_restriction: bool,
    /// A name by which pods may ask for kube-scheduler, beside the usual one.
    pub other_scheduler_name: Option<String>,
}

/// A running control plane. Dropping it stops it and removes its folder; its logs are kept when the process
/// panicked in the meantime.
pub struct ControlPlane {
    // Fields drop in this order: the processes end before their folder goes.
    processes: Processes,
    folder: WorkFolder,
    authority: Authority,
    server_url: String,
    admin: String,
    kubeconfig: PathBuf,
}

/// A user or service account that the API server knows.
#[derive(Clone)]
pub struct Identity {
    /// A client that speaks as this identity.
    pub client: Client,
    /// The same for programs: a file in the control plane's folder.
    pub kubeconfig: PathBuf,
}

impl ControlPlane {
    /// Starts a control plane and waits until it serves: API ready, and the default service accounts of `default` and
    /// `kube-system` made. The first start on a machine builds the programs, which takes minutes.
    pub async fn start(options: ControlPlaneOptions) -> Result<Self> {
        // Fails when a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut attempt = 1;
        loop {
            let address = options.address;
            let (control_plane, ports) = task::spawn_blocking(move || Self::prepare(address)).await??;
            let Err(error) = control_plane.run(&ports, &options).await else {
                return Ok(control_plane);
            };
            if attempt == START_ATTEMPTS || !control_plane.lost_a_port() {
                control_plane.keep_logs();
                return Err(error.context("the control plane did not start"));
            }
            attempt += 1;
        }
    }

    /// The one control plane of this process, started at the first call. It ends with the process.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| Self::start(ControlPlaneOptions::default()))
            .await
    }

    /// A client of user `admin` in group `system:masters`, which may do everything. Each call makes a client of
    /// its own, bound to the calling async runtime.
    pub async fn admin(&self) -> Result<Client> {
        kubeconfig::client(&self.admin).await
    }

    /// [`Self::admin`], which takes the first answer: kube's own client repeats what was answered with 429.
    pub async fn impatient_admin(&self) -> Result<Client> {
        let mut config = kubeconfig::config(&self.admin).await?;
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    /// Path of the admin's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// URL of the API server.
    #[must_use]
    pub fn server_url(&self) -> &str {
        &self.server_url
    }

    /// PEM certificate of the cluster's root, which the API server is verified with.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    /// The cluster's root, to sign further certificates with.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// kubectl as the admin, for what must be fed or goes on running. It ends when it is dropped.
    ///
    /// # Errors
    /// It is not built.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut kubectl = Command::new(tools::find(Tool::Kubectl)?);
        kubectl
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .env("KUBECACHEDIR", self.folder.path().join("kubectl-cache"))
            .kill_on_drop(true);
        Ok(kubectl)
    }

    /// Runs kubectl as the admin and returns its standard output.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl_command(arguments)?.output().await?;
        ensure!(
            output.status.success(),
            "kubectl {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A service account that exists, with a token for a day.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<Identity> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().await?, namespace);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec: Some(spec),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("asking for a token of service account {namespace}/{name}"))?;
        let token = answer
            .status
            .and_then(|status| status.token)
            .context("a TokenRequest came back without a token")?;
        let text = kubeconfig::render(&self.server_url, &self.ca_pem(), &Credentials::Token(&token));
        let file = self
            .folder
            .write(&format!("{namespace}.{name}.kubeconfig"), &text)?;
        Ok(Identity {
            client: kubeconfig::client(&text).await?,
            kubeconfig: file,
        })
    }

    /// A client with a new client certificate for `user` in `group`.
    pub async fn user(&self, user: &str, group: &str) -> Result<Client> {
        kubeconfig::client(&self.user_kubeconfig(user, group)?).await
    }

    /// The same for programs: the text of a kubeconfig.
    pub fn user_kubeconfig(&self, user: &str, group: &str) -> Result<String> {
        keys::kubeconfig(&self.authority, &self.server_url, user, group)
    }

    /// A client with this client certificate.
    pub async fn certified(&self, pair: &Pair) -> Result<Client> {
        let credentials = Credentials::Certificate(pair);
        kubeconfig::client(&kubeconfig::render(
            &self.server_url,
            &self.ca_pem(),
            &credentials,
        ))
        .await
    }

    /// A client with a bearer token, such as a bootstrap token.
    pub async fn bearer(&self, token: &str) -> Result<Client> {
        kubeconfig::client(&kubeconfig::render(
            &self.server_url,
            &self.ca_pem(),
            &Credentials::Token(token),
        ))
        .await
    }

    /// Every request that the API server has answered so far. An event is written shortly after its response.
    pub fn audit(&self) -> Result<Vec<AuditEvent>> {
        audit::read(&self.folder.path().join("audit.log"))
    }

    /// The control plane's folder: logs, keys, kubeconfigs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Process ids of the components.
    #[must_use]
    pub fn process_ids(&self) -> Vec<u32> {
        self.processes.ids()
    }

    /// Keeps the folder after the control plane's end, and says on stderr where it is. A panic does so by itself.
    pub fn keep_logs(&self) {
        self.folder.keep();
    }

    /// Restarts kube-controller-manager with these flags beside the usual ones, and with an empty log.
    pub fn restart_controller_manager(&self, more: &[&str]) -> Result<()> {
        self.processes.end(Tool::KubeControllerManager.name())?;
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        self.launch_controller_manager(&more)
    }

    /// What kube-controller-manager has logged.
    pub fn controller_manager_log(&self) -> Result<String> {
        let log = format!("{}.log", Tool::KubeControllerManager.name());
        Ok(std::fs::read_to_string(self.folder.path().join(log))?)
    }

    /// Stops the control plane: when this returns, its processes and its folder are gone.
    pub async fn stop(self) -> Result<()> {
        Ok(task::spawn_blocking(move || drop(self)).await?)
    }

    /// Finds the programs, picks the ports and writes the keys; starts nothing yet. Blocks.
    fn prepare(address: Option<Ipv4Addr>) -> Result<(Self, Ports)> {
        for tool in [
            Tool::Etcd,
            Tool::KubeApiserver,
            Tool::KubeControllerManager,
            Tool::KubeScheduler,
        ] {
            tools::find(tool)?;
        }
        let folder = WorkFolder::new()?;
        let authority = Authority::new("maroonedpods-control-plane")?;
        let ports = Ports::free()?;
        let address = address.unwrap_or(Ipv4Addr::LOCALHOST);
        let server_url = format!("https://{address}:{}", ports.apiserver);
        let admin = keys::kubeconfig(&authority, &server_url, "admin", keys::MASTERS)?;
        let kubeconfig = folder.write("admin.kubeconfig", &admin)?;
        keys::write(&folder, &authority, &server_url, address)?;
        let processes = Processes::new()?;
        Ok((
            Self {
                processes,
                folder,
                authority,
                server_url,
                admin,
                kubeconfig,
            },
            ports,
        ))
    }

    async fn run(&self, ports: &Ports, options: &ControlPlaneOptions) -> Result<()> {
        let start = Instant::now();
        self.launch(Tool::Etcd, &components::etcd_flags(ports))?;
        let mut flags = components::apiserver_flags(ports, options.address, !options.no_node_restriction);
        flags.extend(options.api_server_flags.iter().cloned());
        self.launch(Tool::KubeApiserver, &flags)?;
        let client = self.admin().await?;
        self.wait(start, "the API server's /readyz", || is_ready(client.clone()))
            .await?;

        self.launch_controller_manager(&options.controller_manager_flags)?;
        let other = options.other_scheduler_name.as_deref();
        self.folder.write(
            "scheduler.json",
            &components::scheduler_config(self.folder.path(), other),
        )?;
        self.launch(Tool::KubeScheduler, &components::scheduler_flags())?;
        for namespace in ["default", "kube-system"] {
            let what = format!("the default service account of {namespace}");
            let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
            self.wait(start, &what, || async {
                Ok(accounts.get_opt("default").await?.is_some())
            })
            .await?;
        }
        Ok(())
    }

    fn launch_controller_manager(&self, more: &[String]) -> Result<()> {
        let mut flags = components::controller_manager_flags();
        flags.extend(more.iter().cloned());
        self.launch(Tool::KubeControllerManager, &flags)
    }

    /// Starts a component. `@` in a flag stands for the control plane's folder.
    fn launch(&self, tool: Tool, flags: &[String]) -> Result<()> {
        let folder = self.folder.path().display().to_string();
        let flags: Vec<String> = flags.iter().map(|flag| flag.replace('@', &folder)).collect();
        let log = self.folder.path().join(format!("{}.log", tool.name()));
        self.processes
            .start(tool.name(), &tools::find(tool)?, &flags, &log)?;
        Ok(())
    }

    async fn wait<F>(&self, start: Instant, what: &str, mut probe: impl FnMut() -> F) -> Result<()>
    where
        F: Future<Output = Result<bool>>,
    {
        loop {
            let answer = probe().await;
            if matches!(answer, Ok(true)) {
                return Ok(());
            }
            if let Some(ended) = self.processes.ended()? {
                bail!(
                    "{} ended ({}): {}",
                    ended.name,
                    ended.status,
                    last_lines(&ended.log, 5)
                );
            }
            if start.elapsed() > START_LIMIT {
                bail!(
                    "waited {} s for {what}; last answer: {answer:?}",
                    START_LIMIT.as_secs()
                );
            }
            time::sleep(POLL).await;
        }
    }

    fn lost_a_port(&self) -> bool {
        let ended = self.processes.ended().ok().flatten();
        ended.is_some_and(|ended| last_lines(&ended.log, 50).contains("address already in use"))
    }
}

async fn is_ready(client: Client) -> Result<bool> {
    let request = Request::get("/readyz").body(Vec::new())?;
    Ok(client.request_text(request).await? == "ok")
}
