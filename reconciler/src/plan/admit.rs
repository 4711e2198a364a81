//! Step 1: a gated pod gets its record.

use jiff::Timestamp;

use super::report::{reason, report};
use super::{Note, Plan, View, Write, after, policies, release};
use crate::record;
use crate::view::PodView;

const NO_DNS: &str = "the pod's VM resolves no names: the cluster has no Service kube-system/kube-dns with an IPv4 \
                      address, and the MaroonedPodsConfig has no join.clusterDNS";

pub(super) fn plan(view: &View, now: Timestamp) -> Plan {
    match &view.pod {
        Some(pod)
            if pod.gate_index.is_some()
                && !pod.exempt
                && !pod.terminal
                && pod.deletion_deadline.is_none() =>
        {
            waiting(view, pod, now)
        }
        // Not ours, or over: without our gate the pod never waited for us.
        Some(_) => Plan::wait(),
        None => Plan {
            done: true,
            ..Plan::wait()
        },
    }
}

fn waiting(view: &View, pod: &PodView, now: Timestamp) -> Plan {
    if pod.names_nodes {
        return Plan::wait().writes(release::names_nodes(pod));
    }
    let Some(settings) = &view.settings else {
        let message =
            "there is no valid MaroonedPodsConfig named \"default\": create one, or see its conditions";
        return Plan::wait().writes(report(pod, false, reason::NO_CONFIG, message));
    };
    if !pod.foreign_gates.is_empty() && !settings.spec.provision_while_gated {
        let message = format!(
            "no VM is started while other scheduling gates hold: {}",
            pod.foreign_gates.join(", ")
        );
        return Plan::wait().writes(report(pod, false, reason::WAITING_FOR_GATES, message));
    }
    if let Some(why) = &view.hold {
        return Plan::wait().writes(report(pod, false, reason::CLUSTER_NOT_READY, why.clone()));
    }
    if let Some(plan) = policies::wait(view, pod) {
        return plan;
    }
    if let Some(plan) = backing_off(view, pod, now) {
        return plan;
    }
    let size = match &view.size {
        Some(Ok(size)) => *size,
        Some(Err(why)) => return Plan::wait().writes(report(pod, false, reason::UNSIZABLE, why.clone())),
        None => return Plan::wait(),
    };
    let at_most = settings.spec.limits.vms_per_namespace;
    if let Some(limit) = at_most.filter(|limit| view.namespace_records >= *limit) {
        return Plan {
            waits_for_place: true,
            ..Plan::wait().writes(report(pod, false, reason::NAMESPACE_LIMIT, no_place(pod, limit)))
        };
    }
    let record = record::new(
        pod.reference(),
        pod.host_network,
        &pod.priority_class,
        size,
        settings,
        view.cluster_dns.as_deref(),
    );
    let plan = if record::needs_dns(&record.spec.vm.join) {
        Plan::wait().note(Note::warning("NoClusterDNS", NO_DNS))
    } else {
        Plan::wait()
    };
    plan.write(Write::CreateRecord {
        record: Box::new(record),
        at_most,
    })
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
fn backing_off(view: &View, pod: &PodView, now: Timestamp) -> Option<Plan> {
    let wait = view.backing_off.as_ref()?;
    let until = after(now, wait.remaining);
    let (rejections, why) = (wait.rejections, &wait.reason);
    let message = format!(
        "kubelets rejected pods of the same controller or name, {rejections} in a row, the last with {why}; the next \
         VM is tried after {:#}",
        wait.remaining
    );
    Some(
        Plan::wait()
            .writes(report(pod, false, reason::BACKING_OFF, message))
            .wake_at(until),
    )
}
