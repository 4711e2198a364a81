//! Pods that have a scheduler which cannot bind them to their own Node, and whether the reconciler may bind them. A pod
//! has one if it needs it (for its claims), or names it, or came past the webhook; the reconciler binds all others without
//! asking.
//!
//! A marooned Node has no `kubernetes.io/hostname` label, so that it is not a domain over which ordinary pods spread.
//! If a pod *requires* a spread or an affinity over hosts, the scheduler considers a Node without the label unfit.
//! But a marooned pod has its node to itself: it satisfies every spread over nodes, and on that node an affinity to other
//! pods can only be met by the pod itself. So the reconciler binds such pods, once everything else that the
//! scheduler would check is in order. What they require over zones was met when the scheduler placed their VM
//! ([`crate::placement`]).

pub mod tolerations;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration, TopologySpreadConstraint,
};
use maroonedpods_common::names;
use serde::{Deserialize, Serialize};

use crate::view::NodeView;
use crate::view::Packed;

/// What a pod requires of its node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Demands {
    node_selector: BTreeMap<String, String>,
    /// Required node affinity: the node must match one of these terms.
    terms: Option<Vec<NodeSelectorTerm>>,
    tolerations: Vec<Toleration>,
    /// Labels that the node must have because a required spread uses them. Their values do not matter: no other pod
    /// may run on the node.
    spread_over: Vec<String>,
    /// Names of the pod's volume claims.
    pub claims: Vec<String>,
}

impl Demands {
    /// The demands of a pod that the scheduler would refuse only because the hostname label is missing; `None` for a
    /// pod that the scheduler can place, or that needs it for devices.
    #[must_use]
    pub fn of(pod_name: &str, spec: &PodSpec) -> Option<Self> {
        let spreads = || {
            spec.topology_spread_constraints
                .iter()
                .flatten()
                .filter(|s| is_hard(s))
        };
        let affinity = spec.affinity.as_ref();
        let mut together = affinity
            .and_then(|a| a.pod_affinity.as_ref())
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten();
        let over_hosts = spreads().any(|s| s.topology_key == names::HOSTNAME_LABEL)
            || together.any(|term| term.topology_key == names::HOSTNAME_LABEL);
        let devices = spec
            .resource_claims
            .as_ref()
            .is_some_and(|claims| !claims.is_empty());
        if !over_hosts || devices {
            return None;
        }
        let node_affinity = affinity.and_then(|a| a.node_affinity.as_ref());
        let terms = required_terms(node_affinity).map(<[_]>::to_vec);
        Some(Self {
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            terms,
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            spread_over: spreads()
                .map(|s| s.topology_key.clone())
                .filter(|key| key != names::HOSTNAME_LABEL)
                .collect(),
            claims: claims(pod_name, spec),
        })
    }

    /// Whether the scheduler would accept the pod's own Node if that had the hostname label. A Node with more labels
    /// than are kept is left to the scheduler.
    #[must_use]
    pub fn met_by(&self, node_name: &str, node: &NodeView) -> bool {
        let Some(labels) = node.labels.as_ref().and_then(Packed::unpacked) else {
            return false;
        };
        let selected = selects(&self.node_selector, self.terms.as_deref(), node_name, &labels);
        let covered = |taint| {
            let mut tolerations = self.tolerations.iter();
            tolerations.any(|toleration| tolerations::covers(toleration, taint) == Some(true))
        };
        let tolerated = node
            .taints
            .iter()
            .filter(|taint| taint.effect != "PreferNoSchedule")
            .all(covered);
        let spread = self.spread_over.iter().all(|key| labels.contains_key(key));
        selected && tolerated && spread
    }
}

fn is_hard(constraint: &TopologySpreadConstraint) -> bool {
    constraint.when_unsatisfiable == "DoNotSchedule"
}

fn claims(pod_name: &str, spec: &PodSpec) -> Vec<String> {
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(
            |volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(claim), _) => Some(claim.claim_name.clone()),
                (None, Some(_)) => Some(format!("{pod_name}-{}", volume.name)),
                (None, None) => None,
            },
        )
        .collect()
}

/// Whether node selector and required node affinity allow a node with this name and these labels: it must match one of the
/// terms, if there are any.
#[must_use]
pub fn selects(
    selector: &BTreeMap<String, String>,
    terms: Option<&[NodeSelectorTerm]>,
    node_name: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    let selected = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    selected && terms.is_none_or(|terms| terms.iter().any(|term| matches(term, node_name, labels)))
}

/// The terms of a required node affinity: a node must match one of them.
#[must_use]
pub fn required_terms(affinity: Option<&NodeAffinity>) -> Option<&[NodeSelectorTerm]> {
    let required = affinity?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    Some(&required.node_selector_terms)
}

/// Whether a node with this name and these labels matches a term. An empty term matches nothing.
fn matches(term: &NodeSelectorTerm, node_name: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let empty = expressions.clone().next().is_none() && fields.clone().next().is_none();
    let by_label = |r: &NodeSelectorRequirement| holds(r, labels.get(&r.key).map(String::as_str));
    let by_field = |r: &NodeSelectorRequirement| r.key == "metadata.name" && holds(r, Some(node_name));
    !empty && expressions.clone().all(by_label) && fields.clone().all(by_field)
}

/// Whether a label's value, if there is one, meets a requirement, as the scheduler and the kubelet see it.
pub fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|v| v == value));
    let compared = |wanted: std::cmp::Ordering| {
        let (Some(value), [bound]) = (value, values) else {
            return false;
        };
        matches!((value.parse::<i64>(), bound.parse::<i64>()), (Ok(v), Ok(b)) if v.cmp(&b) == wanted)
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(std::cmp::Ordering::Greater),
        "Lt" => compared(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
