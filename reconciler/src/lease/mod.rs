//! Leader election with a `coordination.k8s.io/v1` Lease, by client-go's rules.
//!
//! [`acquire`] waits until the lease is ours and then renews it in a task of its own. [`Leadership::lost`] resolves
//! when the lease is no longer ours: at the latest one renew deadline after the last renewal was sent, which is
//! before another process may take over. What the process does then is up to it; to exit is safe.
//!
//! Clocks are assumed to run at about the same speed, but not to agree. Every write carries the resource version that
//! it was decided on. That keeps two leaders from wasting work on each other, but it is not a lock: a write that was
//! sent in time may arrive late, so every write of the leader needs its own precondition.
//!
//! The crate kube-lease-manager (0.13) compares the times in a Lease with its own wall clock, which this must not.

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

/// A lease that is ours. Dropping it stops the renewals without releasing the lease, as a crash would.
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
    /// Another identity is in the lease, or none.
    #[error("the lease is held by {0:?} now")]
    Taken(String),
    /// The API server accepted no renewal in time.
    #[error("the lease was not renewed before its deadline")]
    NotRenewed,
    /// The task that renews it ended; this is a bug.
    #[error("the lease is not renewed any more")]
    Abandoned,
}

/// Why a request about the lease failed.
#[derive(thiserror::Error, Debug)]
pub enum LeaseError {
    /// The API server refused the request, or could not be reached.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The API server did not answer in time.
    #[error("the API server did not answer in time")]
    TimedOut,
}

/// Waits until the lease `name` in `namespace` is ours, without a limit; logs failures and tries again.
///
/// No other process may use the same `identity`, not even this one after a restart: take the host's name and a random
/// suffix.
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
        // Taken before the write: other candidates count from when they see it, which is later.
        let started = Instant::now();
        match lock.attempt(Standing::Candidate, &mut observed).await {
            Ok(Outcome::Ours) => break started,
            Ok(Outcome::HeldBy(holder)) => {
                if reported.as_ref() != Some(&holder) {
                    info!(lease = name, holder = %text::value(&holder), "waiting for the lease");
                    reported = Some(holder);
                }
            }
            Err(error) if is_conflict(&error) => debug!(lease = name, "another candidate wrote first"),
            Err(error) => warn!(lease = name, %error, "cannot acquire the lease, trying again"),
        }
        // Without randomness there is no jitter; that costs one conflict at most.
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

    /// Resolves when the lease is no longer ours; at once if that is already so.
    pub async fn lost(&self) -> LostLease {
        let mut loss = self.loss.clone();
        let reported = loss.wait_for(Option::is_some).await;
        reported
            .ok()
            .and_then(|loss| loss.clone())
            .unwrap_or(LostLease::Abandoned)
    }

    /// Stops renewing and leaves the lease free, so that the next leader need not wait for its expiry. Call it when
    /// nothing that the lease protects still runs. It leaves a lease that is not ours alone.
    pub async fn release(self) -> Result<(), LeaseError> {
        let Self {
            lock, stop, renewing, ..
        } = self;
        drop(stop);
        // A renewal under way when the task ends may still arrive; then it or the release meets a conflict.
        if let Err(error) = renewing.await {
            warn!(lease = lock.name, %error, "the task that renews the lease did not end well");
        }
        timeout(lock.timings.renew_deadline(), lock.release())
            .await
            .map_err(|_| LeaseError::TimedOut)?
    }
}

/// How a try ended, if no request failed.
enum Outcome {
    Ours,
    HeldBy(String),
}

/// A lease, and our identity in it.
#[derive(Clone, Debug)]
struct Lock {
    api: Api<Lease>,
    name: String,
    identity: String,
    timings: Timings,
}

impl Lock {
    /// Reads the lease, decides and writes, all within the try's deadline.
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

    /// Replaces the version that was read: `lease` carries its resource version.
    async fn replace(&self, lease: Lease) -> Result<(), LeaseError> {
        let body = serde_json::to_vec(&lease).map_err(kube::Error::SerdeError);
        let request = Request::new(self.api.resource_url());
        let request = request.replace(&self.name, &params::create(), body.map_err(CallError::from)?);
        let request = request.map_err(|error| CallError::from(kube::Error::BuildRequest(error)))?;
        // The answer is not parsed: an object that cannot be decoded must not hide that a renewal succeeded.
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

    /// Tries one renewal until it succeeds or another process holds the lease; returns when it was sent.
    async fn renew(&self) -> Result<Instant, LostLease> {
        loop {
            sleep(self.timings.retry_period()).await;
            let sent = Instant::now();
            match self.attempt(Standing::Holder, &mut None).await {
                Ok(Outcome::Ours) => return Ok(sent),
                Ok(Outcome::HeldBy(holder)) => {
                    return Err(LostLease::Taken(text::value(&holder).into_owned()));
                }
                // Also on a conflict: the next read shows who holds the lease.
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
