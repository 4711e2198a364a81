//! `DaemonSets` that put a pod on every marooned node: each such pod stays Pending for ever, because only the one
//! marooned pod may run there, and it counts as unavailable in its `DaemonSet`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration};
use kube::core::ResourceExt;
use maroonedpods_common::api::Architecture;
use maroonedpods_common::{PodUid, names};
use serde_json::json;

use crate::binding;
use crate::objects::node;
use crate::read::{Keep, Kind, View};

/// The parts of a `DaemonSet` that decide where its pods run.
impl View for DaemonSet {
    const KIND: Kind = Kind::DaemonSets;
    const KEEP: Keep = Keep::Fields(&[
        (
            "metadata",
            Keep::Fields(&[("namespace", Keep::All), ("name", Keep::All)]),
        ),
        (
            "spec",
            Keep::Fields(&[(
                "template",
                Keep::Fields(&[(
                    "spec",
                    Keep::But(&[("containers", None), ("initContainers", None), ("volumes", None)]),
                )]),
            )]),
        ),
    ]);
    type Object = Self;

    fn read(set: Self) -> Option<Self> {
        Some(set)
    }
}

/// A `DaemonSet` that would put pods on marooned nodes, and the command that prevents that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Follower {
    /// `<namespace>/<name>`.
    pub name: String,
    /// The command that keeps it off marooned nodes.
    pub remedy: String,
}

/// The `DaemonSets` that would put pods on marooned nodes, which have `promised` besides the labels that all of them have.
pub(super) fn followers(
    daemon_sets: &[DaemonSet],
    architecture: Architecture,
    promised: &BTreeMap<String, String>,
) -> Vec<Follower> {
    let any = PodUid::from("");
    let promised = promised.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let labels = node::own_labels(&any, architecture).into_iter().chain(promised);
    let labels: BTreeMap<_, _> = labels.collect();
    let follows = |set: &&DaemonSet| {
        set.spec
            .as_ref()
            .and_then(|s| s.template.spec.as_ref())
            .is_some_and(|pod| follows(pod, &labels))
    };
    daemon_sets.iter().filter(follows).map(follower).collect()
}

fn follower(set: &DaemonSet) -> Follower {
    let namespace = set.namespace().unwrap_or_default();
    let name = set.name_any();
    let terms: Vec<_> = match required_terms(set.spec.as_ref().and_then(|s| s.template.spec.as_ref())) {
        [] => vec![excluding_marooned_nodes(&NodeSelectorTerm::default())],
        terms => terms.iter().map(excluding_marooned_nodes).collect(),
    };
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": terms}}});
    let patch = json!({"spec": {"template": {"spec": {"affinity": affinity}}}});
    Follower {
        remedy: format!("kubectl -n {namespace} patch daemonset {name} --type merge -p '{patch}'"),
        name: format!("{namespace}/{name}"),
    }
}

/// The term, and additionally: not on a marooned node.
fn excluding_marooned_nodes(term: &NodeSelectorTerm) -> NodeSelectorTerm {
    let mut term = term.clone();
    term.match_expressions
        .get_or_insert_default()
        .push(NodeSelectorRequirement {
            key: names::CLASS_LABEL.to_owned(),
            operator: "DoesNotExist".to_owned(),
            values: None,
        });
    term
}

/// Decides as the `DaemonSet` controller does: the pod tolerates every taint whose effect keeps pods off, and its
/// selector and required affinity match.
fn follows(pod: &PodSpec, labels: &BTreeMap<&str, &str>) -> bool {
    let selected = pod
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key.as_str()) == Some(&value.as_str()));
    let terms = required_terms(Some(pod));
    let tolerates = |effect: &str| pod.tolerations.iter().flatten().any(|t| tolerates_all(t, effect));
    names::TAINT_EFFECTS.iter().all(|effect| tolerates(effect))
        && selected
        && (terms.is_empty() || terms.iter().any(|term| matches(term, labels)))
}

/// The identity taint's value differs for each pod, so only a toleration of all taints tolerates it.
fn tolerates_all(toleration: &Toleration, effect: &str) -> bool {
    toleration.operator.as_deref() == Some("Exists")
        && toleration.key.as_deref().unwrap_or_default().is_empty()
        && toleration
            .effect
            .as_deref()
            .is_none_or(|e| e.is_empty() || e == effect)
}

fn required_terms(pod: Option<&PodSpec>) -> &[NodeSelectorTerm] {
    let affinity = pod.and_then(|pod| pod.affinity.as_ref());
    binding::required_terms(affinity.and_then(|affinity| affinity.node_affinity.as_ref())).unwrap_or_default()
}

/// An empty term matches nothing. The one field is a node's name, and no DaemonSet can name a marooned node before it exists.
fn matches(term: &NodeSelectorTerm, labels: &BTreeMap<&str, &str>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let holds = |e: &NodeSelectorRequirement| binding::holds(e, labels.get(e.key.as_str()).copied());
    let unknown_name = |e: &NodeSelectorRequirement| binding::holds(e, Some(""));
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(holds)
        && fields.iter().all(unknown_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn set(pod: Value) -> DaemonSet {
        let mut pod = pod;
        pod["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "agent"},
            "spec": {"selector": {}, "template": {"spec": pod}}}))
        .unwrap()
    }

    fn terms(terms: &Value) -> Value {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
    }

    fn found(pod: &Value) -> Vec<Follower> {
        let promised = [("team".to_owned(), "blue".to_owned())].into();
        followers(&[set(pod.clone())], Architecture::Amd64, &promised)
    }

    #[test]
    fn daemon_sets_follow_that_tolerate_everything_and_match() {
        let all = json!([{"operator": "Exists"}]);
        let following = [
            json!({"tolerations": all}),
            json!({"tolerations": [{"operator": "Exists", "effect": "NoSchedule"},
                {"operator": "Exists", "effect": "NoExecute"}]}),
            json!({"tolerations": all, "nodeSelector": {"kubernetes.io/os": "linux"}}),
            json!({"tolerations": all, "nodeSelector": {"beta.kubernetes.io/arch": "amd64"}}),
            json!({"tolerations": all, "affinity": terms(&json!([{"matchExpressions":
                [{"key": "type", "operator": "NotIn", "values": ["virtual"]}]}]))}),
            json!({"tolerations": all, "nodeSelector": {"team": "blue"}}),
            json!({"tolerations": all, "affinity": terms(&json!([{"matchFields":
                [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}]}]))}),
        ];
        for pod in following {
            assert_eq!(found(&pod).len(), 1, "{pod}");
        }
        let others = [
            json!({}),
            json!({"tolerations": [{"operator": "Exists", "effect": "NoSchedule"}]}),
            json!({"tolerations": [{"key": names::CLASS_TAINT, "operator": "Exists"}]}),
            json!({"tolerations": all, "nodeSelector": {"node-role.kubernetes.io/control-plane": ""}}),
            json!({"tolerations": all, "affinity": terms(&json!([{"matchExpressions":
                [{"key": names::CLASS_LABEL, "operator": "DoesNotExist"}]}]))}),
            json!({"tolerations": all, "nodeSelector": {"team": "red"}}),
            json!({"tolerations": all, "affinity": terms(&json!([{}]))}),
            json!({"tolerations": all, "affinity": terms(&json!([{"matchFields":
                [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]))}),
        ];
        for pod in others {
            assert_eq!(found(&pod), [], "{pod}");
        }
    }

    #[test]
    fn the_remedy_works_and_keeps_the_required_affinity() {
        let asked = json!([{"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In",
            "values": ["amd64"]}]}]);
        for affinity in [json!({}), terms(&asked)] {
            let pod = json!({"tolerations": [{"operator": "Exists"}], "affinity": affinity});
            let follower = found(&pod).remove(0);
            assert_eq!(follower.name, "ns/agent");
            let patch = follower.remedy.split('\'').nth(1).unwrap();
            let patch: Value = serde_json::from_str(patch).unwrap();
            let mut patched = pod;
            patched["affinity"] = patch["spec"]["template"]["spec"]["affinity"].clone();
            assert_eq!(found(&patched), [], "{patched}");
            assert_eq!(
                patched.to_string().contains("kubernetes.io/arch"),
                affinity != json!({})
            );
        }
    }
}
