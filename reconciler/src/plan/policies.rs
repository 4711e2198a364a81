//! What is done about NetworkPolicies, which nobody enforces on a marooned pod: a word, or a closed gate.

use maroonedpods_common::api::NetworkPolicies;
use maroonedpods_common::text;

use super::report::{reason, report};
use super::{Note, Plan, View};
use crate::view::PodView;

/// The plan of a pod that may not go on because policies select it, if that is so: it waits until none does.
pub(super) fn wait(view: &View, pod: &PodView) -> Option<Plan> {
    (refuses(view) && !view.policies.is_empty()).then(|| {
        let message = format!(
            "{}, and spec.vm.networkPolicies of the MaroonedPodsConfig says Refuse: change the policy so that it does \
             not select this pod, opt the pod out, or set the field to Warn",
            not_enforced(view)
        );
        say(pod, false, message)
    })
}

/// What a pod whose node is ready says; nothing where it says so already.
pub(super) fn ready(view: &View, pod: &PodView) -> Plan {
    if view.policies.is_empty() {
        return Plan::wait().writes(report(
            pod,
            true,
            reason::NODE_READY,
            "the pod's own node is ready",
        ));
    }
    let message = format!("the pod's own node is ready; {}", not_enforced(view));
    say(pod, true, message)
}

/// By the configuration as it is now: who changes it to let pods go on means those that wait.
fn refuses(view: &View) -> bool {
    let now = view.settings.as_ref().map(|s| s.spec.vm.network_policies);
    let recorded = || Some(view.record.as_ref()?.spec.vm.options.network_policies);
    now.or_else(recorded) == Some(NetworkPolicies::Refuse)
}

fn not_enforced(view: &View) -> String {
    let names = text::listed(&view.policies);
    format!("NetworkPolicies are not enforced on marooned pods, and this one is selected by: {names}")
}

/// The event goes with the report, so there is one for each time that the pod begins to say so.
fn say(pod: &PodView, is_ready: bool, message: String) -> Plan {
    let reason = reason::NETWORK_POLICY_NOT_ENFORCED;
    match report(pod, is_ready, reason, message.clone()) {
        Some(write) => Plan::wait().write(write).note(Note::warning(reason, message)),
        None => Plan::wait(),
    }
}
