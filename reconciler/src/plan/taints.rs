//! What keeps a pod from its ready Node, or would evict it from there: taints that others put on it.

use k8s_openapi::api::core::v1::{Taint, Toleration};
use maroonedpods_common::names;

use super::Context;
use crate::binding::tolerations;
use crate::objects::node;
use crate::view::{NodeView, PodView};

/// The taints that must go before the pod may come, as people write them.
///
/// The node controller takes its own off only seconds after the node became ready. A toleration for some seconds does
/// not help against one that evicts: the pod would be told to go by its own Node.
pub(super) fn in_the_way(c: &Context, pod: &PodView, node: &NodeView) -> Vec<String> {
    let ours = node::lasting_taints(&c.record);
    let is_ours = |taint: &&Taint| {
        taint.key == names::STARTUP_TAINT
            || ours
                .iter()
                .any(|own| (&own.key, &own.effect) == (&taint.key, &taint.effect))
    };
    let others = node.taints.iter().filter(|taint| !is_ours(taint));
    let in_the_way = others.filter(|taint| keeps_off(taint, &pod.tolerations));
    in_the_way
        .map(|taint| format!("{}:{}", taint.key, taint.effect))
        .collect()
}

/// By the first toleration that matches, as the taint manager does.
fn keeps_off(taint: &Taint, tolerations: &[Toleration]) -> bool {
    // An operator of a later Kubernetes is for its scheduler to evaluate.
    let covers = |toleration: &&Toleration| tolerations::covers(toleration, taint) != Some(false);
    let tolerated = tolerations.iter().find(covers);
    match taint.effect.as_str() {
        "NoSchedule" => tolerated.is_none(),
        "NoExecute" => tolerated.is_none_or(|toleration| toleration.toleration_seconds.is_some()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn kept_off(effect: &str, tolerations: Value) -> bool {
        let taint = json!({"key": "k", "value": "v", "effect": effect});
        keeps_off(
            &serde_json::from_value(taint).unwrap(),
            &serde_json::from_value::<Vec<_>>(tolerations).unwrap(),
        )
    }

    #[test]
    fn tolerations_are_read_as_kubernetes_reads_them() {
        for (tolerations, expected) in [
            (json!([]), true),
            (json!([{"operator": "Exists"}]), false),
            (json!([{"key": "k", "operator": "Exists"}]), false),
            (json!([{"key": "other", "operator": "Exists"}]), true),
            (json!([{"key": "k", "value": "v"}]), false),
            (json!([{"key": "k", "operator": "Equal", "value": "w"}]), true),
            (
                json!([{"key": "k", "operator": "Exists", "effect": "PreferNoSchedule"}]),
                true,
            ),
        ] {
            for effect in ["NoSchedule", "NoExecute"] {
                assert_eq!(
                    kept_off(effect, tolerations.clone()),
                    expected,
                    "{effect} {tolerations}"
                );
            }
            assert!(!kept_off("PreferNoSchedule", tolerations));
        }
    }

    #[test]
    fn a_toleration_for_some_seconds_does_not_last() {
        let brief =
            json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let lasting = json!({"operator": "Exists"});
        assert!(kept_off("NoExecute", json!([brief])));
        assert!(
            kept_off("NoExecute", json!([brief, lasting])),
            "the first that matches counts"
        );
        assert!(!kept_off("NoExecute", json!([lasting, brief])));
        assert!(!kept_off("NoSchedule", json!([brief, lasting])));
    }
}
