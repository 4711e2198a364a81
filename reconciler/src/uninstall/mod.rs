//! `uninstall`: everything of ours goes while there is still somebody who can take it away.
//!
//! Guarantees: without force, nothing is changed while marooned pods exist; pods are deleted by UID, with their own
//! grace period; it ends, at the latest a moment after its timeout, and says what is left. The running reconciler
//! releases VMs, Nodes and Secrets; this only waits until no record is left, for a record goes last, and whatever
//! was forgotten carries an owner reference to it.
//! Caveat: what controllers create after the webhook's configuration is gone is not marooned. Guards refuse such pods
//! for as long as they stand; afterwards they run as ordinary pods.

mod left;

use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::core::ResourceExt;
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::names;
use tokio::time::sleep;

use crate::act;
use crate::api::{CallError, Cluster, find};
use crate::args::UninstallArgs;
use crate::read;
use left::{Left, PodLeft, Progress, RecordLeft};

/// Name of our `MutatingWebhookConfiguration`.
const WEBHOOK: &str = "maroonedpods";
/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// Waits until nothing of ours is left, and `say`s how far that is. With force, deletes the webhook's configuration
/// and then every marooned pod first. True when nothing is left, false when it was refused or took too long.
///
/// # Errors
/// A right is missing, or the API server could not be reached at the end of the time.
pub async fn uninstall(
    cluster: &Cluster,
    args: &UninstallArgs,
    say: impl Fn(&str),
) -> Result<bool, CallError> {
    let start = Instant::now();
    if args.force {
        // First, so that nothing new is gated: a pod gated after we are gone would wait for ever.
        stop_gating(cluster).await?;
        say("the webhook's configuration is deleted: no pod is gated from here on");
    }
    let mut progress = Progress::default();
    loop {
        match step(cluster, args.force).await {
            Ok(left) if left.is_empty() => {
                say("nothing of MaroonedPods is left");
                return Ok(true);
            }
            Ok(left) if !args.force && !left.pods.is_empty() => {
                say(&left.refusal(&args.namespace));
                return Ok(false);
            }
            Ok(left) => {
                if let Some(line) = progress.line(&left, start.elapsed()) {
                    say(&line);
                }
                if start.elapsed() >= args.timeout {
                    say(&left.given_up(args.timeout));
                    return Ok(false);
                }
            }
            Err(error) if error.is_refusal() || start.elapsed() >= args.timeout => return Err(error),
            Err(error) => say(&format!("{error}; will try again")),
        }
        sleep(PERIOD).await;
    }
}

/// Deletes the webhook's configuration, as it was read just now: not one that an installation made in between.
async fn stop_gating(cluster: &Cluster) -> Result<(), CallError> {
    let webhooks = cluster.all::<MutatingWebhookConfiguration>();
    match find(&webhooks, WEBHOOK).await?.and_then(|found| found.uid()) {
        Some(uid) => act::delete(&webhooks, WEBHOOK, &uid).await,
        None => Ok(()),
    }
}

/// Looks, and with force deletes the pods that nobody has deleted yet.
async fn step(cluster: &Cluster, force: bool) -> Result<Left, CallError> {
    let left = look(cluster).await?;
    for pod in left.pods.iter().filter(|pod| force && !pod.deleting) {
        act::delete(&cluster.within::<Pod>(&pod.namespace), &pod.name, &pod.uid).await?;
    }
    Ok(left)
}

async fn look(cluster: &Cluster) -> Result<Left, CallError> {
    let marooned = ListParams::default().labels(&format!("{}={}", names::MAROON_LABEL, names::MAROON_TRUE));
    let all_pods = Api::<Pod>::all(cluster.client.clone());
    let pods = read::list::<PodLeft, _>(&all_pods, &marooned).await?;
    let all_records = cluster.all::<MaroonedNode>();
    let records = match read::list::<MaroonedNode, _>(&all_records, &ListParams::default()).await {
        Ok(listed) => listed
            .items
            .iter()
            .map(|(_, record)| RecordLeft::of(record))
            .chain(listed.unreadable.iter().map(RecordLeft::unreadable))
            .collect(),
        // Somebody has deleted the CRD, and with it every record.
        Err(error) if error.is_unserved() => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(Left {
        pods: pods
            .items
            .into_iter()
            .map(|(_, pod)| pod)
            .chain(pods.unreadable.iter().map(PodLeft::unreadable))
            .collect(),
        records,
    })
}
