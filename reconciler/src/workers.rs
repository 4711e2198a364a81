//! One task per marooned pod: it observes, plans, acts, and sleeps until something changes.
//!
//! kube's `Controller` reconciles objects that exist; our key is a pod's UID, which is there before the record and
//! has work left after the pod. Guarantees: at most one pass per UID at a time; a poke is never lost; a pass that
//! hangs or fails is repeated with backoff. Caveat: what nobody pokes is found by the sweep.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use maroonedpods_common::api::MaroonedNode;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use crate::act;
use crate::api::{CallError, Cluster};
use crate::events::Events;
use crate::metrics::Metrics;
use crate::observe::{self, Caches};
use crate::plan::{self, Plan, View, Write};
use crate::preflight::Verdict;
use crate::rejections::Rejections;
use crate::seen::Seen;
use crate::settings::Settings;
use crate::sightings::{Outcome, Sightings, Uptime};
use crate::view::PodView;

/// Passes under way at once, by line; more only makes the API server's queue longer. Few of them are starts: each
/// brings a guest that will have the API server work for it, and those on their way would wait longer for what comes
/// after (`hack/bench reconciler`: with 2 in place of 8, 100 pods at once run sooner, the first as well as the last).
const STARTS_AT_ONCE: usize = 2;
const LIFTS_AT_ONCE: usize = 16;
const OTHERS_AT_ONCE: usize = 16;
/// A pass that takes longer is given up and begun anew.
const PASS_DEADLINE: Duration = Duration::from_secs(60);
/// Nobody sleeps longer, whatever the plan says.
const LONGEST_SLEEP: Duration = Duration::from_secs(5 * 60);
/// So many failed passes in a row are worth a word on the pod.
const FAILURES_TO_TELL: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// What every worker works with.
pub struct Shared {
    /// The API server.
    pub cluster: Cluster,
    /// The watch caches, all filled.
    pub caches: Caches,
    /// The configuration in force.
    pub settings: watch::Receiver<Option<Arc<Settings>>>,
    /// Whether VMs may be started.
    pub verdict: watch::Receiver<Verdict>,
    /// VMs can be listed. Until then nothing is decided: no VM known would look like no VM there.
    pub provider_ready: watch::Receiver<bool>,
    /// Events for people.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Owners whose pods were rejected by their kubelets.
    pub rejections: Mutex<Rejections>,
    /// When this process began to work.
    pub begun: Instant,
}

impl Shared {
    fn uptime(&self) -> Uptime {
        Uptime::try_from(self.begun.elapsed()).unwrap_or(Uptime::MAX)
    }
}

/// The workers, by pod UID.
#[derive(Clone, Default)]
pub struct Workers {
    pokes: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
    arrivals: Arc<Notify>,
}

impl Workers {
    /// Says that something of this pod may have changed. Cheap, never blocks, never lost.
    pub fn poke(&self, pod_uid: &str) {
        let mut pokes = self.lock();
        if let Some(poke) = pokes.get(pod_uid) {
            poke.notify_one();
        } else {
            let poke = Arc::new(Notify::new());
            poke.notify_one();
            pokes.insert(pod_uid.to_owned(), poke);
            self.arrivals.notify_one();
        }
    }

    /// Says so of every pod that has a worker.
    pub fn poke_all(&self) {
        for poke in self.lock().values() {
            poke.notify_one();
        }
    }

    /// Runs a worker for each UID that was ever poked, until its plan is done. Dropping it stops them all.
    ///
    /// # Errors
    /// Only when a worker panics: its pod must not be left without one in silence.
    pub async fn run(&self, shared: Arc<Shared>) -> Result<(), tokio::task::JoinError> {
        let mut tasks = JoinSet::new();
        let mut started = HashSet::new();
        let turns = Arc::new(Turns::default());
        loop {
            let fresh: Vec<_> = {
                let pokes = self.lock();
                pokes
                    .iter()
                    .filter(|(uid, _)| !started.contains(*uid))
                    .map(|(u, p)| (u.clone(), p.clone()))
                    .collect()
            };
            for (uid, poke) in fresh {
                started.insert(uid.clone());
                let worker = Worker {
                    uid,
                    poke,
                    shared: shared.clone(),
                    turns: turns.clone(),
                    workers: self.clone(),
                };
                tasks.spawn(worker.run());
            }
            tokio::select! {
                () = self.arrivals.notified() => {}
                Some(ended) = tasks.join_next() => { started.remove(&ended?); }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.pokes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    uid: String,
    poke: Arc<Notify>,
    shared: Arc<Shared>,
    turns: Arc<Turns>,
    workers: Workers,
}

/// Who may have a pass now. There are three lines, so that a burst of new pods, or of ends, does not hold up those
/// whose nodes are there.
struct Turns {
    /// Pods for which something is about to be made.
    starts: Semaphore,
    /// Pods whose kubelet has spoken, up to the lifted gate.
    lifts: Semaphore,
    others: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            starts: Semaphore::new(STARTS_AT_ONCE),
            lifts: Semaphore::new(LIFTS_AT_ONCE),
            others: Semaphore::new(OTHERS_AT_ONCE),
        }
    }
}

impl Turns {
    /// The line for a pass that would make these writes, as far as is known before it.
    fn line(&self, writes: &[Write]) -> &Semaphore {
        if writes.iter().any(Write::spends) {
            &self.starts
        } else if writes.iter().any(Write::leads_to_lift) {
            &self.lifts
        } else {
            &self.others
        }
    }
}

/// How a pass ended.
enum Pass {
    Done,
    SleepUntil(Option<Timestamp>),
}

impl Worker {
    async fn run(self) -> String {
        let mut seen = Seen::default();
        let mut sightings = Sightings::default();
        let mut failures = 0;
        self.poke.notified().await;
        loop {
            let pass = {
                let Ok(_turn) = self
                    .turns
                    .line(&self.outlook(&seen, &mut sightings))
                    .acquire()
                    .await
                else {
                    return self.uid;
                };
                let begun = Instant::now();
                // Boxed, for a worker mostly sleeps, and what a pass needs is far more than what a sleeper does.
                let pass = Box::pin(self.pass(&mut seen, &mut sightings, failures));
                let pass = tokio::time::timeout(PASS_DEADLINE, pass)
                    .await
                    .unwrap_or(Err(CallError::Deadline));
                self.shared.metrics.passed(begun.elapsed());
                pass
            };
            match pass {
                Ok(Pass::Done) => {
                    if self.retire() {
                        return self.uid;
                    }
                    failures = 0;
                }
                Ok(Pass::SleepUntil(at)) => {
                    failures = 0;
                    let sleep = at.map_or(LONGEST_SLEEP, |at| until(at).min(LONGEST_SLEEP));
                    let _: Result<(), _> = tokio::time::timeout(sleep, self.poke.notified()).await;
                }
                Err(error) => {
                    failures += 1;
                    self.shared.metrics.failed_pass(&error);
                    log(&self.uid, &error, failures);
                    // A failed precondition means that the cache was behind: the next look is a live one.
                    seen.distrust();
                    tokio::time::sleep(backoff(failures)).await;
                }
            }
        }
    }

    /// Leaves the table, unless somebody poked since the last look.
    fn retire(&self) -> bool {
        let mut pokes = self.workers.lock();
        // The permit of a poke that came in the meantime is taken here, or kept for the next pass.
        if futures::FutureExt::now_or_never(self.poke.notified()).is_some() {
            return false;
        }
        pokes.remove(&self.uid);
        true
    }

    /// What the next pass would write, as far as the caches tell.
    fn outlook(&self, seen: &Seen, sightings: &mut Sightings) -> Vec<Write> {
        let settings = self.shared.settings.borrow().clone();
        let (caches, cluster) = (&self.shared.caches, &self.shared.cluster);
        let view = observe::cached(&self.uid, caches, cluster, settings.as_ref(), seen);
        view.map(|view| plan::plan(&self.judged(view, sightings), Timestamp::now()).writes)
            .unwrap_or_default()
    }

    async fn pass(
        &self,
        seen: &mut Seen,
        sightings: &mut Sightings,
        failures: u32,
    ) -> Result<Pass, CallError> {
        if !*self.shared.provider_ready.borrow() {
            return self.report_missing_provider(seen).await;
        }
        let (plan, record) = match self.decide(seen, sightings).await {
            // KubeVirt was there and is not any more: what became of its VMs cannot be known.
            Err(error) if error.is_unserved() => {
                self.report_missing_provider(seen).await?;
                return Err(error);
            }
            decided => decided?,
        };
        for write in &plan.writes {
            if let Err(error) = act::perform(&self.shared.cluster, write, seen).await {
                if error.is_unserved() {
                    self.report_missing_provider(seen).await?;
                } else if must_be_told(write, &error, failures) {
                    self.report_refusal(&plan, &error, seen).await?;
                }
                return Err(error);
            }
            tracing::debug!(pod_uid = self.uid, write = write.kind(), "written");
            self.count(&plan, record.as_deref(), write);
        }
        if let Some(pod) = &plan.pod {
            plan.notes
                .iter()
                .for_each(|note| self.shared.events.publish(pod, note));
        }
        Ok(if plan.done {
            Pass::Done
        } else {
            Pass::SleepUntil(plan.wake)
        })
    }

    fn count(&self, plan: &Plan, record: Option<&MaroonedNode>, write: &Write) {
        self.shared.metrics.written(write, record);
        let created = plan.pod.as_ref().and_then(|pod| pod.created);
        if let (Write::LiftGate { .. }, Some(created)) = (write, created) {
            self.shared
                .metrics
                .lifted(Timestamp::now().duration_since(created).as_secs_f64().max(0.0));
        }
    }

    /// A view with what only this process knows: whether VMs may be started, since when things are as they are, and whom
    /// it waits with.
    fn judged(&self, view: View, sightings: &mut Sightings) -> View {
        let uptime = self.shared.uptime();
        let ages = sightings.see(&view, uptime);
        let backing_off = view.pod.as_ref().and_then(|pod| {
            let mut rejections = self
                .shared
                .rejections
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match sightings.outcome(pod) {
                Some(Outcome::Ready) => rejections.succeeded(&pod.owner),
                Some(Outcome::Rejected(why)) => rejections.rejected(&pod.owner, &pod.uid, why, uptime),
                None => {}
            }
            let asks = view.record.is_none() && pod.gate_index.is_some() && !pod.exempt;
            asks.then(|| rejections.holds(&pod.owner, &pod.uid, uptime))
                .flatten()
        });
        View {
            hold: self.shared.verdict.borrow().hold(),
            ages,
            backing_off,
            ..view
        }
    }

    async fn report_missing_provider(&self, seen: &mut Seen) -> Result<Pass, CallError> {
        let pod = observe::cached_pod(&self.uid, &self.shared.caches, None);
        let report = pod
            .as_deref()
            .and_then(|pod| PodView::of(pod))
            .as_ref()
            .and_then(plan::provider_missing);
        if let Some(report) = report {
            act::perform(&self.shared.cluster, &report, seen).await?;
        }
        Ok(Pass::SleepUntil(None))
    }

    /// Rights, quota and policies are for people to mend: the pod says what was refused.
    async fn report_refusal(&self, plan: &Plan, error: &CallError, seen: &mut Seen) -> Result<(), CallError> {
        let report = plan
            .pod
            .as_ref()
            .and_then(|pod| plan::refused(pod, &error.to_string()));
        match report {
            Some(report) => act::perform(&self.shared.cluster, &report, seen).await,
            None => Ok(()),
        }
    }

    /// The plan, and the record that it was made from.
    async fn decide(
        &self,
        seen: &mut Seen,
        sightings: &mut Sightings,
    ) -> Result<(Plan, Option<Arc<MaroonedNode>>), CallError> {
        let shared = &self.shared;
        let settings = shared.settings.borrow().clone();
        let cached = observe::cached(
            &self.uid,
            &shared.caches,
            &shared.cluster,
            settings.as_ref(),
            seen,
        );
        if let Some(view) = cached.map(|view| self.judged(view, sightings)) {
            let plan = plan::plan(&view, Timestamp::now());
            if !plan.needs_live_view() {
                return Ok((plan, view.record));
            }
        }
        let view = observe::live(&self.uid, &shared.caches, &shared.cluster, settings.as_ref()).await?;
        seen.clear();
        let view = self.judged(view, sightings);
        Ok((plan::plan(&view, Timestamp::now()), view.record))
    }
}

/// Whether a failed write keeps the pod waiting for somebody else: it was refused, or fails again and again. A lost
/// race is neither, and a failed `test` of the lift patch is one.
fn must_be_told(write: &Write, error: &CallError, failures: u32) -> bool {
    if error.is_conflict() {
        return false;
    }
    let lasting = error.is_refusal() || error.is_gone() || matches!(error, CallError::Unexpected(_));
    match write {
        Write::LiftGate { .. } => error.is_forbidden(),
        _ => write.spends() && (lasting || failures >= FAILURES_TO_TELL),
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

fn backoff(failures: u32) -> Duration {
    FIRST_BACKOFF
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
        .min(LONGEST_BACKOFF)
}

/// A lost race is everyday life with two leaders; anything else is worth a warning.
fn log(pod_uid: &str, error: &CallError, failures: u32) {
    if error.is_conflict() {
        tracing::debug!(pod_uid, %error, failures, "precondition failed, looking again");
    } else {
        tracing::warn!(pod_uid, %error, failures, "pass failed, will be repeated");
    }
}
