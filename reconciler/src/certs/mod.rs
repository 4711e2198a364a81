//! The webhook's serving certificate: made, renewed and trusted without failing a single create.
//!
//! Two objects hold the whole state: the Secret with the pair, which webhook pods mount, and the
//! `MutatingWebhookConfiguration`, whose `caBundle` is what API servers trust. A rotation is four writes, each with
//! the resource version that it was decided on:
//!
//! | write | waits for | if the leader dies right after |
//! |---|---|---|
//! | a new pair beside the current one | | nothing uses it yet |
//! | its CA added to the bundle | | one CA more is trusted, whose key is gone |
//! | the new pair in the current one's place | the bundle seen unchanged for the settling time: API servers learn of it by a watch | pods serve either pair, both are trusted |
//! | the old CA out of the bundle | every webhook pod accepted by a client that trusts only the new CA | done |
//!
//! [`decide`] derives the next step only from what is read; hence the next leader continues where the last one
//! stopped, and two leaders at once at worst get conflicts from each other's resource versions.

pub mod args;
pub mod decide;
mod issue;
mod pair;
mod probe;
pub mod secret;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch};
use kube::core::ResourceExt;
use maroonedpods_common::names;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::api::{CallError, Cluster, call, find};
use crate::metrics::Metrics;
use crate::params;
use crate::read::{self, Keep, Kind, View, sieve};
use decide::{Decision, Observed, Rules, Unchanged, decide};
use pair::{Bundle, CURRENT, NEXT, Pair};
pub use status::forget;
use status::{Report, Reporter};

/// Name of the webhook's Service, in the release's namespace.
const SERVICE: &str = "maroonedpods-webhook";
/// During a rotation, the number of looks at everything within one settling time.
const LOOKS: u32 = 10;

/// Keeps the webhook's certificate for ever. `namespace` is the release's. Failures are reported in the log and in
/// the configuration's status, and tried again.
pub async fn keep(cluster: Cluster, namespace: String, rules: Rules, metrics: Arc<Metrics>) {
    let keeper = Keeper {
        dns_name: format!("{SERVICE}.{namespace}.svc"),
        cluster,
        namespace,
        rules,
        metrics,
    };
    let mut memory = Memory::default();
    let mut reporter = Reporter::default();
    loop {
        let report = match keeper.pass(&mut memory).await {
            Err(error) if error.is_conflict() => {
                tracing::debug!(%error, "another writer was faster");
                None
            }
            Ok(report) => Some(report),
            Err(error) => Some(Report::Failed(error.to_string())),
        };
        if let Some(report) = &report {
            reporter.report(&keeper.cluster, report).await;
        }
        let pause = match report {
            Some(Report::Resting { .. } | Report::Failed(_)) => rules.settle,
            Some(Report::Rotating(_)) | None => rules.settle / LOOKS,
        };
        tokio::time::sleep(pause).await;
    }
}

/// What only time shows. A new leader knows nothing of it, and waits again.
#[derive(Default)]
struct Memory {
    /// The webhook configuration's resource version.
    bundles: Unchanged<String>,
    /// The Secret's resource version, noted while every pod serves its pair.
    served: Unchanged<String>,
}

struct Keeper {
    cluster: Cluster,
    namespace: String,
    dns_name: String,
    rules: Rules,
    metrics: Arc<Metrics>,
}

impl Keeper {
    /// Reads everything and takes one step.
    async fn pass(&self, memory: &mut Memory) -> Result<Report, CallError> {
        let webhooks = self.webhooks().await?;
        let stored = find(&self.secrets(), secret::NAME).await?;
        let now = Timestamp::now();
        let seen = self.observe(&webhooks, stored.as_ref(), now, memory);
        if let Ok(pair) = &seen.current {
            self.metrics.set_certificate_end(pair.not_after);
        }
        match decide(&seen, now, &self.rules) {
            Decision::Issue { overlap } => self.issue(stored.as_ref(), &seen, overlap, now).await,
            Decision::Publish(bundle) => self.publish(&webhooks, &bundle).await,
            Decision::Settle => Ok(Report::Rotating(
                "waiting until every API server knows the new CA".to_owned(),
            )),
            Decision::Promote => self.promote(stored.as_ref()).await,
            Decision::Probe => self.probe(stored.as_ref(), &seen, memory).await,
            Decision::Rest => match seen.current {
                Ok(pair) => Ok(Report::Resting {
                    until: pair.not_after,
                }),
                Err(flaw) => Err(CallError::Unexpected(flaw.to_string())),
            },
        }
    }

    async fn webhooks(&self) -> Result<MutatingWebhookConfiguration, CallError> {
        let found = find(
            &self.cluster.all::<MutatingWebhookConfiguration>(),
            names::WEBHOOK_CONFIGURATION,
        )
        .await?;
        found.ok_or_else(|| {
            CallError::Unexpected(format!(
                "there is no MutatingWebhookConfiguration {}; install the chart",
                names::WEBHOOK_CONFIGURATION
            ))
        })
    }

    fn secrets(&self) -> kube::Api<Secret> {
        self.cluster.within(&self.namespace)
    }

    fn observe(
        &self,
        webhooks: &MutatingWebhookConfiguration,
        stored: Option<&Secret>,
        now: Timestamp,
        memory: &mut Memory,
    ) -> Observed {
        let data = stored.and_then(|s| s.data.clone()).unwrap_or_default();
        let next = [NEXT.ca, NEXT.certificate, NEXT.key];
        let clock = Instant::now();
        Observed {
            current: Pair::read(&data, CURRENT, &self.dns_name, now),
            next: next
                .iter()
                .any(|key| data.contains_key(*key))
                .then(|| Pair::read(&data, NEXT, &self.dns_name, now)),
            asked: stored.is_some_and(|s| s.annotations().contains_key(secret::ROTATE_ANNOTATION)),
            bundles: bundles(webhooks),
            unchanged_for: memory.bundles.note(version(webhooks), clock),
            served_for: stored.and_then(|s| memory.served.lasts(&version(s), clock)),
        }
    }

    async fn issue(
        &self,
        stored: Option<&Secret>,
        seen: &Observed,
        overlap: bool,
        now: Timestamp,
    ) -> Result<Report, CallError> {
        let issued = issue::issue(&self.dns_name, now, self.rules.lifetime)
            .map_err(|error| CallError::Unexpected(format!("cannot make a certificate: {error}")))?;
        let change = if overlap {
            secret::beside(&issued)
        } else {
            secret::instead(&issued, &self.dns_name)
        };
        if let Some(stored) = stored {
            self.change(stored, change).await?;
        } else {
            let new = secret::created(&change)
                .map_err(|error| CallError::Unexpected(format!("cannot make the Secret: {error}")))?;
            call(self.secrets().create(&params::create(), &new)).await?;
        }
        let why = match &seen.current {
            Ok(pair) if seen.asked => format!("asked for, before {}", pair.not_after),
            Ok(pair) => format!("the current one ends at {}", pair.not_after),
            Err(flaw) => flaw.to_string(),
        };
        tracing::info!(why, overlap, "made a new pair for the webhook");
        if !overlap {
            self.metrics.certificate_rotated();
        }
        Ok(Report::Rotating("a new pair was made".to_owned()))
    }

    async fn promote(&self, stored: Option<&Secret>) -> Result<Report, CallError> {
        if let Some(stored) = stored {
            let data = stored.data.clone().unwrap_or_default();
            self.change(stored, secret::promoted(&data, &self.dns_name))
                .await?;
            tracing::info!("every API server trusts the new pair; webhook pods are given it");
            self.metrics.certificate_rotated();
        }
        Ok(Report::Rotating("webhook pods are given the new pair".to_owned()))
    }

    async fn change(&self, stored: &Secret, mut change: Value) -> Result<(), CallError> {
        change["metadata"]["resourceVersion"] = json!(version(stored));
        let patch = Patch::Merge(change);
        let secrets = self.cluster.within::<Answer<Secret>>(&self.namespace);
        call(secrets.patch(secret::NAME, &params::patch(), &patch))
            .await
            .map(drop)
    }

    /// Entries are merged by their names, so this changes only the bundles.
    async fn publish(
        &self,
        webhooks: &MutatingWebhookConfiguration,
        bundle: &Bundle,
    ) -> Result<Report, CallError> {
        let pem = ByteString(bundle.to_pem().into_bytes());
        let entries = webhooks.webhooks.iter().flatten();
        let entries: Vec<_> = entries
            .map(|entry| json!({"name": entry.name, "clientConfig": {"caBundle": pem}}))
            .collect();
        let patch = Patch::Strategic(json!({
            "metadata": {"resourceVersion": version(webhooks)},
            "webhooks": entries,
        }));
        let api = self.cluster.all::<Answer<MutatingWebhookConfiguration>>();
        call(api.patch(names::WEBHOOK_CONFIGURATION, &params::patch(), &patch)).await?;
        tracing::info!(
            certificates = bundle.len(),
            "wrote the CA bundle for the API servers"
        );
        Ok(Report::Rotating(
            "the new CA is published to the API servers".to_owned(),
        ))
    }

    /// Probes every webhook pod, and remembers how long all of them have served the pair in the Secret.
    async fn probe(
        &self,
        stored: Option<&Secret>,
        seen: &Observed,
        memory: &mut Memory,
    ) -> Result<Report, CallError> {
        let (Some(stored), Ok(current)) = (stored, &seen.current) else {
            return Ok(Report::Rotating("waiting for a usable pair".to_owned()));
        };
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={SERVICE}"));
        let api = self.cluster.within::<EndpointSlice>(&self.namespace);
        let listed = read::list::<EndpointSlice, _>(&api, &of_service).await?;
        let slices: Vec<_> = listed.items.into_iter().map(|(_, slice)| slice).collect();
        let mut refused = probe::refused(&slices, &current.trust, &self.dns_name).await;
        // An EndpointSlice that cannot be read hides pods that may serve any pair.
        refused.extend(listed.unreadable.iter().map(ToString::to_string));
        if let Some(first) = refused.first() {
            tracing::debug!(?refused, "not every webhook pod serves the new pair yet");
            memory.served.forget();
            return Ok(Report::Rotating(format!(
                "the former CA is trusted until every webhook pod serves the new pair; {} not yet, such as {first}",
                refused.len()
            )));
        }
        memory.served.note(version(stored), Instant::now());
        Ok(Report::Rotating(
            "every webhook pod serves the new pair; the former CA is removed next".to_owned(),
        ))
    }
}

impl View for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlices;
    const KEEP: Keep = sieve::WHOLE;
    type Object = Self;

    fn read(slice: Self) -> Option<Self> {
        Some(slice)
    }
}

fn bundles(webhooks: &MutatingWebhookConfiguration) -> Vec<Bundle> {
    let bundle = |pem: &Option<ByteString>| pem.as_ref().map(|ByteString(pem)| Bundle::from_pem(pem));
    let entries = webhooks.webhooks.iter().flatten();
    entries
        .map(|entry| bundle(&entry.client_config.ca_bundle).unwrap_or_default())
        .collect()
}

fn version(object: &impl ResourceExt) -> String {
    object.resource_version().unwrap_or_default()
}
