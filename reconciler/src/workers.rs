//! Who works on which pod: one [`Worker`] per pod UID, woken by whatever may have changed something of it.
//!
//! kube's `Controller` reconciles objects that exist; our key is a pod's UID, which is there before the record and
//! has work left after the pod. Guarantees: at most one pass per UID at a time; a poke is never lost; a pass that
//! hangs or fails is repeated with backoff. Caveat: what nobody pokes is found by the sweep.

mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::worker::Worker;
use crate::api::Cluster;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::observe::Caches;
use crate::places::Places;
use crate::preflight::Verdict;
use crate::rejections::Rejections;
use crate::settings::Settings;
use crate::sightings::{self, Uptime};
use crate::turns::Turns;

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
    pub rejections: Arc<Mutex<Rejections>>,
    /// When this process began to work.
    pub begun: Instant,
    /// Held while a record is made under a limit, so that what was counted is still so when it is there.
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
    pokes: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
    arrivals: Arc<Notify>,
    places: Arc<Mutex<Places>>,
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
                    origin: OnceLock::new(),
                    poke,
                    shared: shared.clone(),
                    turns: turns.clone(),
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

    /// The namespace may have room for one more VM.
    fn call_next(&self, namespace: &str) {
        let next = self.places().first(namespace).map(ToOwned::to_owned);
        if let Some(uid) = next {
            self.poke(&uid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.pokes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
