//! Which worker handles which pod: one [`Worker`] per pod UID, woken by any event that may have changed something of
//! the pod.
//!
//! kube's `Controller` reconciles objects that exist. Our key is a pod's UID, which exists before the record, and
//! there is work left after the pod is gone. Guarantees: at most one pass per UID at a time; a wake-up is never lost;
//! a pass that hangs or fails is repeated with backoff. Caveat: a change that wakes no worker is found only by the
//! sweep.

mod lanes;
mod pace;
mod places;
mod rejections;
mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use maroonedpods_common::PodUid;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::places::Places;
use self::worker::Worker;
use crate::api::Cluster;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::observe::Caches;
use crate::preflight;
use crate::settings::Settings;
use crate::sightings::{self, Uptime};

pub use self::lanes::Lanes;
pub use self::rejections::Rejections;

/// What all workers share.
pub struct Shared {
    /// The API server.
    pub cluster: Cluster,
    /// The watch caches: filled before the first worker starts, except that of VMIs.
    pub caches: Caches,
    /// The configuration in force; `None` while there is none.
    pub settings: watch::Receiver<Option<Arc<Settings>>>,
    /// The last check of the cluster: whether VMs may be started.
    pub cluster_check: watch::Receiver<preflight::Decision>,
    /// Whether VMs can be listed. Until then nothing is decided, because an empty cache would look as if no VM
    /// existed.
    pub provider_ready: watch::Receiver<bool>,
    /// Events for people.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Makers whose pods were rejected by their kubelets.
    pub rejections: Arc<Mutex<Rejections>>,
    /// When this process began to work.
    pub begun: Instant,
    /// Held while a record is created under a limit, so that the count of records is still right when the record
    /// exists.
    pub admission: tokio::sync::Mutex<()>,
}

impl Shared {
    fn uptime(&self) -> Uptime {
        sightings::uptime(self.begun)
    }
}

/// The workers, by pod UID.
#[derive(Clone, Default)]
pub struct Workers {
    wakeups: Arc<Mutex<HashMap<PodUid, Arc<Notify>>>>,
    arrivals: Arc<Notify>,
    places: Arc<Mutex<Places>>,
}

impl Workers {
    /// Makes the pod's worker run a pass, because something of the pod may have changed. Cheap, never blocks, never
    /// lost.
    pub fn enqueue(&self, pod_uid: &PodUid) {
        let mut wakeups = self.lock();
        if let Some(wakeup) = wakeups.get(pod_uid) {
            wakeup.notify_one();
        } else {
            let wakeup = Arc::new(Notify::new());
            wakeup.notify_one();
            wakeups.insert(pod_uid.clone(), wakeup);
            self.arrivals.notify_one();
        }
    }

    /// Enqueues every pod that has a worker.
    pub fn enqueue_all(&self) {
        for wakeup in self.lock().values() {
            wakeup.notify_one();
        }
    }

    /// Runs a worker for each UID that was ever enqueued, until the worker has nothing left to do. Its passes go through
    /// `lanes`. Dropping the future stops all workers.
    ///
    /// # Errors
    /// Only when a worker panics: a pod must not silently lose its worker.
    pub async fn run(&self, shared: Arc<Shared>, lanes: Lanes) -> Result<(), tokio::task::JoinError> {
        let mut tasks = JoinSet::new();
        let mut started = HashSet::new();
        let lanes = Arc::new(lanes);
        loop {
            let fresh: Vec<_> = {
                let wakeups = self.lock();
                wakeups
                    .iter()
                    .filter(|(uid, _)| !started.contains(*uid))
                    .map(|(u, p)| (u.clone(), p.clone()))
                    .collect()
            };
            for (uid, wakeup) in fresh {
                started.insert(uid.clone());
                let worker = Worker {
                    uid,
                    origin: OnceLock::new(),
                    wakeup,
                    shared: shared.clone(),
                    lanes: lanes.clone(),
                    workers: self.clone(),
                    pace: Mutex::default(),
                };
                tasks.spawn(worker.run());
            }
            tokio::select! {
                () = self.arrivals.notified() => {}
                Some(ended) = tasks.join_next() => { started.remove(&ended?); }
            }
        }
    }

    /// Wakes the next pod that waits: the namespace may have room for one more VM.
    fn call_next(&self, namespace: &str) {
        let next = self.places().first(namespace).cloned();
        if let Some(uid) = next {
            self.enqueue(&uid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodUid, Arc<Notify>>> {
        self.wakeups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
