//! Leader election by a `coordination.k8s.io/v1` Lease, on client-go's rules.
//!
//! [`acquire`] waits until the lease is ours and keeps it renewed in a task of its own; [`Leadership::lost`] resolves
//! when it no longer is, at the latest one renew deadline after the last renewal was sent, which is before anybody
//! else may take over. What the process does then is its own business; to end it is the safe thing.
//!
//! Clocks are assumed to run at about the same speed, never to agree. Every write names the resource version that
//! it was decided on. This keeps two leaders from wasting work on each other; it is no lock: a write that was sent
//! in time may arrive late, so whatever the leader writes needs preconditions of its own.

mod decide;
mod timings;

use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ObjectMeta;
use kube::core::Request;
use kube::{Api, Client};
use maroonedpods_common::text;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::api::{CallError, call, find};
use crate::params;
use decide::{Observed, Standing, claim, decide, released};
pub use timings::Timings;

/// A lease that is ours. Dropping it stops renewing without a word, as a crash would.
#[derive(Debug)]
pub struct Leadership {
    lock: Lock,
    loss: watch::Receiver<Option<LostLease>>,
    /// Renewing ends when this is dropped.
    stop: oneshot::Sender<()>,
    renewing: JoinHandle<()>,
}

/// Why a lease is no longer ours.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum LostLease {
    /// Somebody else's name is in it, or none.
    #[error("the lease is held by {0:?} now")]
    Taken(String),
    /// The API server did not take a renewal in time.
    #[error("the lease was not renewed before its deadline")]
    NotRenewed,
    /// The task that renews it ended; this is a bug.
    #[error("the lease is not renewed any more")]
    Abandoned,
}

/// Why a request about the lease failed.
#[derive(thiserror::Error, Debug)]
pub enum LeaseError {
    /// The API server refused, or could not be reached.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No answer in time.
    #[error("the API server did not answer in time")]
    TimedOut,
}

/// Waits until the lease `name` in `namespace` is ours, for ever if need be; failures are logged and tried again.
///
/// `identity` must be no other process's, a restarted self included: take the host's name and a random suffix.
pub async fn acquire(
    client: Client,
    namespace: &str,
    name: &str,
    identity: String,
    timings: Timings,
) -> Leadership {
    let lock = Lock {
        api: Api::namespaced(client, namespace),
        name: name.to_owned(),
        identity,
        timings,
    };
    let mut observed = None;
    let mut reported = None;
    let renewed = loop {
        // Taken before the write: others count from when they see it, which is later.
        let started = Instant::now();
        match lock.attempt(Standing::Candidate, &mut observed).await {
            Ok(Outcome::Ours) => break started,
            Ok(Outcome::HeldBy(holder)) => {
                if reported.as_ref() != Some(&holder) {
                    info!(lease = name, holder = %text::value(&holder), "waiting for the lease");
                    reported = Some(holder);
                }
            }
            Err(error) if is_conflict(&error) => debug!(lease = name, "somebody else was quicker"),
            Err(error) => warn!(lease = name, %error, "cannot acquire the lease, trying again"),
        }
        // Without randomness there is no jitter, which costs a conflict at most.
        sleep(timings.jittered_retry(getrandom::u32().unwrap_or_default())).await;
    };
    info!(lease = name, identity = lock.identity, "the lease is ours");
    Leadership::renewing(lock, renewed)
}

impl Leadership {
    fn renewing(lock: Lock, renewed: Instant) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (report, loss) = watch::channel(None);
        let keeper = lock.clone();
        let renewing = tokio::spawn(async move {
            tokio::select! {
                end = keeper.keep(renewed) => {
                    report.send_replace(Some(end));
                }
                _ = stopped => {}
            }
        });
        Self {
            lock,
            loss,
            stop,
            renewing,
        }
    }

    /// Resolves when the lease is no longer ours, and at once if it is not already.
    pub async fn lost(&self) -> LostLease {
        let mut loss = self.loss.clone();
        let reported = loss.wait_for(Option::is_some).await;
        reported
            .ok()
            .and_then(|loss| loss.clone())
            .unwrap_or(LostLease::Abandoned)
    }

    /// Stops renewing and leaves the lease free, so that the next leader need not wait for its expiry. Call it
    /// when nothing that the lease protects runs any more. A lease that is not ours is left alone.
    pub async fn release(self) -> Result<(), LeaseError> {
        let Self {
            lock, stop, renewing, ..
        } = self;
        drop(stop);
        // A renewal under way when the task ends may still arrive: it, or the release, then meets a conflict.
        if let Err(error) = renewing.await {
            warn!(lease = lock.name, %error, "the task that renews the lease did not end well");
        }
        timeout(lock.timings.renew_deadline(), lock.release())
            .await
            .map_err(|_| LeaseError::TimedOut)?
    }
}

/// How a try ended that the API server did not object to.
enum Outcome {
    Ours,
    HeldBy(String),
}

/// One lease and who we are to it.
#[derive(Clone, Debug)]
struct Lock {
    api: Api<Lease>,
    name: String,
    identity: String,
    timings: Timings,
}

impl Lock {
    /// Reads the lease, decides, writes; all within the try's deadline.
    async fn attempt(
        &self,
        standing: Standing,
        observed: &mut Option<Observed>,
    ) -> Result<Outcome, LeaseError> {
        let deadline = self.timings.try_deadline();
        timeout(deadline, self.read_and_write(standing, observed))
            .await
            .map_err(|_| LeaseError::TimedOut)?
    }

    async fn read_and_write(
        &self,
        standing: Standing,
        observed: &mut Option<Observed>,
    ) -> Result<Outcome, LeaseError> {
        let found = find(&self.api, &self.name).await?;
        let now = Instant::now();
        let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        *observed = Observed::update(observed.take(), spec.clone(), now);

        let step = decide(standing, observed.as_ref(), now, &self.identity);
        let Some(claimed) = claim(step, spec, &self.identity, &self.timings, Timestamp::now()) else {
            let holder = observed.as_ref().map(Observed::holder).unwrap_or_default();
            return Ok(Outcome::HeldBy(holder.to_owned()));
        };
        if let Some(lease) = found {
            self.replace(Lease {
                spec: Some(claimed),
                ..lease
            })
            .await?;
        } else {
            let metadata = ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            };
            let lease = Lease {
                metadata,
                spec: Some(claimed),
            };
            call(self.api.create(&params::create(), &lease)).await?;
        }
        Ok(Outcome::Ours)
    }

    /// Writes over the version that was read: `lease` carries its resource version.
    async fn replace(&self, lease: Lease) -> Result<(), LeaseError> {
        let body = serde_json::to_vec(&lease).map_err(kube::Error::SerdeError);
        let request = Request::new(self.api.resource_url());
        let request = request.replace(&self.name, &params::create(), body.map_err(CallError::from)?);
        let request = request.map_err(|error| CallError::from(kube::Error::BuildRequest(error)))?;
        // Of the answer nothing is read: what is in it may keep a renewal that went through from being known.
        call(self.api.clone().into_client().request_text(request)).await?;
        Ok(())
    }

    /// Renews the lease for as long as it is ours. `renewed` is when the last renewal was sent.
    async fn keep(&self, mut renewed: Instant) -> LostLease {
        loop {
            let left = (renewed + self.timings.renew_deadline()).saturating_duration_since(Instant::now());
            match timeout(left, self.renew()).await {
                Ok(Ok(sent)) => renewed = sent,
                Ok(Err(loss)) => return loss,
                Err(_) => return LostLease::NotRenewed,
            }
        }
    }

    /// One renewal, tried until it succeeds or the lease is another's; when it was sent.
    async fn renew(&self) -> Result<Instant, LostLease> {
        loop {
            sleep(self.timings.retry_period()).await;
            let sent = Instant::now();
            match self.attempt(Standing::Holder, &mut None).await {
                Ok(Outcome::Ours) => return Ok(sent),
                Ok(Outcome::HeldBy(holder)) => {
                    return Err(LostLease::Taken(text::value(&holder).into_owned()));
                }
                // A conflict, too: reading again tells whose the lease is.
                Err(error) => warn!(lease = self.name, %error, "cannot renew the lease, trying again"),
            }
        }
    }

    async fn release(&self) -> Result<(), LeaseError> {
        loop {
            let Some(lease) = find(&self.api, &self.name).await? else {
                return Ok(());
            };
            let spec = lease.spec.clone().unwrap_or_default();
            if spec.holder_identity.as_ref() != Some(&self.identity) {
                return Ok(());
            }
            match self
                .replace(Lease {
                    spec: Some(released(spec, Timestamp::now())),
                    ..lease
                })
                .await
            {
                Err(error) if is_conflict(&error) => {}
                done => return done,
            }
        }
    }
}

/// Another write came first: 409, `Conflict` for a replace and `AlreadyExists` for a create.
fn is_conflict(error: &LeaseError) -> bool {
    matches!(error, LeaseError::Call(error) if error.is_conflict())
}
