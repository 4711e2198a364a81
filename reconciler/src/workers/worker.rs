//! The passes for one pod, one after the other. One pass, and what of it calls the API server:
//!
//! 1. *Peek* ([`Worker::peek`]): decide from the caches, only to choose a lane. No call.
//! 2. *Wait* for a permit of that lane. No call.
//! 3. *Observe and decide* ([`Worker::decide`]): from the caches, without a call. If the decision needs a live view, or
//!    the caches are older than this worker's own writes, read record, Node, VMI and pod (four calls, and one or two for
//!    each claim of a pod that has yet to get its record, or that the reconciler binds) and decide again.
//! 4. *Act* ([`act::perform`]): the decision's writes in order, each of one or few calls. The first failure ends the pass.
//! 5. *Report*: events are queued, and sent beside the passes.
//!
//! Then the worker sleeps until something changes, until the time that the decision names, or after a failure for a
//! backoff.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use maroonedpods_common::PodUid;
use maroonedpods_common::api::MaroonedNode;
use tokio::sync::Notify;

use super::lanes::Lanes;
use super::pace::Pace;
use super::places::Waiter;
use super::{Shared, Workers};
use crate::act;
use crate::api::CallError;
use crate::observe;
use crate::own_writes::OwnWrites;
use crate::plan::{self, Decision, Write};
use crate::settings::Settings;
use crate::sightings::Sightings;
use crate::view::{Observed, PodView};

/// A pass that takes longer is abandoned and repeated.
const PASS_DEADLINE: Duration = Duration::from_secs(60);
/// No worker sleeps longer, whatever the plan asks for.
const LONGEST_SLEEP: Duration = Duration::from_secs(5 * 60);
/// After this many failed passes in a row, the pod's condition reports the failure.
const FAILURES_TO_REPORT: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// The worker of one pod: it observes, plans, acts, and sleeps until something changes.
pub(super) struct Worker {
    pub(super) uid: PodUid,
    /// The pod's namespace, and its entry in the queue for places, once they are known; neither ever changes.
    pub(super) origin: OnceLock<(String, Waiter)>,
    pub(super) wakeup: Arc<Notify>,
    pub(super) shared: Arc<Shared>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) workers: Workers,
    pub(super) pace: Mutex<Pace>,
}

/// How a pass ended.
enum Pass {
    Done,
    WaitForPlace,
    SleepUntil(Option<Timestamp>),
}

impl Worker {
    /// Works until nothing is left to do for the pod, ever; returns the pod's UID.
    pub(super) async fn run(self) -> PodUid {
        let mut own_writes = OwnWrites::default();
        let mut sightings = Sightings::default();
        let mut failures = 0;
        let mut had_record = false;
        self.wakeup.notified().await;
        loop {
            let pass = {
                let lane = self.lanes.lane(&self.peek(&own_writes, &mut sightings));
                let namespace = self.origin().map_or("", |(namespace, _)| namespace);
                let Some(_permit) = lane.enter(namespace).await else {
                    return self.uid;
                };
                self.may_need_place();
                let begun = Instant::now();
                // Boxed, because a worker mostly sleeps, and a pass needs far more memory than a sleeping worker.
                let pass = Box::pin(self.pass(&mut own_writes, &mut sightings, failures));
                let pass = tokio::time::timeout(PASS_DEADLINE, pass)
                    .await
                    .unwrap_or(Err(CallError::Deadline));
                self.shared.metrics.passed(begun.elapsed());
                pass
            };
            // Looked up once: a record that goes afterwards is noticed after the next pass.
            let has_record = self.has_record();
            if !matches!(pass, Ok(Pass::WaitForPlace)) {
                self.needs_no_place(had_record && !has_record);
            }
            had_record = has_record;
            match pass {
                Ok(Pass::Done) => {
                    if self.retire() {
                        return self.uid;
                    }
                    failures = 0;
                }
                Ok(Pass::WaitForPlace) => {
                    failures = 0;
                    self.sleep(LONGEST_SLEEP).await;
                }
                Ok(Pass::SleepUntil(at)) => {
                    failures = 0;
                    self.sleep(at.map_or(LONGEST_SLEEP, until)).await;
                }
                Err(error) => {
                    failures += 1;
                    self.shared.metrics.failed_pass(&error);
                    log(&self.uid, &error, failures);
                    // A failed precondition means that the cache was behind: the next pass reads live.
                    own_writes.distrust();
                    tokio::time::sleep(backoff(failures)).await;
                }
            }
        }
    }

    /// Sleeps until something may have changed, and for `sleep` at most.
    async fn sleep(&self, sleep: Duration) {
        let sleep = sleep.min(LONGEST_SLEEP);
        let _: Result<(), _> = tokio::time::timeout(sleep, self.wakeup.notified()).await;
    }

    /// Leaves the table of workers, unless the worker was woken since the last pass.
    fn retire(&self) -> bool {
        let mut wakeups = self.workers.lock();
        // A wake-up in the meantime is consumed here, and the worker makes another pass.
        if futures::FutureExt::now_or_never(self.wakeup.notified()).is_some() {
            return false;
        }
        wakeups.remove(&self.uid);
        true
    }

    /// `None` as long as no cache knows the pod.
    fn origin(&self) -> Option<&(String, Waiter)> {
        if self.origin.get().is_none() {
            let (namespace, created) = observe::origin(&self.uid, &self.shared.caches)?;
            let uid = self.uid.clone();
            return Some(self.origin.get_or_init(|| (namespace, Waiter { created, uid })));
        }
        self.origin.get()
    }

    fn has_record(&self) -> bool {
        observe::cached_record(&self.uid, &self.shared.caches).is_some()
    }

    /// Before a pass: from now on, the worker is woken when a place becomes free.
    fn may_need_place(&self) {
        let limited = |settings: &Arc<Settings>| settings.spec.limits.vms_per_namespace.is_some();
        if self.shared.settings.borrow().as_ref().is_some_and(limited)
            && !self.has_record()
            && let Some((namespace, waiter)) = self.origin()
        {
            self.workers.places().enter(namespace, waiter);
        }
    }

    /// After a pass: a worker that does not wait for a place wakes the next one, and so does a worker whose own place
    /// has become free.
    fn needs_no_place(&self, frees_one: bool) {
        let Some((namespace, waiter)) = self.origin() else {
            return;
        };
        let waited = self.workers.places().leave(namespace, waiter);
        if waited || frees_one {
            self.workers.call_next(namespace);
        }
    }

    /// The writes of the next pass, as far as the caches show them.
    fn peek(&self, own_writes: &OwnWrites, sightings: &mut Sightings) -> Vec<Write> {
        let settings = self.shared.settings.borrow().clone();
        let (caches, cluster) = (&self.shared.caches, &self.shared.cluster);
        let observed = observe::cached(&self.uid, caches, cluster, settings.as_ref(), own_writes);
        observed
            .map(|observed| plan::decide(&self.judged(observed, sightings), Timestamp::now()).writes)
            .unwrap_or_default()
    }

    async fn pass(
        &self,
        own_writes: &mut OwnWrites,
        sightings: &mut Sightings,
        failures: u32,
    ) -> Result<Pass, CallError> {
        if !*self.shared.provider_ready.borrow() {
            return self.report_missing_provider(own_writes).await;
        }
        let (decision, record) = match self.decide(own_writes, sightings).await {
            // KubeVirt was there and is not any more: the state of its VMs is unknown.
            Err(error) if error.is_unserved() => {
                self.report_missing_provider(own_writes).await?;
                return Err(error);
            }
            decided => decided?,
        };
        let mut held = None;
        for write in &decision.writes {
            if let Some(later) = self.too_soon(write) {
                held = Some(later);
                continue;
            }
            // A new attempt begins with a report on the pod. So a lift of the former attempt that is still on its way
            // fails, because the pod has changed.
            if held.is_some() && write.spends() {
                return Ok(Pass::SleepUntil(held));
            }
            let _alone = match write {
                Write::CreateRecord { at_most: Some(_), .. } => Some(self.shared.admission.lock().await),
                _ => None,
            };
            if let Err(error) = self.perform(decision.pod.as_ref(), write, own_writes).await {
                if error.is_unserved() {
                    self.report_missing_provider(own_writes).await?;
                } else if should_report(write, &error, failures) {
                    self.report_refusal(&decision, &error, own_writes).await?;
                }
                if let (Write::CreateVmi { .. }, Some(back), true) =
                    (write, &decision.take_back, error.is_refusal())
                {
                    act::perform(&self.shared.cluster, back, own_writes).await?;
                }
                return Err(error);
            }
            tracing::debug!(pod_uid = %self.uid, write = %write.kind(), "written");
            self.count(&decision, record.as_deref(), write);
        }
        if let Some(pod) = &decision.pod {
            decision
                .notes
                .iter()
                .for_each(|note| self.shared.events.publish(pod, note));
        }
        Ok(if decision.done {
            Pass::Done
        } else if decision.waits_for_place {
            Pass::WaitForPlace
        } else {
            Pass::SleepUntil(decision.wake.into_iter().chain(held).min())
        })
    }

    /// Makes a write. With a report on the pod goes its event, once the report is written.
    async fn perform(
        &self,
        pod: Option<&PodView>,
        write: &Write,
        own_writes: &mut OwnWrites,
    ) -> Result<(), CallError> {
        act::perform(&self.shared.cluster, write, own_writes).await?;
        if let (Some(pod), Write::PodReport(report)) = (pod, write)
            && let Some(note) = report.note()
        {
            self.shared.events.publish(pod, &note);
        }
        Ok(())
    }

    /// When a write may be made that another client undoes, and that was therefore made too often already.
    fn too_soon(&self, write: &Write) -> Option<Timestamp> {
        if !write.can_be_provoked() {
            return None;
        }
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = pace.take(Instant::now()).err()?;
        tracing::debug!(
            pod_uid = %self.uid,
            write = %write.kind(),
            "undone too often, so the write is delayed"
        );
        Timestamp::now().checked_add(wait).ok()
    }

    fn count(&self, decision: &Decision, record: Option<&MaroonedNode>, write: &Write) {
        self.shared.metrics.written(write, record);
        let created = decision.pod.as_ref().and_then(|pod| pod.created);
        if let (Write::LiftGate(_), Some(created)) = (write, created) {
            self.shared
                .metrics
                .lifted(Timestamp::now().duration_since(created).as_secs_f64().max(0.0));
        }
    }

    /// Adds to a view what only this process knows: whether VMs may be started, since when things are as they are,
    /// and whether the pod must wait because of its maker's other pods.
    fn judged(&self, observed: Observed, sightings: &mut Sightings) -> Observed {
        let uptime = self.shared.uptime();
        let ages = sightings.see(&observed, uptime);
        let backing_off = observed.pod.as_ref().and_then(|pod| {
            let asks = observed.record.is_none() && pod.gate_index.is_some() && !pod.exempt;
            asks.then(|| {
                let mut rejections = self
                    .shared
                    .rejections
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                rejections.holds(&pod.maker, &pod.uid, uptime)
            })
            .flatten()
        });
        let cluster_check = self.shared.cluster_check.borrow();
        Observed {
            hold: cluster_check.hold(),
            cluster_dns: cluster_check.cluster_dns(),
            architecture: cluster_check.architecture(),
            terminate_on_reboot: cluster_check.terminate_on_reboot(),
            ages,
            backing_off,
            ..observed
        }
    }

    async fn report_missing_provider(&self, own_writes: &mut OwnWrites) -> Result<Pass, CallError> {
        let pod = observe::cached_pod(&self.uid, &self.shared.caches, None);
        let report = pod.as_ref().and_then(|pod| plan::provider_missing(pod));
        let later = report.as_ref().and_then(|report| self.too_soon(report));
        if let Some(report) = report.filter(|_| later.is_none()) {
            self.perform(pod.as_deref(), &report, own_writes).await?;
        }
        Ok(Pass::SleepUntil(later))
    }

    /// Only people can fix rights, quota and policies: the pod's condition reports what was refused.
    async fn report_refusal(
        &self,
        decision: &Decision,
        error: &CallError,
        own_writes: &mut OwnWrites,
    ) -> Result<(), CallError> {
        let pod = decision.pod.as_ref();
        match pod.and_then(|pod| plan::refused(pod, &error.to_string())) {
            Some(report) if self.too_soon(&report).is_none() => self.perform(pod, &report, own_writes).await,
            _ => Ok(()),
        }
    }

    /// The plan, and the record that it is based on.
    async fn decide(
        &self,
        own_writes: &mut OwnWrites,
        sightings: &mut Sightings,
    ) -> Result<(Decision, Option<Arc<MaroonedNode>>), CallError> {
        let shared = &self.shared;
        let settings = shared.settings.borrow().clone();
        let cached = observe::cached(
            &self.uid,
            &shared.caches,
            &shared.cluster,
            settings.as_ref(),
            own_writes,
        );
        if let Some(observed) = cached.map(|observed| self.judged(observed, sightings)) {
            let decision = plan::decide(&observed, Timestamp::now());
            if !decision.needs_live_view() {
                return Ok((decision, observed.record));
            }
        }
        let live = observe::live(
            &self.uid,
            &shared.caches,
            &shared.cluster,
            settings.as_ref(),
            own_writes,
        );
        let observed = live.await?;
        let observed = self.judged(observed, sightings);
        Ok((plan::decide(&observed, Timestamp::now()), observed.record))
    }
}

/// Whether the failure of a write makes the pod wait for someone else, and so is worth a report: the write was
/// refused, or fails repeatedly. A lost race does not count, and a failed `test` of the lift patch is one.
fn should_report(write: &Write, error: &CallError, failures: u32) -> bool {
    if error.is_conflict() {
        return false;
    }
    let lasting = error.is_refusal() || error.is_gone() || matches!(error, CallError::Unexpected(_));
    match write {
        Write::LiftGate(_) => error.is_forbidden(),
        _ => write.spends() && (lasting || failures >= FAILURES_TO_REPORT),
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

/// A lost race is normal with two leaders; any other failure is worth a warning.
fn log(pod_uid: &PodUid, error: &CallError, failures: u32) {
    if error.is_conflict() {
        tracing::debug!(%pod_uid, %error, failures, "precondition failed, looking again");
    } else {
        tracing::warn!(%pod_uid, %error, failures, "pass failed, will try again");
    }
}
