//! Step 1: a gated pod gets its record.

use super::report::{reason, report};
use super::{Plan, View, Write, policies};
use crate::record;
use crate::view::PodView;

pub(super) fn plan(view: &View) -> Plan {
    match &view.pod {
        Some(pod)
            if pod.gate_index.is_some()
                && !pod.exempt
                && !pod.terminal
                && pod.deletion_deadline.is_none() =>
        {
            waiting(view, pod)
        }
        // Not ours, or over: without our gate the pod never waited for us.
        Some(_) => Plan::wait(),
        None => Plan {
            done: true,
            ..Plan::wait()
        },
    }
}

fn waiting(view: &View, pod: &PodView) -> Plan {
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
    match &view.size {
        Some(Ok(size)) => Plan::wait().write(Write::CreateRecord(Box::new(record::new(
            pod.reference(),
            pod.host_network,
            *size,
            settings,
        )))),
        Some(Err(why)) => Plan::wait().writes(report(pod, false, reason::UNSIZABLE, why.clone())),
        None => Plan::wait(),
    }
}
