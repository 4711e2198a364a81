//! Which NetworkPolicies select a pod. Whoever enforces them sees the launcher's labels where the pod's packets pass, so
//! on a marooned pod none is enforced.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{Selector, SelectorExt};

use crate::read::{Cache, Keep, Mark, View};
use crate::view::PodView;

/// Bytes of a selector that is kept.
const LONGEST_SELECTOR: usize = 4 << 10;

/// Which pods a policy is for: all that is ever looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The pods that it selects; `None` where that cannot be read, or is too long to be kept.
    selector: Option<Selector>,
}

impl View for PolicyView {
    const KIND: &'static str = "networkpolicies";
    const KEEP: Keep = Keep::Fields(&[
        (
            "metadata",
            Keep::Fields(&[("namespace", Keep::All), ("name", Keep::All)]),
        ),
        ("spec", Keep::Fields(&[("podSelector", Keep::All)])),
    ]);
    type Object = NetworkPolicy;

    fn read(policy: NetworkPolicy) -> Option<Self> {
        let selector = policy.spec.and_then(|spec| spec.pod_selector).unwrap_or_default();
        Some(Self {
            namespace: policy.metadata.namespace?,
            name: policy.metadata.name?,
            selector: Selector::try_from(selector)
                .ok()
                .filter(|selector| selector.to_string().len() <= LONGEST_SELECTOR),
        })
    }

    fn marks(&self) -> Vec<Mark> {
        vec![Mark::Namespace(self.namespace.clone())]
    }
}

impl PolicyView {
    /// Whether it is for this pod of its namespace. Where that cannot be told it is: people rely on it.
    fn selects(&self, pod: &PodView) -> bool {
        match (&self.selector, &pod.labels) {
            (Some(selector), Some(labels)) => selector.matches(labels),
            _ => true,
        }
    }
}

/// The names of the policies that select the pod, in order.
#[must_use]
pub fn selecting(pod: &PodView, policies: &Cache<PolicyView>) -> Vec<String> {
    let neighbours = policies.marked(&Mark::Namespace(pod.namespace.clone()));
    let mut names: Vec<_> = neighbours
        .iter()
        .filter(|policy| policy.selects(pod))
        .map(|policy| policy.name.clone())
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{Identity, view_of};
    use serde_json::{Value, json};

    fn policy(namespace: &str, name: &str, selector: &Value) -> PolicyView {
        view_of(
            &json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"podSelector": selector}}),
        )
        .unwrap()
    }

    fn pod(labels: &Value) -> PodView {
        view_of(&json!({"metadata": {"namespace": "here", "name": "p", "uid": "u", "labels": labels}, "spec": {}}))
            .unwrap()
    }

    fn requires(operator: &str, values: &Value) -> Value {
        json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]})
    }

    #[test]
    fn selectors_mean_what_kubernetes_says() {
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
            assert_eq!(policy("n", "p", &selector).selects(&shop), expected, "{selector}");
        }
        let unlabelled = pod(&json!({}));
        assert!(policy("n", "p", &requires("NotIn", &json!(["web"]))).selects(&unlabelled));
        assert!(!policy("n", "p", &requires("In", &json!(["web"]))).selects(&unlabelled));
    }

    #[test]
    fn what_is_too_long_to_keep_counts_as_selecting() {
        let many: serde_json::Map<_, _> = (0..10_000).map(|n| (format!("k{n}"), json!("v"))).collect();
        let huge = policy("here", "p", &json!({"matchLabels": many}));
        assert!(huge.selector.is_none() && huge.selects(&pod(&json!({}))));
        let labelled = pod(&Value::Object(many));
        assert!(labelled.labels.is_none());
        assert!(policy("here", "p", &json!({"matchLabels": {"app": "other"}})).selects(&labelled));
    }

    #[test]
    fn a_policy_is_for_its_own_namespace() {
        let policies = Cache::default();
        for (namespace, name) in [("here", "b"), ("here", "a"), ("there", "c")] {
            let identity = Identity {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                ..Identity::default()
            };
            policies.apply(&identity, policy(namespace, name, &json!({})));
        }
        assert_eq!(selecting(&pod(&json!({})), &policies), ["a", "b"]);
    }
}
