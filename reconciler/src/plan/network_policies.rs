//! What happens to a pod that a NetworkPolicy selects, which nothing enforces on a marooned pod: a report, or the pod
//! waits.

use maroonedpods_common::api::{NetworkPolicies, PodReason};
use maroonedpods_common::text;

use super::report::report;
use super::{Decision, Note};
use crate::view::{Observed, PodView};

/// The plan of a pod that may not go on because policies select it, if that is so: it waits until none does.
pub(super) fn wait(observed: &Observed, pod: &PodView) -> Option<Decision> {
    (refuses(observed) && !observed.policies.is_empty()).then(|| {
        let message = format!(
            "{}, and spec.vm.networkPolicies of the MaroonedPodsConfig says Refuse: change the policy so that it does \
             not select this pod, opt the pod out, or set the field to Warn",
            not_enforced(observed)
        );
        say(pod, false, message)
    })
}

/// The report that the pod's node is ready, with the policies that are not enforced; nothing where the pod has it
/// already.
pub(super) fn ready(observed: &Observed, pod: &PodView) -> Decision {
    let ready = if pod.ours_to_bind {
        "the pod's own node is ready"
    } else {
        "the pod's own node is ready for the pod's scheduler to bind it"
    };
    if observed.policies.is_empty() {
        return Decision::wait().writes(report(pod, true, PodReason::NodeReady, ready));
    }
    say(pod, true, format!("{ready}; {}", not_enforced(observed)))
}

/// By the configuration as it is now: a change that lets pods go on is meant for those that wait.
fn refuses(observed: &Observed) -> bool {
    let now = observed.settings.as_ref().map(|s| s.spec.vm.network_policies);
    let recorded = || Some(observed.record.as_ref()?.spec.vm.options.network_policies);
    now.or_else(recorded) == Some(NetworkPolicies::Refuse)
}

fn not_enforced(observed: &Observed) -> String {
    let names = text::listed(&observed.policies);
    format!("NetworkPolicies are not enforced on marooned pods, and this one is selected by: {names}")
}

/// The event goes with the report, so there is one for each time that the report is new.
fn say(pod: &PodView, is_ready: bool, message: String) -> Decision {
    let reason = PodReason::NetworkPolicyNotEnforced;
    match report(pod, is_ready, reason, message.clone()) {
        Some(write) => Decision::wait().write(write).note(Note::warning(reason, message)),
        None => Decision::wait(),
    }
}
