//! Creates opted-in pods at a steady rate, all as dry runs: they go through the webhook and leave nothing behind.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use maroonedpods_common::names;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::api::namespace::TestNamespace;
use crate::api::read::gates;
use crate::harness::fixtures::{marooned, ordinary};

/// Most creates under way at a time. Where it is reached the rate falls, which the tally shows.
const IN_FLIGHT: u32 = 64;
const SHOWN: usize = 5;
/// The part of the asked rate that must be reached, in percent: a load that fell behind proves less than its test says.
const LEAST_PERCENT: u64 = 80;

/// Creates that go on until they are stopped.
pub struct Load {
    tally: Arc<Tally>,
    in_flight: Arc<Semaphore>,
    rate: u32,
    start: Instant,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Tally {
    creates: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// The result of a load.
#[derive(Debug)]
pub struct Outcome {
    /// How many creates were answered.
    pub creates: u64,
    /// An error for each that failed, or came back without the gate.
    pub failures: Vec<String>,
    /// How long it went on.
    pub lasted: Duration,
    /// How many creates a second were asked for.
    pub rate: u32,
}

impl Load {
    /// Starts `rate` creates a second, over all three entries of the webhook configuration that review them.
    pub async fn start(client: &Client, rate: u32) -> Result<Self> {
        let mut targets = Vec::new();
        for (label, pod) in [
            (None, marooned("pod")),
            (Some(names::MAROON_TRUE), ordinary("pod")),
            (Some(names::MAROON_ENFORCED), ordinary("pod")),
        ] {
            let labels: Vec<_> = label
                .map(|value| (names::MAROON_LABEL, value))
                .into_iter()
                .collect();
            let namespace = TestNamespace::new(client, &labels).await?;
            let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace.name);
            targets.push((pods, Arc::new(pod)));
        }
        let tally = Arc::new(Tally::default());
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT as usize));
        let (counted, room) = (tally.clone(), in_flight.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / rate);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for (pods, pod) in targets.iter().cycle() {
                ticks.tick().await;
                let permit = room.clone().acquire_owned().await;
                let (pods, pod, tally) = (pods.clone(), pod.clone(), counted.clone());
                tokio::spawn(async move {
                    tally.create(&pods, &pod).await;
                    drop(permit);
                });
            }
        });
        Ok(Self {
            tally,
            in_flight,
            rate,
            start: Instant::now(),
            task,
        })
    }

    /// Stops, and waits for the creates under way.
    pub async fn stop(self) -> Result<Outcome> {
        self.task.abort();
        let lasted = self.start.elapsed();
        let _all = self.in_flight.acquire_many(IN_FLIGHT).await?;
        let mut failures = self.tally.failures.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Outcome {
            creates: self.tally.creates.load(Ordering::SeqCst),
            failures: std::mem::take(&mut failures),
            lasted,
            rate: self.rate,
        })
    }
}

impl Tally {
    async fn create(&self, pods: &Api<Pod>, pod: &Pod) {
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let failure = match pods.create(&dry_run, pod).await {
            Ok(made) if gates(&made) == [names::GATE] => None,
            Ok(made) => Some(format!("came back with gates {:?}", gates(&made))),
            Err(error) => Some(error.to_string()),
        };
        self.creates.fetch_add(1, Ordering::SeqCst);
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(failure);
    }
}

impl Outcome {
    /// # Errors
    /// When a create failed, or there were far fewer than asked for.
    pub fn check(&self) -> Result<()> {
        let shown = &self.failures[..self.failures.len().min(SHOWN)];
        ensure!(self.failures.is_empty(), "{self}; such as {shown:#?}");
        let asked = u128::from(self.rate) * self.lasted.as_millis() / 1000;
        ensure!(
            self.creates > 0 && u128::from(self.creates) * 100 >= asked * u128::from(LEAST_PERCENT),
            "{self}: less than {LEAST_PERCENT}% of the {asked} that were asked for"
        );
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (creates, failed) = (self.creates, self.failures.len());
        write!(
            f,
            "{creates} creates in {:.1} s at {} a second, {failed} failed",
            self.lasted.as_secs_f64(),
            self.rate
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(creates: u64) -> Outcome {
        Outcome {
            creates,
            failures: Vec::new(),
            lasted: Duration::from_secs(10),
            rate: 20,
        }
    }

    #[test]
    fn a_load_that_fell_behind_is_a_failure() {
        outcome(160).check().unwrap();
        for creates in [0, 159] {
            let error = outcome(creates).check().unwrap_err();
            assert!(error.to_string().contains("80% of the 200"), "{error}");
        }
        let failed = Outcome {
            failures: vec!["no".to_owned()],
            ..outcome(200)
        };
        assert!(failed.check().is_err());
    }
}
