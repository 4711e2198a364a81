//! Which NetworkPolicies select a pod. They are not enforced on a marooned pod: where its packets pass, the network
//! plugin sees the launcher pod's labels.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

use crate::read::{Beyond, Bound, Cache, Keep, Kind, Mark, View};
use crate::view::Packed;
use crate::view::PodView;

/// The most bytes of memory for a selector. It is kept unpacked, because each pass of a pod matches all selectors.
const MOST_SELECTOR: usize = 2 << 10;
/// The most memory that a text takes besides its characters, in a map or a small set.
const OF_A_TEXT: usize = 64;
/// How many policies of one namespace are kept one by one.
const MOST_POLICIES: usize = 256;
/// Stands for the names of those beyond [`MOST_POLICIES`]: no policy can have this name, and it comes before all names in
/// the order that users see.
const REST: &str = "(any beyond the first 256)";

/// The pods that a policy selects; nothing else of it is read. A view takes 3 KiB of memory at most, and the policies
/// of one namespace take less than 1 MiB.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyView {
    /// Namespace.
    pub namespace: String,
    /// Name, or [`REST`].
    pub name: String,
    /// The pods that it selects; `None` if the selector cannot be read or is too long to keep.
    selector: Option<Selector>,
}

impl View for PolicyView {
    const KIND: Kind = Kind::NetworkPolicies;
    const KEEP: Keep = Keep::Fields(&[
        (
            "metadata",
            Keep::Fields(&[("namespace", Keep::All), ("name", Keep::All)]),
        ),
        ("spec", Keep::Fields(&[("podSelector", Keep::All)])),
    ]);
    const BOUND: Option<Bound<Self>> = Some(Bound {
        most: MOST_POLICIES,
        counts: |policy| policy.name != REST,
        beyond: |policy| Beyond::Shared(policy.rest()),
    });
    type Object = NetworkPolicy;

    fn read(policy: NetworkPolicy) -> Option<Self> {
        let selector = policy.spec.and_then(|spec| spec.pod_selector).unwrap_or_default();
        let fits = weight(&selector) <= MOST_SELECTOR;
        Some(Self {
            namespace: policy.metadata.namespace?,
            name: policy.metadata.name?,
            selector: fits.then(|| Selector::try_from(selector).ok()).flatten(),
        })
    }

    fn marks(&self) -> Vec<Mark> {
        vec![Mark::Namespace(self.namespace.clone())]
    }
}

impl PolicyView {
    /// The view that stands for the policies of this one's namespace beyond [`MOST_POLICIES`].
    fn rest(&self) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: REST.to_owned(),
            selector: None,
        }
    }

    /// Whether the policy selects a pod of its namespace with these labels. When in doubt it does: users rely on
    /// policies.
    fn selects(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        match (&self.selector, labels) {
            (Some(selector), Some(labels)) => selector.matches(labels),
            _ => true,
        }
    }
}

/// Bytes of memory that a selector takes.
fn weight(selector: &LabelSelector) -> usize {
    let labels = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    let texts = labels.flat_map(|(key, value)| [key, value]);
    let others = expressions.flat_map(|e| [&e.key, &e.operator].into_iter().chain(e.values.iter().flatten()));
    texts.chain(others).map(|text| text.len() + OF_A_TEXT).sum()
}

/// The names of the policies that select the pod, or may do so, sorted.
#[must_use]
pub fn selecting(pod: &PodView, policies: &Cache<PolicyView>) -> Vec<String> {
    let neighbours = policies.marked(&Mark::Namespace(pod.namespace.clone()));
    if neighbours.is_empty() {
        return Vec::new();
    }
    let labels = pod.labels.as_ref().and_then(Packed::unpacked);
    let mut names: Vec<_> = neighbours
        .iter()
        .filter(|policy| policy.selects(labels.as_ref()))
        .map(|policy| policy.name.clone())
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{Draft, Identity, view_of};
    use serde_json::{Value, json};

    fn policy(namespace: &str, name: &str, selector: &Value) -> PolicyView {
        view_of(
            &json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"podSelector": selector}}),
        )
        .unwrap()
    }

    /// Whether a policy with this selector selects the pod.
    fn selects(selector: &Value, pod: &PodView) -> bool {
        let labels = pod.labels.as_ref().and_then(Packed::unpacked);
        policy("here", "p", selector).selects(labels.as_ref())
    }

    fn pod(labels: &Value) -> PodView {
        view_of(&json!({"metadata": {"namespace": "here", "name": "p", "uid": "u", "labels": labels}, "spec": {}}))
            .unwrap()
    }

    fn requires(operator: &str, values: &Value) -> Value {
        json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]})
    }

    #[test]
    fn selectors_match_as_in_kubernetes() {
        let shop = pod(&json!({"app": "shop", "tier": "web"}));
        let cases = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "shop"}}), true),
            (json!({"matchLabels": {"app": "shop", "tier": "db"}}), false),
            (requires("In", &json!(["db", "web"])), true),
            (requires("In", &json!(["db"])), false),
            (requires("NotIn", &json!(["db"])), true),
            (requires("NotIn", &json!(["web"])), false),
            (requires("Exists", &Value::Null), true),
            (requires("DoesNotExist", &Value::Null), false),
            (requires("Resembles", &json!(["web"])), true),
        ];
        for (selector, expected) in cases {
            assert_eq!(selects(&selector, &shop), expected, "{selector}");
        }
        let unlabelled = pod(&json!({}));
        assert!(selects(&requires("NotIn", &json!(["web"])), &unlabelled));
        assert!(!selects(&requires("In", &json!(["web"])), &unlabelled));
    }

    #[test]
    fn a_selector_too_long_to_keep_counts_as_selecting() {
        let many: serde_json::Map<_, _> = (0..10_000).map(|n| (format!("k{n}"), json!("v"))).collect();
        let selector = json!({"matchLabels": many});
        assert!(policy("here", "p", &selector).selector.is_none() && selects(&selector, &pod(&json!({}))));
        let labelled = pod(&Value::Object(many));
        assert!(labelled.labels.is_none());
        assert!(selects(&json!({"matchLabels": {"app": "other"}}), &labelled));
    }

    #[test]
    fn a_selector_of_many_short_pieces_is_counted_with_its_overhead() {
        let short = |number: usize| (0..number).map(|n| format!("{n:x}")).collect::<Vec<_>>();
        let shapes: [fn(Vec<String>) -> Value; 3] = [
            |pieces| json!({"matchExpressions": [{"key": "k", "operator": "In", "values": pieces}]}),
            |pieces| json!({"matchLabels": pieces.into_iter().map(|k| (k, json!(""))).collect::<serde_json::Map<_, _>>()}),
            |pieces| json!({"matchExpressions": pieces.into_iter().map(|key| json!({"key": key, "operator": "In", "values": ["v"]})).collect::<Vec<_>>()}),
        ];
        for shape in shapes {
            assert!(
                policy("n", "p", &shape(short(8))).selector.is_some(),
                "selectors of usual size are kept"
            );
            for number in [32, 100, 1_365, 20_000] {
                assert!(
                    policy("n", "p", &shape(short(number))).selector.is_none(),
                    "{number}"
                );
            }
        }
        let long = json!({"matchLabels": {"app": "x".repeat(MOST_SELECTOR)}});
        assert!(policy("n", "p", &long).selector.is_none());
    }

    fn apply(policies: &Cache<PolicyView>, namespace: &str, name: &str) -> bool {
        let news = policies.apply(
            &identity(namespace, name),
            policy(namespace, name, &requires("In", &json!(["db"]))),
        );
        news.is_some()
    }

    fn identity(namespace: &str, name: &str) -> Identity {
        Identity {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Identity::default()
        }
    }

    #[test]
    fn policies_beyond_the_limit_count_as_selecting() {
        let policies = Cache::default();
        let shop = pod(&json!({"tier": "web"}));
        for n in 0..MOST_POLICIES {
            assert!(
                apply(&policies, "here", &format!("p{n}")) && apply(&policies, "there", &format!("p{n}"))
            );
        }
        assert!(selecting(&shop, &policies).is_empty() && !policies.is_truncated());
        assert!(
            apply(&policies, "here", "one-more"),
            "the pods of the namespace must be enqueued"
        );
        assert_eq!(selecting(&shop, &policies), ["(any beyond the first 256)"]);
        for n in 0..10_000 {
            assert!(!apply(&policies, "here", &format!("more-{n}")), "no news");
        }
        assert!(!apply(&policies, "here", "p7"), "a policy that is kept stays");
        assert_eq!(policies.all().len(), 2 * MOST_POLICIES + 1);
        assert!(policies.remove(&identity("here", "more-7")).is_none());
        assert!(
            policies.is_truncated(),
            "so the rest is unknown until the next list"
        );
    }

    #[test]
    fn a_list_holds_no_more_than_is_kept() {
        let mut listed = Draft::default();
        let names = (0..1_000).map(|n| format!("p{n:04}"));
        listed.add_page(names.map(|name| (identity("here", &name), policy("here", &name, &json!({})))));
        let policies = Cache::default();
        policies.fill(listed, &[identity("here", "p0003")]);
        assert_eq!(policies.all().len(), MOST_POLICIES + 1);
        assert!(policies.is_truncated());
        policies.fill(Draft::default(), &[identity("here", "p0003")]);
        assert!(policies.all().len() == 1 && !policies.is_truncated());
    }

    #[test]
    fn a_policy_is_for_its_own_namespace() {
        let policies = Cache::default();
        for (namespace, name) in [("here", "b"), ("here", "a"), ("there", "c")] {
            let news = policies.apply(&identity(namespace, name), policy(namespace, name, &json!({})));
            assert!(news.is_some());
        }
        assert_eq!(selecting(&pod(&json!({})), &policies), ["a", "b"]);
    }
}
