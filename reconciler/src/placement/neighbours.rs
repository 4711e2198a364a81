//! Affinity to other pods and spread, translated for the launcher pod of a VM.
//!
//! Pods that are marooned run on hosts as launcher pods, all in one namespace. A launcher has its pod's namespace and labels
//! in an encoded form ([`labels`]), so a term about pods becomes a term about launchers. Ordinary pods stay what they
//! are: a term that keeps pods apart is said of both. One that brings pods together cannot say "either": it is said of
//! launchers if the pod itself matches it (replicas that want to be together), else of pods as they are, whose Nodes have
//! the zone of their host. Spread counts launchers only.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PodAffinity, PodAffinityTerm, PodAntiAffinity, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::{Selector, SelectorExt};
use maroonedpods_common::{names, text};

use super::{Wishes, hosts};
use crate::fingerprint::fingerprint;
use crate::view::topology;

/// Prefix of the labels that stand for a pod's own on its VM.
const ENCODED_PREFIX: &str = "pod-label.maroonedpods.io";
/// Weight of the preference for another host, and for another zone, than the VMs of the same controller have.
const REPLICA_WEIGHT: i32 = 50;

/// The pod that is judged.
pub(super) struct Me<'a> {
    pub(super) namespace: &'a str,
    /// `None` if there are too many to keep.
    pub(super) labels: Option<&'a BTreeMap<String, String>>,
    /// Labels of hosts that pods may choose by.
    pub(super) host_labels: &'a [String],
}

/// The labels of the pod's VM. None is the pod's own: KubeVirt gives a VM's labels a meaning, as does our webhook.
pub(super) fn labels(me: &Me<'_>, owner: Option<&str>) -> BTreeMap<String, String> {
    let own = me.labels.into_iter().flatten();
    own.map(|(key, value)| (encoded(key), value.clone()))
        .chain([(names::POD_NAMESPACE_LABEL.to_owned(), me.namespace.to_owned())])
        .chain(owner.map(|owner| (names::OWNER_LABEL.to_owned(), owned_by(me, owner))))
        .collect()
}

/// Required and preferred affinity to other pods.
///
/// # Errors
/// A required term that cannot be said of the VM.
pub(super) fn together(wishes: &Wishes, me: &Me<'_>) -> Result<PodAffinity, String> {
    let own = wishes.affinity.as_ref().and_then(|a| a.pod_affinity.as_ref());
    let mut translated = PodAffinity::default();
    let required = own.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let required: Vec<_> = required.into_iter().flatten().collect();
    // One pod must match all terms. So they are all about VMs, or all about pods as they are.
    let mut itself = true;
    for term in &required {
        check_key(&term.topology_key, me, "pod affinity")?;
        itself &= matches_itself(term, me)?;
    }
    for term in required {
        let aimed = if itself {
            launchers(term, me).ok_or_else(|| by_namespace_labels("pod affinity"))?
        } else {
            as_they_are(term, me)
        };
        let terms = &mut translated.required_during_scheduling_ignored_during_execution;
        terms.get_or_insert_default().push(aimed);
    }
    let preferred = own.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    translated.preferred_during_scheduling_ignored_during_execution = weighted(preferred, me);
    Ok(translated)
}

/// Required and preferred anti-affinity to other pods.
///
/// # Errors
/// A required term that cannot be said of the VM.
pub(super) fn apart(wishes: &Wishes, me: &Me<'_>) -> Result<PodAntiAffinity, String> {
    let own = wishes
        .affinity
        .as_ref()
        .and_then(|a| a.pod_anti_affinity.as_ref());
    let mut translated = PodAntiAffinity::default();
    let required = own.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    for term in required.into_iter().flatten() {
        check_key(&term.topology_key, me, "pod anti-affinity")?;
        check_labels(me, "pod anti-affinity")?;
        // It matches no pod.
        if term.label_selector.is_none() {
            continue;
        }
        let launchers = launchers(term, me).ok_or_else(|| by_namespace_labels("pod anti-affinity"))?;
        let terms = &mut translated.required_during_scheduling_ignored_during_execution;
        terms
            .get_or_insert_default()
            .extend([launchers, ordinary(term, me)]);
    }
    let preferred = own.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    translated.preferred_during_scheduling_ignored_during_execution = weighted(preferred, me);
    Ok(translated)
}

/// Spread constraints, over launchers.
///
/// # Errors
/// A constraint that must be met and cannot be said of the VM.
pub(super) fn spread(wishes: &Wishes, me: &Me<'_>) -> Result<Vec<TopologySpreadConstraint>, String> {
    let mut translated = Vec::new();
    for constraint in &wishes.spread {
        let checked = check_key(&constraint.topology_key, me, "topology spread")
            .and_then(|()| check_labels(me, "topology spread"));
        match checked {
            Err(why) if constraint.when_unsatisfiable == "DoNotSchedule" => return Err(why),
            Err(_) => continue,
            Ok(()) => {}
        }
        // Without a selector it counts no pod.
        let Some(mut selector) = constraint.label_selector.clone() else {
            continue;
        };
        // API servers before 1.34 leave it to the scheduler to merge these.
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = me.labels.and_then(|labels| labels.get(key)) {
                let requirement = requirement(key.clone(), "In", vec![value.clone()]);
                let requirements = selector.match_expressions.get_or_insert_default();
                if !requirements.contains(&requirement) {
                    requirements.push(requirement);
                }
            }
        }
        translated.push(TopologySpreadConstraint {
            label_selector: Some(within(
                encoded_selector(&selector),
                Some(vec![me.namespace.to_owned()]),
            )),
            match_label_keys: None,
            ..constraint.clone()
        });
    }
    Ok(translated)
}

/// Preferences about other pods that cannot be said of the VM, or not of VMs, by their topology keys.
pub(super) fn ignored(wishes: &Wishes, me: &Me<'_>) -> Vec<String> {
    let affinity = wishes.affinity.as_ref();
    let together = affinity.and_then(|a| a.pod_affinity.as_ref());
    let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    let together = together.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let apart = apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let terms = [("pod affinity", together), ("pod anti-affinity", apart)]
        .into_iter()
        .flat_map(|(kind, terms)| terms.into_iter().flatten().map(move |term| (kind, term)))
        .map(|(kind, weighted)| (kind, &weighted.pod_affinity_term))
        .filter(|(_, term)| term.label_selector.is_some())
        .filter_map(|(kind, term)| {
            let key = text::value(&term.topology_key);
            if !places(&term.topology_key, me) {
                return Some(format!("{kind} over {key}"));
            }
            let said = launchers(term, me).is_some();
            (!said).then(|| format!("{kind} to marooned pods, with a namespaceSelector, over {key}"))
        });
    let spread = wishes
        .spread
        .iter()
        .filter(|constraint| !places(&constraint.topology_key, me))
        .map(|constraint| format!("topology spread over {}", text::value(&constraint.topology_key)));
    terms.chain(spread).collect()
}

/// Whether the pod says anything about other pods.
pub(super) fn are_meant(wishes: &Wishes) -> bool {
    let affinity = wishes.affinity.as_ref();
    !wishes.spread.is_empty()
        || affinity.is_some_and(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some())
}

/// Keys of the labels over which the pod requires to be near, apart or spread. A scheduler that places the pod itself
/// looks for them on the pod's Node.
pub(super) fn required_keys(wishes: &Wishes) -> impl Iterator<Item = &str> {
    let affinity = wishes.affinity.as_ref();
    let together = affinity.and_then(|a| a.pod_affinity.as_ref());
    let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    let terms = [
        together.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
        apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let spread = wishes
        .spread
        .iter()
        .filter(|s| s.when_unsatisfiable == "DoNotSchedule");
    let of_terms = terms
        .into_iter()
        .flatten()
        .flatten()
        .map(|term| term.topology_key.as_str());
    of_terms.chain(spread.map(|constraint| constraint.topology_key.as_str()))
}

/// Prefers other hosts and zones than the VMs of the same controller have.
pub(super) fn spread_replicas(apart: &mut PodAntiAffinity, me: &Me<'_>, owner: &str) {
    let preference = |topology_key: &str| WeightedPodAffinityTerm {
        weight: REPLICA_WEIGHT,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(LabelSelector {
                match_labels: Some([(names::OWNER_LABEL.to_owned(), owned_by(me, owner))].into()),
                match_expressions: None,
            }),
            topology_key: topology_key.to_owned(),
            ..PodAffinityTerm::default()
        },
    };
    apart
        .preferred_during_scheduling_ignored_during_execution
        .get_or_insert_default()
        .extend([preference(names::HOSTNAME_LABEL), preference(topology::ZONE)]);
}

/// Those preferences that can be said of the VM: about launchers, and about ordinary pods.
fn weighted(
    preferred: Option<&Vec<WeightedPodAffinityTerm>>,
    me: &Me<'_>,
) -> Option<Vec<WeightedPodAffinityTerm>> {
    let possible = preferred
        .into_iter()
        .flatten()
        .filter(|preferred| preferred.pod_affinity_term.label_selector.is_some())
        .filter(|preferred| places(&preferred.pod_affinity_term.topology_key, me));
    let aimed: Vec<_> = possible
        .flat_map(|preferred| {
            let term = &preferred.pod_affinity_term;
            let aims = [launchers(term, me), Some(ordinary(term, me))];
            aims.into_iter().flatten().map(|aimed| WeightedPodAffinityTerm {
                weight: preferred.weight,
                pod_affinity_term: aimed,
            })
        })
        .collect();
    (!aimed.is_empty()).then_some(aimed)
}

/// A term with a selector, about the launchers of the pods that it means. `None` if it selects namespaces by their labels,
/// which launchers do not have.
fn launchers(term: &PodAffinityTerm, me: &Me<'_>) -> Option<PodAffinityTerm> {
    let namespaces = namespaces(term, me)?;
    let selector = encoded_selector(term.label_selector.as_ref()?);
    Some(PodAffinityTerm {
        label_selector: Some(within(selector, namespaces)),
        topology_key: term.topology_key.clone(),
        // All launchers are in the launcher's own namespace.
        ..PodAffinityTerm::default()
    })
}

/// The same term, of the pods that it means where the pod itself is.
fn as_they_are(term: &PodAffinityTerm, me: &Me<'_>) -> PodAffinityTerm {
    let says_where =
        term.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || term.namespace_selector.is_some();
    let mut term = PodAffinityTerm {
        // The API server has merged these into the selector, by the labels of the pod.
        match_label_keys: None,
        mismatch_label_keys: None,
        ..term.clone()
    };
    if !says_where {
        term.namespaces = Some(vec![me.namespace.to_owned()]);
    }
    term
}

/// The same term, of ordinary pods only: neither of launchers, nor of marooned pods. A launcher that kept away from marooned
/// pods would keep its own pod off the Node: both are in one zone, and a scheduler heeds the terms of running pods too.
fn ordinary(term: &PodAffinityTerm, me: &Me<'_>) -> PodAffinityTerm {
    let mut term = as_they_are(term, me);
    let marooned = names::MAROON_LABEL.to_owned();
    let not_marooned = requirement(marooned, "NotIn", vec![names::MAROON_TRUE.to_owned()]);
    let no_launcher = requirement(names::POD_NAMESPACE_LABEL.to_owned(), "DoesNotExist", Vec::new());
    let selector = term.label_selector.get_or_insert_default();
    selector
        .match_expressions
        .get_or_insert_default()
        .extend([not_marooned, no_launcher]);
    term
}

/// The namespaces that a term is about: `Some(None)` for all, `None` if they are selected by labels.
#[expect(
    clippy::option_option,
    reason = "all namespaces, and unknown ones, are two things"
)]
fn namespaces(term: &PodAffinityTerm, me: &Me<'_>) -> Option<Option<Vec<String>>> {
    let listed = term.namespaces.clone().unwrap_or_default();
    match &term.namespace_selector {
        None if listed.is_empty() => Some(Some(vec![me.namespace.to_owned()])),
        None => Some(Some(listed)),
        Some(all) if is_empty(all) => Some(None),
        Some(_) => None,
    }
}

/// Whether the pod is one of those that the term is about. Namespaces that are selected by labels count as the pod's own: were
/// it not so, no VM would be the first of them.
fn matches_itself(term: &PodAffinityTerm, me: &Me<'_>) -> Result<bool, String> {
    check_labels(me, "pod affinity")?;
    let Some(selector) = &term.label_selector else {
        return Err(
            "the pod's required pod affinity has no labelSelector, and so matches no pod: add one".to_owned(),
        );
    };
    let here = match namespaces(term, me) {
        Some(Some(listed)) => listed.iter().any(|n| n == me.namespace),
        Some(None) | None => true,
    };
    let selector = Selector::try_from(selector.clone())
        .map_err(|error| format!("the labelSelector of the pod's affinity cannot be read: {error}"))?;
    Ok(here && me.labels.is_some_and(|labels| selector.matches(labels)))
}

/// VMs find one another by the labels of their pods.
fn check_labels(me: &Me<'_>, whose: &str) -> Result<(), String> {
    match me.labels {
        Some(_) => Ok(()),
        None => Err(format!(
            "the pod has a {whose}, and too many labels to be found by: remove some"
        )),
    }
}

/// Whether VMs are placed by a topology key.
fn places(key: &str, me: &Me<'_>) -> bool {
    key == names::HOSTNAME_LABEL || hosts::is_of_host(key, me.host_labels)
}

fn check_key(key: &str, me: &Me<'_>, whose: &str) -> Result<(), String> {
    if places(key, me) {
        return Ok(());
    }
    Err(format!(
        "the pod's {whose} has the topologyKey {:?}, by which VMs are not placed: use another key, or ask the administrator to list \
         this one in placement.hostLabels of the MaroonedPodsConfig, if hosts have that label",
        text::value(key)
    ))
}

fn by_namespace_labels(whose: &str) -> String {
    format!(
        "the pod's required {whose} selects namespaces by their labels, which is not supported for VMs: list the namespaces in \
         `namespaces`, or prefer instead of requiring"
    )
}

/// The label of a VM that stands for a pod's label with this key: hashed, because a key with a prefix does not fit.
fn encoded(key: &str) -> String {
    format!("{ENCODED_PREFIX}/{}", fingerprint(key))
}

/// What the VMs of one controller have in common. Whoever makes a pod writes the UID of its controller: it counts within the
/// namespace only, and need not be fit for a label.
fn owned_by(me: &Me<'_>, owner: &str) -> String {
    fingerprint(&format!("{}/{owner}", me.namespace))
}

fn encoded_selector(selector: &LabelSelector) -> LabelSelector {
    let labels = selector.match_labels.as_ref();
    let expressions = selector.match_expressions.as_ref();
    LabelSelector {
        match_labels: labels.map(|all| {
            all.iter()
                .map(|(key, value)| (encoded(key), value.clone()))
                .collect()
        }),
        match_expressions: expressions.map(|all| {
            let encoded = |e: &LabelSelectorRequirement| LabelSelectorRequirement {
                key: encoded(&e.key),
                ..e.clone()
            };
            all.iter().map(encoded).collect()
        }),
    }
}

/// The selector, of launchers whose pods are in one of these namespaces, or in any.
fn within(mut selector: LabelSelector, namespaces: Option<Vec<String>>) -> LabelSelector {
    let key = names::POD_NAMESPACE_LABEL.to_owned();
    let of_pods = match namespaces {
        Some(namespaces) => requirement(key, "In", namespaces),
        None => requirement(key, "Exists", Vec::new()),
    };
    selector.match_expressions.get_or_insert_default().push(of_pods);
    selector
}

fn requirement(key: String, operator: &str, values: Vec<String>) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key,
        operator: operator.to_owned(),
        values: (!values.is_empty()).then_some(values),
    }
}

fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.iter().flatten().next().is_none()
        && selector.match_expressions.iter().flatten().next().is_none()
}
