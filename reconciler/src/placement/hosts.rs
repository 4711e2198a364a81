//! Node selector and node affinity: which requirements the pod's Node meets by itself, and which its VM's host must meet.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm,
};
use maroonedpods_common::{names, text};

use super::Wishes;
use crate::binding::{holds, required_terms};
use crate::objects::node;
use crate::view::topology;

/// The one field of a Node that an affinity can ask for.
const NAME_FIELD: &str = "metadata.name";
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// A pod's own selectors can only be added to while it waits.
pub(super) const WITHOUT: &str = "make the pod without that, or opt it out";

/// The most terms of which the VM's host must meet one.
const MOST_TERMS: usize = 64;

/// What the Node or its host must have, as a field of the pod or one of its volumes says: one of the terms.
pub(super) struct Required {
    /// Who says so.
    pub(super) whose: String,
    /// What the pod's owner can do, if that cannot be had.
    pub(super) remedy: &'static str,
    pub(super) terms: Vec<NodeSelectorTerm>,
}

/// What becomes of one requirement.
enum Fate {
    /// It is one for the host.
    Host,
    /// The Node meets it, or does not.
    Node(bool),
}

/// Whether a label is one of the host's, by which pods may choose.
#[must_use]
pub fn is_of_host(key: &str, allowed: &[String]) -> bool {
    topology::LABELS.contains(&key) || key == INSTANCE_TYPE || allowed.iter().any(|a| a == key)
}

/// Divides the pod's demands between its Node and its VM's host, and gives what the host must meet.
///
/// # Errors
/// A sentence, if the Node does not have what the pod or a volume requires, or no host can have all of it.
pub(super) fn carry(
    wishes: &Wishes,
    by_volumes: &[Required],
    promised: &BTreeMap<String, String>,
    allowed: &[String],
) -> Result<Option<NodeAffinity>, String> {
    let judge = |requirement: &NodeSelectorRequirement| fate(requirement, promised, allowed);
    let mut base = NodeSelectorTerm::default();
    for (key, value) in &wishes.node_selector {
        let requirement = one_of(key, value);
        match judge(&requirement) {
            Fate::Host => add(&mut base, requirement),
            Fate::Node(true) => {}
            Fate::Node(false) => {
                let what = format!("the pod's node selector {key}={value}");
                return Err(unmet(&what, &BTreeSet::from([key.as_str()]), WITHOUT));
            }
        }
    }
    let affinity = wishes.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let own = required_terms(affinity).map(|terms| Required {
        whose: "the pod's node affinity".to_owned(),
        remedy: WITHOUT,
        terms: terms.to_vec(),
    });
    let mut terms = vec![base];
    for required in own.iter().chain(by_volumes) {
        let possible: Vec<_> = required
            .terms
            .iter()
            .filter_map(|term| reduced(term, judge))
            .collect();
        if possible.is_empty() {
            let keys = unmet_keys(&required.terms, judge);
            if keys.is_empty() {
                return Err(format!(
                    "{} has no term that matches a node: {}",
                    required.whose, required.remedy
                ));
            }
            let what = format!("{} ({})", required.whose, listed(&keys));
            return Err(unmet(&what, &keys, required.remedy));
        }
        // One term without a requirement allows every host.
        if !possible.iter().any(is_empty) {
            terms = joined(&terms, &possible, &required.whose)?;
        }
    }
    let required = (!terms.iter().any(is_empty)).then_some(terms);
    let prefer = |requirement: &NodeSelectorRequirement| preferred_fate(requirement, promised, allowed);
    let preferred: Vec<_> = preferred_terms(wishes)
        .filter_map(|preferred| {
            let preference = reduced(&preferred.preference, prefer).filter(|term| !is_empty(term))?;
            Some(PreferredSchedulingTerm {
                preference,
                weight: preferred.weight,
            })
        })
        .collect();
    let affinity = NodeAffinity {
        required_during_scheduling_ignored_during_execution: required.map(|terms| NodeSelector {
            node_selector_terms: terms,
        }),
        preferred_during_scheduling_ignored_during_execution: (!preferred.is_empty()).then_some(preferred),
    };
    Ok((affinity != NodeAffinity::default()).then_some(affinity))
}

/// Preferred terms that no host meets, by the labels that are in the way.
pub(super) fn ignored(
    wishes: &Wishes,
    promised: &BTreeMap<String, String>,
    allowed: &[String],
) -> Vec<String> {
    let judge = |requirement: &NodeSelectorRequirement| preferred_fate(requirement, promised, allowed);
    preferred_terms(wishes)
        .map(|preferred| std::slice::from_ref(&preferred.preference))
        .filter(|term| !is_empty(&term[0]) && reduced(&term[0], judge).is_none())
        .map(|term| format!("node affinity ({})", listed(&unmet_keys(term, judge))))
        .collect()
}

fn preferred_terms(wishes: &Wishes) -> impl Iterator<Item = &PreferredSchedulingTerm> {
    let affinity = wishes.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    preferred.into_iter().flatten()
}

fn fate(
    requirement: &NodeSelectorRequirement,
    promised: &BTreeMap<String, String>,
    allowed: &[String],
) -> Fate {
    let key = requirement.key.as_str();
    // The Node has no hostname, so it is not on a host that the pod avoids by name; its VM must not be either.
    let avoids_host = key == names::HOSTNAME_LABEL && requirement.operator == "NotIn";
    if avoids_host || is_of_host(key, allowed) {
        Fate::Host
    } else {
        Fate::Node(holds(requirement, promised.get(key).map(String::as_str)))
    }
}

/// The VM can be on a host that its pod prefers by name: no kubelet looks for that name on the Node.
fn preferred_fate(
    requirement: &NodeSelectorRequirement,
    promised: &BTreeMap<String, String>,
    allowed: &[String],
) -> Fate {
    match requirement.key.as_str() {
        names::HOSTNAME_LABEL => Fate::Host,
        _ => fate(requirement, promised, allowed),
    }
}

/// What is left of a term for the host; `None` if the Node does not meet it. A term that asks for nothing matches no node.
fn reduced(
    term: &NodeSelectorTerm,
    judge: impl Fn(&NodeSelectorRequirement) -> Fate,
) -> Option<NodeSelectorTerm> {
    if is_empty(term) {
        return None;
    }
    let mut left = NodeSelectorTerm::default();
    for requirement in term.match_expressions.iter().flatten() {
        match judge(requirement) {
            Fate::Host => add(&mut left, requirement.clone()),
            Fate::Node(true) => {}
            Fate::Node(false) => return None,
        }
    }
    for field in term.match_fields.iter().flatten() {
        // The Node's name is a new one, so it is none that the pod names; a host that the pod avoids is avoided.
        if (field.key.as_str(), field.operator.as_str()) != (NAME_FIELD, "NotIn") {
            return None;
        }
        left.match_fields.get_or_insert_default().push(field.clone());
    }
    Some(left)
}

fn add(term: &mut NodeSelectorTerm, requirement: NodeSelectorRequirement) {
    add_to(&mut term.match_expressions, requirement);
}

fn add_to(list: &mut Option<Vec<NodeSelectorRequirement>>, requirement: NodeSelectorRequirement) {
    let list = list.get_or_insert_default();
    if !list.contains(&requirement) {
        list.push(requirement);
    }
}

/// Terms that a host meets one of if it meets one of each.
fn joined(
    some: &[NodeSelectorTerm],
    others: &[NodeSelectorTerm],
    whose: &str,
) -> Result<Vec<NodeSelectorTerm>, String> {
    let mut joined = Vec::new();
    let pairs = some
        .iter()
        .flat_map(|term| others.iter().map(move |other| both(term, other)));
    for term in pairs.filter(|term| !is_impossible(term)) {
        if !joined.contains(&term) {
            joined.push(term);
        }
        if joined.len() > MOST_TERMS {
            return Err(format!(
                "with what {whose} asks for, the hosts that the pod can be on are described by more than {MOST_TERMS} terms, \
                 which are not judged: ask for fewer alternatives"
            ));
        }
    }
    if joined.is_empty() {
        return Err(format!(
            "what {whose} asks for and what else the pod asks for exclude each other: let both ask for the same place"
        ));
    }
    Ok(joined)
}

fn both(term: &NodeSelectorTerm, other: &NodeSelectorTerm) -> NodeSelectorTerm {
    let mut both = other.clone();
    for requirement in term.match_expressions.iter().flatten() {
        add(&mut both, requirement.clone());
    }
    for field in term.match_fields.iter().flatten() {
        add_to(&mut both.match_fields, field.clone());
    }
    both
}

/// Whether a label would need two values.
fn is_impossible(term: &NodeSelectorTerm) -> bool {
    let expressions = || term.match_expressions.iter().flatten();
    let values = |r: &NodeSelectorRequirement| r.values.clone().unwrap_or_default();
    expressions().filter(|r| r.operator == "In").any(|one| {
        let possible = values(one).into_iter().filter(|value| {
            let of_key = || expressions().filter(|other| other.key == one.key);
            of_key().all(|other| holds(other, Some(value)))
        });
        possible.count() == 0
    })
}

fn one_of(key: &str, value: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![value.to_owned()]),
    }
}

fn is_empty(term: &NodeSelectorTerm) -> bool {
    let none = |requirements: &Option<Vec<_>>| requirements.as_ref().is_none_or(Vec::is_empty);
    none(&term.match_expressions) && none(&term.match_fields)
}

/// Keys of the labels in required terms.
pub(super) fn required_keys(affinity: &NodeAffinity) -> impl Iterator<Item = &str> {
    let terms = required_terms(Some(affinity)).into_iter().flatten();
    terms
        .flat_map(|term| term.match_expressions.iter().flatten())
        .map(|requirement| requirement.key.as_str())
}

/// The keys of what the Node does not meet.
fn unmet_keys(
    terms: &[NodeSelectorTerm],
    judge: impl Fn(&NodeSelectorRequirement) -> Fate,
) -> BTreeSet<&str> {
    let expressions = terms
        .iter()
        .flat_map(|term| term.match_expressions.iter().flatten());
    let unmet = expressions.filter(|requirement| matches!(judge(requirement), Fate::Node(false)));
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    unmet
        .chain(fields)
        .map(|requirement| requirement.key.as_str())
        .collect()
}

fn listed(keys: &BTreeSet<&str>) -> String {
    text::listed(&keys.iter().copied().map(ToOwned::to_owned).collect::<Vec<_>>())
}

fn unmet(what: &str, keys: &BTreeSet<&str>, remedy: &str) -> String {
    if keys.iter().all(|key| node::SYSTEM_LABELS.contains(key)) {
        return format!("{what} asks for another operating system or architecture than VMs have: {remedy}");
    }
    if keys
        .iter()
        .any(|key| [names::HOSTNAME_LABEL, NAME_FIELD].contains(key))
    {
        return format!("{what} asks for a node by its name, and no VM's host is chosen by that: {remedy}");
    }
    format!(
        "no marooned node has what {what} asks for: {remedy}, or ask the administrator to list the label in placement.hostLabels of \
         the MaroonedPodsConfig, so that it chooses the VM's host, or to give it to all marooned nodes by placement.nodeLabels"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::selects;
    use k8s_openapi::api::core::v1::Affinity;
    use proptest::prelude::*;

    const KEYS: [&str; 7] = [
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "disk",
        "pool",
        "kubernetes.io/arch",
        "gpu",
        names::HOSTNAME_LABEL,
    ];
    const VALUES: [&str; 4] = ["a", "b", "3", "5"];

    fn value() -> impl Strategy<Value = String> {
        prop::sample::select(&VALUES[..]).prop_map(str::to_owned)
    }

    fn key() -> impl Strategy<Value = String> {
        prop::sample::select(&KEYS[..]).prop_map(str::to_owned)
    }

    fn requirement() -> impl Strategy<Value = NodeSelectorRequirement> {
        let one = prop::collection::vec(value(), 1);
        prop_oneof![
            (
                key(),
                prop::sample::select(&["In", "NotIn"][..]),
                prop::collection::vec(value(), 1..3)
            ),
            (key(), prop::sample::select(&["Gt", "Lt"][..]), one),
            (
                key(),
                prop::sample::select(&["Exists", "DoesNotExist"][..]),
                Just(Vec::new())
            ),
        ]
        .prop_map(|(key, operator, values)| NodeSelectorRequirement {
            key,
            operator: operator.to_owned(),
            values: (!values.is_empty()).then_some(values),
        })
    }

    fn term() -> impl Strategy<Value = NodeSelectorTerm> {
        prop::collection::vec(requirement(), 0..3).prop_map(|expressions| NodeSelectorTerm {
            match_expressions: (!expressions.is_empty()).then_some(expressions),
            match_fields: None,
        })
    }

    fn wishes() -> impl Strategy<Value = Wishes> {
        let selector = prop::collection::btree_map(key(), value(), 0..2);
        let terms = prop::option::of(prop::collection::vec(term(), 1..4));
        (selector, terms).prop_map(|(node_selector, terms)| {
            let required = terms.map(|node_selector_terms| NodeSelector { node_selector_terms });
            let node_affinity = NodeAffinity {
                required_during_scheduling_ignored_during_execution: required,
                ..NodeAffinity::default()
            };
            Wishes {
                node_selector,
                affinity: Some(Affinity {
                    node_affinity: Some(node_affinity),
                    ..Affinity::default()
                }),
                ..Wishes::default()
            }
        })
    }

    proptest! {
        /// Whatever a pod asks for: the VM may go to a host if and only if the pod fits the Node that it would have there.
        #[test]
        fn a_vm_goes_where_its_pod_fits_its_node(
            wishes in wishes(),
            host in prop::collection::btree_map(key(), value(), 0..6),
        ) {
            let promised: BTreeMap<String, String> = [("pool", "a"), ("kubernetes.io/arch", "b")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
            let allowed = ["disk".to_owned()];
            let of_host = host.clone().into_iter().filter(|(key, _)| is_of_host(key, &allowed));
            let node: BTreeMap<_, _> = promised.clone().into_iter().chain(of_host).collect();
            let affinity = wishes.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
            let own = required_terms(affinity);
            let fits = selects(&wishes.node_selector, own, "marooned-u", &node);
            // What a pod avoids by a host's name is for the host: the Node has none.
            let named = |term: &NodeSelectorTerm| {
                term.match_expressions.iter().flatten().any(|r| r.key == names::HOSTNAME_LABEL)
            };
            prop_assume!(!own.into_iter().flatten().any(named));
            let goes = match carry(&wishes, &[], &promised, &allowed) {
                Err(_) => false,
                Ok(carried) => {
                    selects(&BTreeMap::new(), required_terms(carried.as_ref()), "host-1", &host)
                }
            };
            prop_assert_eq!(goes, fits);
        }
    }
}
