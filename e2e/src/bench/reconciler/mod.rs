//! Pods' lives on a real control plane, the reconciler a process of its own, with simulated VMs that boot at once.

mod pods;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use maroonedpods_common::api::{MaroonedNode, MaroonedPodsConfigSpec};
use maroonedpods_common::names;
use serde::Serialize;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use self::pods::{create, delete, until};
use super::lives::{self, Lives};
use super::stats::number;
use super::{Report, notes, proc, program};
use crate::api::check::eventually;
use crate::api::leftovers::nothing_left;
use crate::api::namespace::TestNamespace;
use crate::api::read::phase;
use crate::control_plane::ControlPlaneOptions;
use crate::harness::test_env::TestEnv;
use crate::install::{RECONCILER_ACCOUNT, SYSTEM_NAMESPACE};
use crate::system::process::Processes;

const START_LIMIT: Duration = Duration::from_secs(60);
/// For all pods of a batch to run, and again for all to be gone.
const BATCH_LIMIT: Duration = Duration::from_secs(600);
/// From the last pod's start until memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// ... and until nothing is expected to be written any more: the sweep, once a minute, has told the counts.
const SILENCE: Duration = Duration::from_secs(65);
/// How long an idle reconciler is watched: a minute has one sweep in it.
const IDLE: Duration = Duration::from_secs(60);
/// A name of kube-scheduler that the webhook leaves to a pod.
const SCHEDULER_NAME: &str = "other-scheduler";
const MIB: f64 = 1_048_576.0;
const METHOD: [&str; 3] = [
    "each batch once, one after the other with the same reconciler",
    "real: etcd, kube-apiserver, kube-controller-manager, kube-scheduler and the reconciler, a release build and a process \
     of its own",
    "simulated in this program: KubeVirt, VMs that boot at once, guests and kubelets; the webhook runs in it, too",
];

/// How many pods at once, batch by batch.
#[derive(Clone, Debug)]
pub struct Effort {
    quick: bool,
    batches: Vec<usize>,
    /// The batch in which the reconciler is watched doing nothing.
    idle_at: Option<usize>,
    /// All batches again, with a reconciler that starts so many pods at once.
    other_starts: Option<NonZeroUsize>,
    /// Each batch again, of pods that kube-scheduler binds.
    beside_scheduler: bool,
}

impl Effort {
    /// 10, 100 and 1,000 pods; or, `quick`, 10 and 50, and no idling.
    #[must_use]
    pub fn new(quick: bool) -> Self {
        let (batches, idle_at) = if quick {
            (vec![10, 50], None)
        } else {
            (vec![10, 100, 1000], Some(100))
        };
        Self {
            quick,
            batches,
            idle_at,
            other_starts: None,
            beside_scheduler: false,
        }
    }

    /// These batches instead.
    #[must_use]
    pub fn with_batches(mut self, batches: Vec<usize>) -> Self {
        self.batches = batches;
        self
    }

    /// All batches a second time, with a reconciler that starts so many pods at once instead of as many as is usual.
    #[must_use]
    pub fn beside_starts(mut self, at_once: NonZeroUsize) -> Self {
        self.other_starts = Some(at_once);
        self
    }

    /// After each batch the same one of pods that name a scheduler of their own, which is kube-scheduler: it binds them, not
    /// the reconciler.
    #[must_use]
    pub fn beside_scheduler(mut self) -> Self {
        self.beside_scheduler = true;
        self
    }
}

/// All figures of one batch.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    pods: usize,
    /// Starts at once, where they are not as many as is usual.
    starts_at_once: Option<NonZeroUsize>,
    /// By kube-scheduler, and not by the reconciler.
    bound_by_scheduler: bool,
    lives: Lives,
    /// From the first create to the last pod's start, and from the first delete to the last record's end, in
    /// seconds.
    up_seconds: f64,
    down_seconds: f64,
    /// Processor time in a life by program, in milliseconds: what the machine's processors were shared by.
    cpu_ms_per_pod: BTreeMap<String, f64>,
    resident_mib: f64,
    peak_mib: f64,
    /// The reconciler's writes in a minute while all pods ran and nothing happened, where that was watched.
    idle_writes_per_minute: Option<f64>,
    /// VMs that were started because an earlier one had failed.
    further_attempts: usize,
    /// The reconciler's failed passes by reason.
    failed_passes: BTreeMap<String, f64>,
}

impl Batch {
    fn name(&self) -> String {
        let starts = self
            .starts_at_once
            .map(|starts| format!(", {starts} starts at once"));
        let binder = self.bound_by_scheduler.then_some(", bound by kube-scheduler");
        format!(
            "{} at once{}{}",
            self.pods,
            starts.unwrap_or_default(),
            binder.unwrap_or_default()
        )
    }
}

/// Measures.
pub async fn run(effort: &Effort) -> Result<Report<Vec<Batch>>> {
    let mut batches = of_one_reconciler(effort, None).await?;
    if effort.other_starts.is_some() {
        batches.extend(of_one_reconciler(effort, effort.other_starts).await?);
    }
    let notes = notes(effort.quick, METHOD.map(str::to_owned));
    let aims = tables::aims(&batches);
    let tables = vec![
        tables::times(&batches),
        tables::costs(&batches),
        tables::shares(&batches),
        tables::kinds(&batches),
    ];
    Ok(Report::new(notes, aims, tables, batches))
}

/// All batches on a control plane of their own.
async fn of_one_reconciler(effort: &Effort, starts_at_once: Option<NonZeroUsize>) -> Result<Vec<Batch>> {
    eprintln!("starting the control plane");
    let options = ControlPlaneOptions {
        other_scheduler_name: effort.beside_scheduler.then(|| SCHEDULER_NAME.to_owned()),
        ..ControlPlaneOptions::default()
    };
    let env = TestEnv::start_on(options, 0, config).await?;
    let setup = Setup::new(&env, starts_at_once).await?;
    // One pod that is not measured: kube-apiserver holds creates back for two seconds while a CRD is that new.
    setup.batch(1, None, false).await?;
    let mut batches = Vec::new();
    for &pods in &effort.batches {
        batches.push(setup.batch(pods, None, effort.idle_at == Some(pods)).await?);
        if effort.beside_scheduler {
            batches.push(setup.batch(pods, Some(SCHEDULER_NAME), false).await?);
        }
    }
    drop(setup);
    env.stop().await?;
    Ok(batches)
}

/// The shipped deadlines, and VMs small enough for a thousand of them.
fn config(server_url: &str) -> Result<MaroonedPodsConfigSpec> {
    Ok(serde_json::from_value(json!({
        "nodeImage": "registry.example/marooned-node@sha256:0000",
        "join": {"serverURL": server_url},
    }))?)
}

struct Setup<'a> {
    env: &'a TestEnv,
    starts_at_once: Option<NonZeroUsize>,
    admin: Client,
    reconciler: u32,
    metrics: SocketAddr,
    _processes: Processes,
    _logs: TempDir,
}

impl<'a> Setup<'a> {
    async fn new(env: &'a TestEnv, starts_at_once: Option<NonZeroUsize>) -> Result<Self> {
        let metrics = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let kubeconfig = env.reconciler_identity().await?.kubeconfig;
        let mut arguments = vec![
            "run".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--metrics-bind={metrics}"),
        ];
        arguments.extend(starts_at_once.map(|starts| format!("--starts-at-once={starts}")));
        let logs = tempfile::tempdir()?;
        let log = logs.path().join("reconciler.log");
        let processes = Processes::new()?;
        let reconciler = processes.start(
            "the reconciler",
            &program("maroonedpods-reconciler")?,
            &arguments,
            &log,
        )?;
        eventually("the reconciler's /readyz", START_LIMIT, || async {
            if let Some(ended) = processes.ended()? {
                let said = fs::read_to_string(&ended.log)?;
                anyhow::bail!("{} ended ({}): {said}", ended.name, ended.status);
            }
            let answer = get(metrics, "/readyz").await?;
            Ok(answer.contains(" 200 ").then_some(()))
        })
        .await?;
        Ok(Self {
            env,
            starts_at_once,
            admin: env.control_plane().admin().await?,
            reconciler,
            metrics,
            _processes: processes,
            _logs: logs,
        })
    }

    /// Creates so many pods at once, waits until all run, watches them run, deletes them at once, waits until
    /// nothing is left.
    async fn batch(&self, count: usize, scheduler: Option<&str>, watch_idle: bool) -> Result<Batch> {
        let namespace = TestNamespace::new(&self.admin, &[]).await?;
        let pods: Api<Pod> = Api::namespaced(self.admin.clone(), &namespace.name);
        let records: Api<MaroonedNode> = Api::all(self.admin.clone());
        let (from, cpu_before, failed_before) = (Timestamp::now(), self.cpu()?, self.failed_passes().await?);

        eprintln!("{count} pods at once: creating");
        let start = Instant::now();
        let subjects = create(&pods, &namespace.name, count, scheduler).await?;
        until(
            &pods,
            "running",
            BATCH_LIMIT,
            |running| running == count,
            |pod| phase(pod) == "Running",
        )
        .await?;
        let up_seconds = start.elapsed().as_secs_f64();
        eprintln!("{count} pods at once: all run after {up_seconds:.1} s");
        sleep(SETTLE).await;
        let resident_mib = mib(proc::resident_bytes(self.reconciler)?);

        let idle = if watch_idle {
            eprintln!("{count} pods at once: watching them do nothing");
            sleep(SILENCE).await;
            let from = Timestamp::now();
            sleep(IDLE).await;
            Some((from, Timestamp::now()))
        } else {
            None
        };

        eprintln!("{count} pods at once: deleting");
        let start = Instant::now();
        delete(&pods, &subjects).await?;
        until(&records, "left", BATCH_LIMIT, |left| left == 0, |_| true).await?;
        let down_seconds = start.elapsed().as_secs_f64();
        eventually("nothing to be left", BATCH_LIMIT, || async {
            Ok(nothing_left(&self.admin).await?.is_empty().then_some(()))
        })
        .await?;
        eprintln!("{count} pods at once: gone after {down_seconds:.1} s");

        let mut audit = self.env.control_plane().audit()?;
        audit.retain(|event| event.received >= from);
        let user = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{RECONCILER_ACCOUNT}");
        let lives = lives::read(&audit, &user, &subjects);
        let idle_writes = idle.map(|(from, to)| lives::writes_between(&audit, &user, from, to));
        let cpu_after = self.cpu()?;
        let failed_passes = since(self.failed_passes().await?, &failed_before);
        let vms = |name: &str| names::pod_uid_of(name).is_none();
        let further = audit.iter().filter(|e| {
            e.resource == "virtualmachineinstances" && e.verb == "create" && e.code == 201 && vms(&e.name)
        });
        Ok(Batch {
            pods: count,
            starts_at_once: self.starts_at_once,
            bound_by_scheduler: scheduler.is_some(),
            up_seconds,
            down_seconds,
            cpu_ms_per_pod: since(cpu_after, &cpu_before)
                .into_iter()
                .map(|(program, ms)| (program, ms / number(count)))
                .collect(),
            resident_mib,
            peak_mib: mib(proc::peak_resident_bytes(self.reconciler)?),
            idle_writes_per_minute: idle_writes.map(number),
            further_attempts: further.count(),
            failed_passes,
            lives,
        })
    }

    /// Processor time of everything that runs here, in milliseconds. The fake KubeVirt, the webhook and what
    /// makes the pods are this process.
    fn cpu(&self) -> Result<BTreeMap<String, f64>> {
        let mut processes = self.env.control_plane().process_ids();
        processes.extend([self.reconciler, std::process::id()]);
        let used = |id| {
            let name = fs::read_to_string(format!("/proc/{id}/comm"))?;
            let ms = proc::cpu_time(id)?.as_secs_f64() * 1e3;
            anyhow::Ok((name.trim().to_owned(), ms))
        };
        processes.into_iter().map(used).collect()
    }

    async fn failed_passes(&self) -> Result<BTreeMap<String, f64>> {
        let text = get(self.metrics, "/metrics").await?;
        let reasons = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("maroonedpods_failed_passes_total{reason=\"")?;
            let (reason, count) = rest.split_once("\"} ")?;
            Some((reason.to_owned(), count.parse().ok()?))
        });
        Ok(reasons.collect())
    }
}

/// The answer to an HTTP request, head and body.
async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn since(now: BTreeMap<String, f64>, before: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let grown = now.into_iter().map(|(key, value)| {
        let before = before.get(&key).copied().unwrap_or_default();
        (key, value - before)
    });
    grown.filter(|(_, more)| *more > 0.0).collect()
}

/// Sizes here are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
