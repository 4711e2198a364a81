//! Step 1: a gated pod gets its record.

use jiff::{SignedDuration, Timestamp};
use maroonedpods_common::api::PodReason;
use maroonedpods_common::text;

use super::report::{report, report_again};
use super::{Decision, Note, Write, after, network_policies, release};
use crate::objects::record::{self, ClusterDefaults};
use crate::placement::{self, Unfit};
use crate::view::{Observed, PodView};

const NO_DNS: &str = "the pod's VM resolves no names: the cluster has no Service kube-system/kube-dns with an IPv4 \
                      address, and the MaroonedPodsConfig has no join.clusterDNS";

/// How soon to look again at claims that hold a pod back, which are not watched: after as long as the pod is old, from a minute
/// on after a tenth of that.
const CLAIMS_RETRY: (SignedDuration, SignedDuration) =
    (SignedDuration::from_secs(2), SignedDuration::from_mins(10));
const A_MINUTE: SignedDuration = SignedDuration::from_mins(1);

pub(super) fn decide(observed: &Observed, now: Timestamp) -> Decision {
    match &observed.pod {
        Some(pod)
            if pod.gate_index.is_some()
                && !pod.exempt
                && !pod.terminal
                && pod.deletion_deadline.is_none() =>
        {
            waiting(observed, pod, now)
        }
        // Not ours, or over: without our gate the pod never waited for us.
        Some(_) => Decision::wait(),
        None => Decision {
            done: true,
            ..Decision::wait()
        },
    }
}

fn waiting(observed: &Observed, pod: &PodView, now: Timestamp) -> Decision {
    if pod.names_nodes {
        return Decision::wait().writes(release::names_nodes(pod));
    }
    let Some(settings) = &observed.settings else {
        let message =
            "there is no valid MaroonedPodsConfig named \"default\": create one, or see its conditions";
        return Decision::wait().writes(report(pod, false, PodReason::NoConfig, message));
    };
    if !pod.foreign_gates.is_empty() && !settings.spec.provision_while_gated {
        let message = format!(
            "no VM is started while other scheduling gates hold: {}",
            pod.foreign_gates.join(", ")
        );
        return Decision::wait().writes(report(pod, false, PodReason::WaitingForOtherGates, message));
    }
    if let Some(why) = &observed.hold {
        return Decision::wait().writes(report(pod, false, PodReason::ClusterNotReady, why.clone()));
    }
    if let Some(decision) = network_policies::wait(observed, pod) {
        return decision;
    }
    if let Some(decision) = backing_off(observed, pod, now) {
        return decision;
    }
    let size = match &observed.size {
        Some(Ok(size)) => *size,
        Some(Err(why)) => {
            return Decision::wait().writes(report(pod, false, PodReason::Unsizable, why.clone()));
        }
        None => return Decision::wait(),
    };
    let architecture = observed.architecture;
    let claims = observed.claims.as_deref();
    let fit = match placement::judge(pod, claims, &settings.spec, architecture) {
        Ok(fit) => fit,
        Err(Unfit::ClaimsUnread) => return Decision::wait().insist_on_live_view(),
        Err(Unfit::Pod(why)) => return unplaceable(pod, &why),
        Err(Unfit::Claims(why)) => return unplaceable(pod, &why).wake_at(claims_retry(pod, now)),
    };
    let at_most = settings.spec.limits.vms_per_namespace;
    if let Some(limit) = at_most.filter(|limit| observed.namespace_records >= *limit) {
        return Decision {
            waits_for_place: true,
            ..Decision::wait().writes(report(
                pod,
                false,
                PodReason::NamespaceLimit,
                no_place(pod, limit),
            ))
        };
    }
    let spec = record::spec(
        pod.pod_ref(),
        pod.host_network,
        &pod.priority_class,
        size,
        fit.placement,
        settings,
        ClusterDefaults {
            dns: observed.cluster_dns.as_deref(),
            architecture,
            terminate_on_reboot: observed.terminate_on_reboot == Some(true),
        },
    );
    let mut decision = Decision::wait();
    if record::needs_dns(&spec.vm.join) {
        decision = decision.note(Note::warning("NoClusterDNS", NO_DNS));
    }
    if !fit.ignored.is_empty() {
        decision = decision.note(ignored(&fit.ignored));
    }
    decision.write(Write::CreateRecord {
        spec: Box::new(spec),
        at_most,
    })
}

/// The sentence changes only if the pod, its claims or the configuration do.
fn unplaceable(pod: &PodView, why: &str) -> Decision {
    Decision::wait().writes(report_again(pod, PodReason::Unplaceable, why))
}

fn ignored(preferences: &[String]) -> Note {
    Note::normal(
        "PreferencesIgnored",
        format!(
            "the VM's host is chosen without these preferences of the pod: {}; a host is chosen by its zone, region and instance \
             type, and by the labels in placement.hostLabels of the MaroonedPodsConfig",
            text::listed(preferences)
        ),
    )
}

/// The pod's age is by the API server's clock: one that is off changes the pace within its bounds.
fn claims_retry(pod: &PodView, now: Timestamp) -> Timestamp {
    let (soonest, latest) = CLAIMS_RETRY;
    let age = pod.created.map_or(latest, |created| now.duration_since(created));
    let pause = age.min((age / 10).max(A_MINUTE));
    after(now, pause.clamp(soonest, latest))
}

fn no_place(pod: &PodView, limit: u32) -> String {
    let vms = if limit == 1 {
        "1 VM"
    } else {
        &format!("{limit} VMs")
    };
    format!(
        "namespace {} has the {vms} that limits.vmsPerNamespace of the MaroonedPodsConfig allows: this pod starts when \
         one is gone",
        pod.namespace
    )
}

/// Each rejected pod costs a VM, and its maker makes the next one at once.
fn backing_off(observed: &Observed, pod: &PodView, now: Timestamp) -> Option<Decision> {
    let wait = observed.backing_off.as_ref()?;
    let until = after(now, wait.remaining);
    let (rejections, why) = (wait.rejections, &wait.reason);
    let message = format!(
        "kubelets rejected pods of the same controller or name, {rejections} in a row, the last with {why}; the next \
         VM is tried after {:#}",
        wait.remaining
    );
    Some(
        Decision::wait()
            .writes(report(pod, false, PodReason::BackingOff, message))
            .wake_at(until),
    )
}
