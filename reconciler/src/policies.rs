//! Which NetworkPolicies select a pod. Whoever enforces them sees the launcher's labels where the pod's packets pass, so
//! on a marooned pod none is enforced.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{Selector, SelectorExt};
use kube::runtime::reflector::Store;

/// The names of the policies that select the pod, in order.
#[must_use]
pub fn selecting(pod: &Pod, policies: &Store<NetworkPolicy>) -> Vec<String> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let theirs = policies.state_filter(|policy| {
        policy.metadata.namespace == pod.metadata.namespace && selects(policy, &labels)
    });
    let mut names: Vec<_> = theirs
        .iter()
        .filter_map(|policy| policy.metadata.name.clone())
        .collect();
    names.sort_unstable();
    names
}

/// Only which pods a policy is for is ever looked at.
pub fn forget_rules(policy: &mut NetworkPolicy) {
    if let Some(spec) = &mut policy.spec {
        spec.ingress = None;
        spec.egress = None;
    }
}

/// Whether a policy of the pod's own namespace is for a pod with these labels. One whose selector we cannot read counts:
/// people rely on it.
fn selects(policy: &NetworkPolicy, labels: &BTreeMap<String, String>) -> bool {
    let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.clone());
    Selector::try_from(selector.unwrap_or_default()).map_or(true, |selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    fn policy(namespace: &str, name: &str, selector: &Value) -> NetworkPolicy {
        let policy =
            json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"podSelector": selector}});
        serde_json::from_value(policy).unwrap()
    }

    fn requires(operator: &str, values: &Value) -> Value {
        json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]})
    }

    #[test]
    fn selectors_mean_what_kubernetes_says() {
        let labels = BTreeMap::from([
            ("app".to_owned(), "shop".to_owned()),
            ("tier".to_owned(), "web".to_owned()),
        ]);
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
            assert_eq!(
                selects(&policy("n", "p", &selector), &labels),
                expected,
                "{selector}"
            );
        }
        let unlabelled = BTreeMap::new();
        assert!(selects(
            &policy("n", "p", &requires("NotIn", &json!(["web"]))),
            &unlabelled
        ));
        assert!(!selects(
            &policy("n", "p", &requires("In", &json!(["web"]))),
            &unlabelled
        ));
    }

    #[test]
    fn a_policy_is_for_its_own_namespace() {
        let (store, mut writer) = reflector::store();
        for policy in [
            policy("here", "b", &json!({})),
            policy("here", "a", &json!({})),
            policy("there", "c", &json!({})),
        ] {
            writer.apply_watcher_event(&Event::Apply(policy));
        }
        let pod = serde_json::from_value(json!({"metadata": {"namespace": "here", "name": "p"}})).unwrap();
        assert_eq!(selecting(&pod, &store), ["a", "b"]);
    }
}
