//! `uninstall`: deletes everything of ours while the reconciler, which must do most of it, still runs.
//!
//! Guarantees: without force, nothing is changed while marooned pods exist. Pods are deleted by UID, with their own
//! grace period. The command ends, at the latest a moment after its timeout, and reports what is left. It reports
//! that nothing is left only once no further VM can be started: the webhook's configuration is deleted, without which
//! the reconciler creates no record, and every API server has learned of that. A record that outlived the reconciler
//! would stay for ever, and so would its VM and the CRD. The running reconciler releases VMs, Nodes and Secrets; this
//! command only waits until no record is left, because a record goes last, and any object that was missed has an
//! owner reference to it.
//! Caveat: pods that controllers create after the webhook's configuration is gone are not marooned. Guards refuse
//! such pods for as long as the guards exist; afterwards they run as ordinary pods.

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

/// Pause between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// The minimum time for which pods may still be gated after the webhook's configuration is deleted: by creates under
/// way, which wait up to the webhook's timeout of 5 s, and by API servers that have not learned of the deletion. If
/// other webhooks delay a create for longer, or a pod is created with the gate, that pod waits for ever. But it has
/// no record, because the reconciler creates none without that configuration.
const GATED_FOR: Duration = Duration::from_secs(10);

/// The next step.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Marooned pods exist, and the user did not force their deletion.
    Refuse,
    /// Delete the webhook's configuration.
    StopGating,
    /// Wait for the next look; with force, after deleting the pods that exist.
    Wait,
    /// Nothing is left.
    End,
}

/// `ungated_for` is how long the webhook's configuration has been deleted.
fn next(left: &Left, force: bool, ungated_for: Option<Duration>) -> Next {
    match ungated_for {
        _ if !force && !left.pods.is_empty() => Next::Refuse,
        // With force this comes first, so that nothing new is gated while the old pods are deleted.
        None if force || left.is_empty() => Next::StopGating,
        Some(ungated_for) if left.is_empty() && ungated_for >= GATED_FOR => Next::End,
        _ => Next::Wait,
    }
}

/// Waits until nothing of ours is left, and reports the progress through `say`. Deletes the webhook's configuration
/// once no marooned pod is left; with force at once, followed by every marooned pod. True if nothing is left; false
/// if it refused or took too long.
///
/// # Errors
/// A right is missing, or the API server could not be reached when the time was over.
pub async fn uninstall(
    cluster: &Cluster,
    args: &UninstallArgs,
    say: impl Fn(&str),
) -> Result<bool, CallError> {
    let start = Instant::now();
    let mut ungated_since = None;
    let mut progress = Progress::default();
    loop {
        match step(cluster, args.force, &mut ungated_since, &say).await {
            Ok((Next::End, _)) => {
                say("nothing of MaroonedPods is left");
                return Ok(true);
            }
            Ok((Next::Refuse, left)) => {
                say(&left.refusal(&args.namespace, ungated_since.is_some()));
                return Ok(false);
            }
            Ok((Next::StopGating | Next::Wait, left)) if !left.is_empty() => {
                if let Some(line) = progress.line(&left, start.elapsed()) {
                    say(&line);
                }
                if start.elapsed() >= args.timeout {
                    say(&left.given_up(args.timeout));
                    return Ok(false);
                }
            }
            Ok(_) => {}
            Err(error) if error.is_refusal() || start.elapsed() >= args.timeout => return Err(error),
            Err(error) => say(&format!("{error}; will try again")),
        }
        sleep(PERIOD).await;
    }
}

/// Looks, and does the next step.
async fn step(
    cluster: &Cluster,
    force: bool,
    ungated_since: &mut Option<Instant>,
    say: &impl Fn(&str),
) -> Result<(Next, Left), CallError> {
    let webhooks = cluster.all::<MutatingWebhookConfiguration>();
    // Read each time: another client may have created it again.
    let gating = find(&webhooks, names::WEBHOOK_CONFIGURATION).await?;
    let mut left = look(cluster).await?;
    let ungated_for = if gating.is_some() {
        *ungated_since = None;
        None
    } else {
        Some(ungated_since.get_or_insert_with(Instant::now).elapsed())
    };
    let next = next(&left, force, ungated_for);
    match next {
        Next::StopGating => {
            // With the UID that was just read: not one that an installation created in between.
            if let Some(uid) = gating.and_then(|gating| gating.uid()) {
                act::delete(&webhooks, names::WEBHOOK_CONFIGURATION, &uid).await?;
            }
            say(&format!(
                "the webhook's configuration is deleted; within {} s no pod is gated any more",
                GATED_FOR.as_secs()
            ));
        }
        Next::Wait if force => delete_pods(cluster, &mut left).await,
        Next::Wait | Next::Refuse | Next::End => {}
    }
    Ok((next, left))
}

/// Deletes the pods that are not being deleted yet. A pod whose deletion is refused does not keep the others from
/// being deleted.
async fn delete_pods(cluster: &Cluster, left: &mut Left) {
    for pod in left.pods.iter_mut().filter(|pod| !pod.deleting) {
        let pods = cluster.within::<Pod>(&pod.namespace);
        let deleted = act::delete(&pods, &pod.name, &pod.uid).await;
        pod.kept = deleted.err().map(|error| error.to_string());
    }
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
        // The CRD is deleted, and with it every record.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_only_once_nothing_is_gated() {
        let seconds = Duration::from_secs;
        let nothing = Left::default();
        let pods = left::tests::pods(1);
        let records = left::tests::record();
        for (left, force, ungated_for, expected) in [
            (&pods, false, None, Next::Refuse),
            // The pod was created while the configuration was being deleted.
            (&pods, false, Some(seconds(3)), Next::Refuse),
            (&pods, true, None, Next::StopGating),
            (&pods, true, Some(seconds(60)), Next::Wait),
            (&records, false, None, Next::Wait),
            (&records, true, None, Next::StopGating),
            (&records, false, Some(seconds(60)), Next::Wait),
            (&nothing, false, None, Next::StopGating),
            (&nothing, true, None, Next::StopGating),
            (&nothing, false, Some(seconds(9)), Next::Wait),
            (&nothing, true, Some(seconds(9)), Next::Wait),
            (&nothing, false, Some(seconds(10)), Next::End),
            (&nothing, true, Some(seconds(10)), Next::End),
        ] {
            assert_eq!(
                next(left, force, ungated_for),
                expected,
                "{left:?} {force} {ungated_for:?}"
            );
        }
    }
}
