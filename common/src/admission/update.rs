//! Which of the webhook's and the reconciler's additions an update would take from a pod.
//!
//! `spec.tolerations` is one value to `kubectl apply` and to server-side apply, and so is `spec.nodeSelector` to the
//! latter: a manifest that is applied again contains what its author wrote, without what was added. `spec.schedulerName` is
//! in manifests that were exported, and never changes. The API server refuses to remove or change any of them in a pod,
//! hence refuses the whole request. `DefaultTolerationSeconds` adds its own tolerations back at each update, and so does
//! the webhook.

use super::{LOST_NODE_TAINTS, Toleration, is_default_scheduler};
use crate::names::{CLASS_TAINT, IDENTITY_TAINT_SUFFIX, SCHEDULER_NAME, UNREACHABLE_TOLERATION_SECONDS};

/// What the rule looks at in a pod before and after an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement<'a> {
    /// The pod's UID.
    pub uid: &'a str,
    /// Value of [`crate::names::CLASS_LABEL`] in the node selector.
    pub class_selector: Option<&'a str>,
    /// Value of [`crate::names::IDENTITY_LABEL`] in the node selector.
    pub identity_selector: Option<&'a str>,
    /// `spec.schedulerName`, empty where the pod names none.
    pub scheduler_name: &'a str,
    /// All tolerations.
    pub tolerations: Vec<Toleration<'a>>,
}

/// What an update lacks and the stored pod has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost<'a> {
    /// Value of [`crate::names::CLASS_LABEL`] to select again.
    pub class_selector: Option<&'a str>,
    /// Value of [`crate::names::IDENTITY_LABEL`] to select again.
    pub identity_selector: Option<&'a str>,
    /// [`SCHEDULER_NAME`], to write in place of the default one.
    pub scheduler_name: Option<&'a str>,
    /// Tolerations to append again, in the order in which the stored pod has them.
    pub tolerations: Vec<Toleration<'a>>,
}

impl Lost<'_> {
    /// Whether the update lacks nothing of ours.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The additions of ours that `old` has and `new` lacks. What an update changes to another value, the chart's guards
/// refuse.
#[must_use]
pub fn lost<'a>(old: &Placement<'a>, new: &Placement<'_>) -> Lost<'a> {
    let has = |ours: &Toleration<'_>| {
        // The API server lets the seconds change.
        let is_ours = |theirs: &Toleration<'_>| {
            let toleration_seconds = theirs.toleration_seconds;
            theirs.explicit()
                == Toleration {
                    toleration_seconds,
                    ..ours.explicit()
                }
        };
        new.tolerations.iter().any(is_ours)
    };
    let ours = old
        .tolerations
        .iter()
        .filter(|toleration| is_ours(toleration, old.uid));
    Lost {
        class_selector: old.class_selector.filter(|_| new.class_selector.is_none()),
        identity_selector: old.identity_selector.filter(|_| new.identity_selector.is_none()),
        scheduler_name: (old.scheduler_name == SCHEDULER_NAME && is_default_scheduler(new.scheduler_name))
            .then_some(old.scheduler_name),
        tolerations: ours.filter(|ours| !has(ours)).copied().collect(),
    }
}

/// Whether the webhook or the reconciler added this toleration, or would have.
fn is_ours(toleration: &Toleration<'_>, uid: &str) -> bool {
    let class = toleration.key == CLASS_TAINT;
    let identity =
        toleration.key.ends_with(IDENTITY_TAINT_SUFFIX) && !uid.is_empty() && toleration.value == uid;
    let lost_node = LOST_NODE_TAINTS.contains(&toleration.key)
        && toleration.toleration_seconds == Some(UNREACHABLE_TOLERATION_SECONDS);
    class || identity || lost_node
}

#[cfg(test)]
mod tests {
    use super::super::{class_toleration, lost_node_toleration};
    use super::*;
    use crate::names::TAINT_EFFECTS;

    const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

    fn toleration<'a>(key: &'a str, value: &'a str) -> Toleration<'a> {
        Toleration {
            key,
            operator: "Equal",
            value,
            effect: "NoSchedule",
            toleration_seconds: None,
        }
    }

    fn lifted() -> Placement<'static> {
        let mut tolerations = vec![toleration("team", "blue")];
        tolerations.extend(TAINT_EFFECTS.map(class_toleration));
        tolerations.extend(LOST_NODE_TAINTS.map(lost_node_toleration));
        tolerations.push(toleration("corp.test/dedicated", UID));
        Placement {
            uid: UID,
            class_selector: Some("true"),
            identity_selector: Some(UID),
            scheduler_name: SCHEDULER_NAME,
            tolerations,
        }
    }

    #[test]
    fn what_the_author_never_wrote_is_found_missing() {
        let old = lifted();
        let manifest = Placement {
            uid: UID,
            tolerations: vec![toleration("team", "blue")],
            ..Placement::default()
        };
        let found = lost(&old, &manifest);
        assert!(!found.is_empty());
        assert_eq!(
            (found.class_selector, found.identity_selector),
            (Some("true"), Some(UID))
        );
        assert_eq!(found.scheduler_name, Some(SCHEDULER_NAME));
        assert_eq!(found.tolerations, old.tolerations[1..]);
    }

    #[test]
    fn an_update_that_keeps_all_gets_nothing() {
        let mut new = lifted();
        new.tolerations.push(toleration("new", ""));
        assert!(lost(&lifted(), &new).is_empty());
        // An operator that is left out, and other seconds, are the same toleration to the API server.
        new.tolerations[1].operator = "";
        new.tolerations[3].toleration_seconds = Some(7);
        assert!(lost(&lifted(), &new).is_empty());
    }

    #[test]
    fn a_scheduler_of_ours_replaces_the_default_one_alone() {
        let named = |scheduler_name| Placement {
            scheduler_name,
            ..lifted()
        };
        let restored = |old, new| lost(&named(old), &named(new)).scheduler_name;
        for default in ["", "default-scheduler"] {
            assert_eq!(restored(SCHEDULER_NAME, default), Some("maroonedpods"));
            assert_eq!(restored(default, SCHEDULER_NAME), None);
            assert_eq!(restored("another", default), None);
        }
        assert_eq!(restored(SCHEDULER_NAME, "another"), None);
    }

    #[test]
    fn nothing_of_others_is_put_back() {
        let mut old = Placement {
            uid: UID,
            tolerations: vec![
                toleration("team", "blue"),
                toleration("corp.test/dedicated", "another"),
                Toleration {
                    toleration_seconds: Some(300),
                    ..lost_node_toleration(LOST_NODE_TAINTS[0])
                },
            ],
            ..Placement::default()
        };
        assert!(lost(&old, &Placement::default()).is_empty());
        // Without a UID it is not a stored pod.
        old.uid = "";
        old.tolerations.push(toleration("corp.test/dedicated", ""));
        assert!(lost(&old, &Placement::default()).is_empty());
    }

    #[test]
    fn another_value_is_left_to_the_guards() {
        let new = Placement {
            class_selector: Some("false"),
            identity_selector: Some("another"),
            scheduler_name: "another",
            ..lifted()
        };
        assert!(lost(&lifted(), &new).is_empty());
    }
}
