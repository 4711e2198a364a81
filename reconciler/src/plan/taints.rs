//! What keeps a pod from its ready Node, or would evict it from there: taints that others put on it.

use k8s_openapi::api::core::v1::{Taint, Toleration};
use maroonedpods_common::names;

use super::Context;
use crate::node;
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
    let tolerated = tolerations.iter().find(|toleration| tolerates(toleration, taint));
    match taint.effect.as_str() {
        "NoSchedule" => tolerated.is_none(),
        "NoExecute" => tolerated.is_none_or(|toleration| toleration.toleration_seconds.is_some()),
        _ => false,
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let any_or = |wanted: &Option<String>, found: &str| {
        wanted
            .as_deref()
            .is_none_or(|wanted| wanted.is_empty() || wanted == found)
    };
    let fits = match toleration.operator.as_deref() {
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        // "Exists", or one that compares numbers: whether that holds is the scheduler's to say.
        Some(_) => true,
    };
    any_or(&toleration.effect, &taint.effect) && any_or(&toleration.key, &taint.key) && fits
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
