//! Wiring: starts all tasks in order, from the arguments, and ends them.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use maroonedpods_server::{Connections, IDLE_TIMEOUT, Limits, Port, Security};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::api::{CallError, Cluster};
use crate::args::Args;
use crate::certs;
use crate::certs::args::RulesError;
use crate::certs::decide::Rules;
use crate::events::Events;
use crate::http::{self, Health};
use crate::lease::{self, Leadership, LostLease, Timings};
use crate::metrics::Metrics;
use crate::observe::Caches;
use crate::preflight;
use crate::settings::Settings;
use crate::watches::{self, Outcomes};
use crate::workers::{Lanes, Shared, Workers};
use crate::{config, sweep};

/// How long work waits for the first check of the cluster.
const FIRST_CHECK: Duration = Duration::from_secs(5);
/// Name of the lease.
const LEASE: &str = "maroonedpods-reconciler";

/// Why the reconciler cannot start or ended.
#[derive(Debug, Error)]
pub enum Error {
    /// The file of `--config` cannot be used.
    #[error(transparent)]
    Config(#[from] config::FileError),
    /// The durations of `--certs` do not fit together.
    #[error(transparent)]
    Certs(#[from] RulesError),
    /// The metrics address cannot be used.
    #[error("cannot listen on --metrics-bind {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// Another replica leads now; this process must end.
    #[error("{0}")]
    LeaseLost(LostLease),
    /// A task panicked.
    #[error("a task failed: {0}")]
    Task(#[from] JoinError),
    /// A task ended that must run as long as the process.
    #[error("a task ended that never should: {0}")]
    Ended(&'static str),
}

/// Runs until `stop` resolves. Dropping the future stops everything at once, as a crash would.
///
/// # Errors
/// What keeps it from starting, or ended it: the process should exit and be started again.
pub async fn run(cluster: Cluster, args: Args, stop: impl Future<Output = ()> + Send) -> Result<(), Error> {
    Reconciler::new(cluster, args).await?.run(stop).await
}

/// A reconciler that is bound to its address and knows its cluster, not running yet.
pub struct Reconciler {
    args: Args,
    cluster: Cluster,
    listener: TcpListener,
    certs: Option<Rules>,
    settings: watch::Sender<Option<Arc<Settings>>>,
    metrics: Arc<Metrics>,
}

impl Reconciler {
    /// Reads the configuration file and binds the metrics address. Nothing is written yet.
    ///
    /// # Errors
    /// See [`Error`]; each names the flag to correct.
    pub async fn new(cluster: Cluster, args: Args) -> Result<Self, Error> {
        let from_file = args.config.as_deref().map(config::from_file).transpose()?;
        let certs = args.certs.rules()?;
        let listener = TcpListener::bind(args.metrics_bind)
            .await
            .map_err(|error| Error::Bind {
                address: args.metrics_bind,
                error,
            })?;
        Ok(Self {
            cluster,
            listener,
            certs,
            settings: watch::Sender::new(from_file.map(Arc::new)),
            metrics: Arc::new(Metrics::new()),
            args,
        })
    }

    /// Where `/metrics`, `/livez` and `/readyz` are served.
    ///
    /// # Errors
    /// The system's, in the unlikely case that it does not know the address.
    pub fn metrics_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves health, waits for the lease, then works until `stop` resolves or the lease is lost.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let Self {
            args,
            cluster,
            listener,
            certs,
            settings,
            metrics,
        } = self;
        let (waiting, waiting_for) = watch::channel(None);
        let (cluster_check, checked) = watch::channel(preflight::Decision::default());
        let routes = http::router(Health {
            metrics: metrics.clone(),
            waiting_for,
            cluster_check: checked,
        });
        let port = Port {
            listener,
            security: Security::Plain,
            routes,
            connections: Connections::new(Limits::for_probes(), metrics.shed_connections()),
            idle_timeout: IDLE_TIMEOUT,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(port.serve(pending()));
        let mut stop = std::pin::pin!(stop);
        let leadership = tokio::select! {
            () = &mut stop => return Ok(()),
            leadership = elect(&args, &cluster.client) => leadership,
            ended = tasks.join_next() => return Err(why_ended(ended)),
        };
        metrics.set_leader(true);
        tasks.spawn(keep_certificates(
            cluster.clone(),
            args.namespace.clone(),
            certs,
            metrics.clone(),
        ));
        let tells = Tells {
            waiting,
            cluster_check,
            settings,
        };
        let work = work(cluster, &args, metrics.clone(), tells, &mut tasks);
        let outcome = tokio::select! {
            () = &mut stop => Ok(()),
            lost_lease = lost(leadership.as_ref()) => Err(Error::LeaseLost(lost_lease)),
            error = work => Err(error),
        };
        // Tasks that act end before the lease is released; a request that is under way may still arrive, and is safe.
        tasks.shutdown().await;
        metrics.set_leader(false);
        if let (Ok(()), Some(leadership)) = (&outcome, leadership)
            && let Err(error) = leadership.release().await
        {
            tracing::warn!(%error, "the lease was not released; the next leader waits until it expires");
        }
        outcome
    }
}

async fn elect(args: &Args, client: &Client) -> Option<Leadership> {
    if !args.leader_elect {
        return None;
    }
    let identity = format!("{}_{}", hostname(), unique_suffix());
    Some(
        lease::acquire(
            client.clone(),
            &args.namespace,
            LEASE,
            identity,
            Timings::default(),
        )
        .await,
    )
}

async fn lost(leadership: Option<&Leadership>) -> LostLease {
    match leadership {
        Some(leadership) => leadership.lost().await,
        None => pending().await,
    }
}

/// What work tells other parts of the process.
struct Tells {
    /// What this replica still waits for before it can work; `None` when it works.
    waiting: watch::Sender<Option<String>>,
    /// Whether VMs may be started.
    cluster_check: watch::Sender<preflight::Decision>,
    /// The configuration in force.
    settings: watch::Sender<Option<Arc<Settings>>>,
}

/// What all tasks that act share. Clones are cheap.
#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    workers: Workers,
}

/// Everything that acts. Returns only if it fails.
async fn work(
    cluster: Cluster,
    args: &Args,
    metrics: Arc<Metrics>,
    tells: Tells,
    tasks: &mut JoinSet<()>,
) -> Error {
    let Tells {
        waiting,
        cluster_check,
        settings,
    } = tells;
    let workers = Workers::default();
    let (begun, rejections) = (Instant::now(), Arc::default());
    let outcomes = Outcomes {
        rejections: Arc::clone(&rejections),
        begun,
    };
    let caches = watches::start(&cluster, &workers, outcomes, &metrics, tasks);
    let (events, send_events) = Events::new(cluster.client.clone(), metrics.clone());
    tasks.spawn(send_events);
    let (provider, provider_ready) = watch::channel(false);
    let shared = Arc::new(Shared {
        cluster,
        caches,
        settings: settings.subscribe(),
        cluster_check: cluster_check.subscribe(),
        provider_ready,
        events,
        metrics,
        rejections,
        begun,
        admission: tokio::sync::Mutex::default(),
    });
    let context = Context { shared, workers };
    if args.config.is_none() {
        tasks.spawn(context.clone().follow_config(settings));
    }
    let Context { shared, workers } = &context;
    tokio::select! {
        () = filled(&shared.caches, &waiting) => {}
        ended = tasks.join_next() => return why_ended(ended),
    }
    shared.metrics.count_from(&shared.caches);
    tasks.spawn(context.clone().check_cluster(cluster_check, args.recheck));
    // No VM is started before the first check of the cluster. Waiting for it here, mostly moments, saves a report on each
    // waiting pod.
    let mut checked = shared.cluster_check.clone();
    let first = checked.wait_for(|cluster_check| *cluster_check != preflight::Decision::Unchecked);
    let _: Result<_, _> = tokio::time::timeout(FIRST_CHECK, first).await;
    tasks.spawn(context.clone().await_provider(provider, waiting));
    let c = context.clone();
    tasks.spawn(repeat("sweep", async move || {
        sweep::sweep(&c.shared.cluster, &c.workers, &c.shared.metrics).await
    }));
    let c = context.clone();
    tasks.spawn(repeat("sweep of certificate requests", async move || {
        sweep::requests::sweep(&c.shared.cluster, &c.shared.metrics).await
    }));
    let lanes = Lanes::new(args.starts_at_once);
    tokio::select! {
        ended = workers.run(shared.clone(), lanes) => ended.map_or_else(Error::Task, |()| Error::Ended("workers")),
        ended = tasks.join_next() => why_ended(ended),
    }
}

impl Context {
    async fn follow_config(self, settings: watch::Sender<Option<Arc<Settings>>>) {
        let Self { shared, workers } = self;
        config::follow(&shared.cluster, &settings, shared.metrics.clone(), || {
            workers.enqueue_all();
        })
        .await;
    }

    async fn check_cluster(self, cluster_check: watch::Sender<preflight::Decision>, recheck: Duration) {
        let Self { shared, workers } = self;
        let settings = shared.settings.clone();
        preflight::follow(&shared.cluster, settings, &cluster_check, recheck, || {
            workers.enqueue_all();
        })
        .await;
    }

    /// An administrator may install KubeVirt after this program: until then pods report that they wait for it.
    async fn await_provider(self, provider: watch::Sender<bool>, waiting: watch::Sender<Option<String>>) {
        waiting.send_replace(Some(
            "the list of VirtualMachineInstances (is KubeVirt installed?)".to_owned(),
        ));
        self.shared.caches.vmis.filled().await;
        waiting.send_replace(None);
        provider.send_replace(true);
        self.workers.enqueue_all();
        tracing::info!("all caches are filled; working");
        pending::<()>().await;
    }
}

/// The webhook needs its certificate even while this program waits for caches.
async fn keep_certificates(cluster: Cluster, namespace: String, rules: Option<Rules>, metrics: Arc<Metrics>) {
    if let Some(rules) = rules {
        certs::keep(cluster, namespace, rules, metrics).await;
    } else {
        certs::forget(&cluster).await;
        pending::<()>().await;
    }
}

/// Waits for every cache except that of VMIs: to a decision, an empty cache looks like a cluster without such objects.
async fn filled(caches: &Caches, waiting: &watch::Sender<Option<String>>) {
    let wait = |what: &str| waiting.send_replace(Some(format!("the list of {what}")));
    wait("pods");
    caches.pods.filled().await;
    wait("MaroonedNodes (is the CRD installed?)");
    caches.records.filled().await;
    wait("Nodes");
    caches.nodes.filled().await;
    caches.hosts.filled().await;
    wait("CertificateSigningRequests");
    caches.csrs.filled().await;
    wait("NetworkPolicies");
    caches.policies.filled().await;
}

/// Repeats a sweep for ever.
async fn repeat(what: &str, sweep: impl AsyncFn() -> Result<(), CallError>) {
    loop {
        if let Err(error) = sweep().await {
            tracing::warn!(%error, "the {what} failed and will be repeated");
        }
        tokio::time::sleep(sweep::PERIOD).await;
    }
}

fn why_ended(ended: Option<Result<(), JoinError>>) -> Error {
    match ended {
        Some(Err(error)) => Error::Task(error),
        Some(Ok(())) | None => {
            Error::Ended("a watch, the sweep, the certificates, the events or the metrics server")
        }
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "host".to_owned(), |h| h.trim().to_owned())
}

fn unique_suffix() -> String {
    getrandom::u64().map_or_else(
        |_| std::process::id().to_string(),
        |random| format!("{random:016x}"),
    )
}
