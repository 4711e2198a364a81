//! Pods' lives on a real control plane, the reconciler a process of its own, with simulated VMs that boot at once.

mod tables;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use maroonedpods_common::api::{MaroonedNode, MaroonedPodsConfigSpec};
use maroonedpods_common::names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::lives::{self, Lives, Subject};
use super::stats::number;
use super::{Report, proc, program};
use crate::api::check::eventually;
use crate::api::leftovers::nothing_left;
use crate::api::namespace::TestNamespace;
use crate::api::read::phase;
use crate::harness::test_env::TestEnv;
use crate::install::{RECONCILER_ACCOUNT, SYSTEM_NAMESPACE};
use crate::system::process::Processes;

const START_LIMIT: Duration = Duration::from_secs(60);
/// For all pods of a batch to run, and again for all to be gone.
const BATCH_LIMIT: Duration = Duration::from_secs(600);
/// Requests of ours, as the user, under way at once: "at once" is as fast as the API server takes them.
const USERS_REQUESTS: usize = 32;
/// From the last pod's start until memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// ... and until nothing is expected to be written any more: the sweep, once a minute, has told the counts.
const SILENCE: Duration = Duration::from_secs(65);
/// How long an idle reconciler is watched.
const IDLE: Duration = Duration::from_secs(30);
const MIB: f64 = 1_048_576.0;

/// How many pods at once, batch by batch.
#[derive(Clone, Debug)]
pub struct Effort {
    batches: Vec<usize>,
    /// The batch in which the reconciler is watched doing nothing.
    idle_at: Option<usize>,
}

impl Effort {
    /// 10, 100 and 1,000 pods; or, `quick`, 10 and 50, and no idling.
    #[must_use]
    pub fn new(quick: bool) -> Self {
        if quick {
            Self {
                batches: vec![10, 50],
                idle_at: None,
            }
        } else {
            Self {
                batches: vec![10, 100, 1000],
                idle_at: Some(100),
            }
        }
    }

    /// These batches instead.
    #[must_use]
    pub fn with_batches(mut self, batches: Vec<usize>) -> Self {
        self.batches = batches;
        self
    }
}

/// All figures of one batch.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    pods: usize,
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

/// Measures.
pub async fn run(effort: &Effort) -> Result<Report<Vec<Batch>>> {
    eprintln!("starting the control plane");
    let env = TestEnv::start_with(0, config).await?;
    let setup = Setup::new(&env).await?;
    let mut batches = Vec::new();
    for &pods in &effort.batches {
        batches.push(setup.batch(pods, effort.idle_at == Some(pods)).await?);
    }
    drop(setup);
    env.stop().await?;
    let goals = tables::goals(&batches);
    let tables = vec![
        tables::times(&batches),
        tables::costs(&batches),
        tables::shares(&batches),
        tables::kinds(&batches),
    ];
    Ok(Report::new(goals, tables, batches))
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
    admin: Client,
    reconciler: u32,
    metrics: SocketAddr,
    _processes: Processes,
    _logs: TempDir,
}

impl<'a> Setup<'a> {
    async fn new(env: &'a TestEnv) -> Result<Self> {
        let metrics = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let kubeconfig = env.reconciler_identity().await?.kubeconfig;
        let arguments = [
            "run".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--metrics-bind={metrics}"),
        ];
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
            admin: env.control_plane().admin().await?,
            reconciler,
            metrics,
            _processes: processes,
            _logs: logs,
        })
    }

    /// Creates so many pods at once, waits until all run, watches them run, deletes them at once, waits until
    /// nothing is left.
    async fn batch(&self, count: usize, watch_idle: bool) -> Result<Batch> {
        let namespace = TestNamespace::new(&self.admin, &[]).await?;
        let pods: Api<Pod> = Api::namespaced(self.admin.clone(), &namespace.name);
        let records: Api<MaroonedNode> = Api::all(self.admin.clone());
        let (from, cpu_before, failed_before) = (Timestamp::now(), self.cpu()?, self.failed_passes().await?);

        eprintln!("{count} pods at once: creating");
        let start = Instant::now();
        let subjects = create(&pods, &namespace.name, count).await?;
        until(
            &pods,
            "running",
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
        until(&records, "left", |left| left == 0, |_| true).await?;
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
            up_seconds,
            down_seconds,
            cpu_ms_per_pod: since(cpu_after, &cpu_before)
                .into_iter()
                .map(|(program, ms)| (program, ms / number(count)))
                .collect(),
            resident_mib,
            peak_mib: mib(proc::peak_resident_bytes(self.reconciler)?),
            idle_writes_per_minute: idle_writes.map(|writes| number(writes) * 60.0 / IDLE.as_secs_f64()),
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

async fn create(pods: &Api<Pod>, namespace: &str, count: usize) -> Result<Vec<Subject>> {
    let create = |number: usize| async move {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("bench-{number}"), "labels": {names::MAROON_LABEL: "true"}},
            "spec": {
                "automountServiceAccountToken": false,
                "containers": [{"name": "app", "image": "registry.example/app:1"}],
            },
        }))?;
        let created = pods.create(&PostParams::default(), &pod).await?;
        anyhow::Ok(Subject {
            namespace: namespace.to_owned(),
            name: created.name_any(),
            uid: created.uid().context("a stored pod has a UID")?,
        })
    };
    stream::iter(0..count)
        .map(create)
        .buffer_unordered(USERS_REQUESTS)
        .try_collect()
        .await
}

async fn delete(pods: &Api<Pod>, subjects: &[Subject]) -> Result<()> {
    let names = subjects.iter().map(|subject| subject.name.clone());
    let delete = |name: String| async move { pods.delete(&name, &DeleteParams::default()).await.map(drop) };
    let deleted = stream::iter(names).map(delete).buffer_unordered(USERS_REQUESTS);
    Ok(deleted.try_collect().await?)
}

/// Follows all objects until the number of those that `counts` is as wanted. Says how it goes on.
async fn until<K>(
    api: &Api<K>,
    what: &str,
    wanted: impl Fn(usize) -> bool,
    counts: impl Fn(&K) -> bool,
) -> Result<()>
where
    K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut counted = HashSet::new();
    let mut said = Instant::now();
    let mut listed = false;
    let mut events = std::pin::pin!(watcher(api.clone(), watcher::Config::default()));
    let follow = async {
        while let Some(event) = events.next().await {
            // The watcher lists and watches again by itself after an error.
            let Ok(event) = event else { continue };
            match event {
                Event::Init => {
                    counted.clear();
                    listed = false;
                }
                Event::Apply(object) | Event::InitApply(object) if counts(&object) => {
                    counted.extend(object.uid());
                }
                Event::Delete(object) => _ = object.uid().map(|uid| counted.remove(&uid)),
                Event::InitDone => listed = true,
                Event::Apply(_) | Event::InitApply(_) => {}
            }
            if listed && wanted(counted.len()) {
                break;
            }
            if said.elapsed() > Duration::from_secs(5) {
                eprintln!("  {} {what}", counted.len());
                said = Instant::now();
            }
        }
    };
    let reached = timeout(BATCH_LIMIT, follow).await;
    ensure!(
        reached.is_ok(),
        "{} {what} after {} s",
        counted.len(),
        BATCH_LIMIT.as_secs()
    );
    Ok(())
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
