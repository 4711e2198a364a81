//! What is left of MaroonedPods, and the messages about it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::core::ResourceExt;
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::{names, text};

use crate::read::{Keep, Kind, Unreadable, View};

/// The most objects that a message names.
const NAMED: usize = 50;
/// The most objects that a progress message names.
const NAMED_WAITING: usize = 5;
/// Without progress for this long, a message explains what to check.
const STALLED_AFTER: Duration = Duration::from_secs(15);

/// A marooned pod that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodLeft {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub phase: String,
    pub deleting: bool,
    /// Why it could not be deleted.
    pub kept: Option<String>,
}

impl PodLeft {
    /// `None` for a pod that has ended, or was never marooned whatever its label is: a marooned pod has our gate or
    /// our class selector.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let gated = spec
            .scheduling_gates
            .iter()
            .flatten()
            .any(|g| g.name == names::GATE);
        let selected = spec
            .node_selector
            .as_ref()
            .is_some_and(|selector| selector.contains_key(names::CLASS_LABEL));
        let phase = pod
            .status
            .as_ref()
            .and_then(|s| s.phase.clone())
            .unwrap_or_default();
        let ended = matches!(phase.as_str(), "Succeeded" | "Failed");
        ((gated || selected) && !ended).then(|| Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            phase: if gated {
                "Gated".to_owned()
            } else {
                text::value(&phase).into_owned()
            },
            deleting: pod.metadata.deletion_timestamp.is_some(),
            kept: None,
        })
    }

    /// A pod that cannot be read. It may be a marooned one, so it counts as one.
    pub(super) fn unreadable(unreadable: &Unreadable) -> Self {
        let identity = unreadable.identity.clone().unwrap_or_default();
        Self {
            namespace: identity.namespace,
            name: identity.name,
            uid: identity.uid,
            phase: "cannot be read".to_owned(),
            deleting: false,
            kept: None,
        }
    }

    fn line(&self) -> String {
        let deleting = if self.deleting { ", being deleted" } else { "" };
        let kept = self
            .kept
            .as_ref()
            .map(|why| format!("; cannot be deleted: {why}"));
        let kept = kept.unwrap_or_default();
        format!(
            "  {}/{} ({}{deleting}){kept}",
            self.namespace, self.name, self.phase
        )
    }
}

impl View for PodLeft {
    const KIND: Kind = Kind::Pods;
    const KEEP: Keep = Keep::Fields(&[
        (
            "metadata",
            Keep::Fields(&[
                ("namespace", Keep::All),
                ("name", Keep::All),
                ("uid", Keep::All),
                ("deletionTimestamp", Keep::Deadline),
            ]),
        ),
        (
            "spec",
            Keep::Fields(&[("schedulingGates", Keep::All), ("nodeSelector", Keep::All)]),
        ),
        ("status", Keep::Fields(&[("phase", Keep::All)])),
    ]);
    type Object = Pod;

    fn read(pod: Pod) -> Option<Self> {
        Self::of(&pod)
    }
}

/// A record that is not released yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordLeft {
    pub name: String,
    pub pod: String,
    pub deleting: bool,
}

impl RecordLeft {
    pub(super) fn of(record: &MaroonedNode) -> Self {
        let pod = &record.spec.pod_ref;
        Self {
            name: record.name_any(),
            pod: format!("{}/{}", pod.namespace, pod.name),
            deleting: record.metadata.deletion_timestamp.is_some(),
        }
    }

    /// A record that cannot be read.
    pub(super) fn unreadable(unreadable: &Unreadable) -> Self {
        Self {
            name: unreadable.identity.clone().unwrap_or_default().name,
            pod: "a pod that cannot be read".to_owned(),
            deleting: false,
        }
    }

    fn line(&self) -> String {
        let state = if self.deleting {
            "being released"
        } else {
            "not released"
        };
        format!("  maroonednode/{} of {} ({state})", self.name, self.pod)
    }
}

/// Everything of ours that is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub pods: Vec<PodLeft>,
    pub records: Vec<RecordLeft>,
}

impl Left {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.records.is_empty()
    }

    /// Why nothing is done without force. `ungated` means that the webhook's configuration is deleted already.
    pub(super) fn refusal(&self, namespace: &str, ungated: bool) -> String {
        let ungated = if ungated {
            " The webhook's configuration is deleted already, and no pod can opt in until it is back: to stay, \
             `helm rollback` brings it."
        } else {
            ""
        };
        format!(
            "refused: {} would lose their virtual machines:\n{}\nDelete them first, and what creates them. Or force \
             it, and uninstall again: `maroonedpods-reconciler uninstall --force`; with helm, `kubectl -n {namespace} \
             patch configmap maroonedpods-uninstall --type merge -p '{{\"data\":{{\"force\":\"true\"}}}}'`. Force \
             deletes these pods, in all namespaces, with their own grace period; a PodDisruptionBudget does not \
             protect them.{ungated}",
            count(self.pods.len(), "marooned pod"),
            listed(self.pods.iter().map(PodLeft::line), NAMED),
        )
    }

    fn summary(&self) -> String {
        let pods_deleting = self.pods.iter().filter(|pod| pod.deleting).count();
        let releasing = self.records.iter().filter(|record| record.deleting).count();
        format!(
            "waiting for {} ({pods_deleting} being deleted) and {} ({releasing} being released)",
            count(self.pods.len(), "pod"),
            count(self.records.len(), "MaroonedNode"),
        )
    }

    fn named(&self, limit: usize) -> String {
        let pods = listed(self.pods.iter().map(PodLeft::line), limit);
        let records = listed(self.records.iter().map(RecordLeft::line), limit);
        let shown: Vec<_> = [pods, records]
            .into_iter()
            .filter(|lines| !lines.is_empty())
            .collect();
        shown.join("\n")
    }

    fn what_to_check(&self) -> &'static str {
        if self.pods.iter().any(|pod| pod.kept.is_some()) {
            "Some pods cannot be deleted, for the reasons behind their names: remove what forbids it."
        } else if self.records.is_empty() {
            "These pods end within their own grace period: `kubectl describe` one to see what delays it, and what creates \
             others in its place."
        } else {
            "The reconciler releases each MaroonedNode when its VM is proven gone: check that it runs (deployment \
             maroonedpods-reconciler), that KubeVirt runs, and what the reconciler's log reports."
        }
    }

    /// What is left after the timeout, and what to do.
    pub(super) fn given_up(&self, after: Duration) -> String {
        format!(
            "gave up after {} s; these are left:\n{}\n{} Fix that and uninstall again. Without the reconciler nothing \
             deletes them.",
            after.as_secs(),
            self.named(NAMED),
            self.what_to_check(),
        )
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn listed(lines: impl ExactSizeIterator<Item = String>, limit: usize) -> String {
    let more = lines.len().saturating_sub(limit);
    let more = (more > 0).then(|| format!("  and {more} more"));
    lines.take(limit).chain(more).collect::<Vec<_>>().join("\n")
}

/// Reports every change, and from time to time that nothing changes.
#[derive(Debug, Default)]
pub(super) struct Progress {
    last: String,
    at: Duration,
}

impl Progress {
    /// The message to print now, `elapsed` after the start; `None` if there is none.
    pub(super) fn line(&mut self, left: &Left, elapsed: Duration) -> Option<String> {
        let summary = left.summary();
        let stalled = elapsed.saturating_sub(self.at) >= STALLED_AFTER;
        if summary == self.last && !stalled {
            return None;
        }
        let line = if summary == self.last {
            let (named, who) = (left.named(NAMED_WAITING), left.what_to_check());
            format!("still {summary}:\n{named}\n{who}")
        } else {
            summary.clone()
        };
        self.last = summary;
        self.at = elapsed;
        Some(line)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, phase: &str) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "web", "uid": "u"},
            "spec": spec, "status": {"phase": phase}}))
        .unwrap()
    }

    pub(in super::super) fn pods(number: usize) -> Left {
        let pod = |n| PodLeft {
            namespace: "ns".to_owned(),
            name: format!("web-{n}"),
            uid: format!("u{n}"),
            phase: "Running".to_owned(),
            deleting: false,
            kept: None,
        };
        Left {
            pods: (0..number).map(pod).collect(),
            ..Left::default()
        }
    }

    pub(in super::super) fn record() -> Left {
        Left {
            records: vec![RecordLeft {
                name: "marooned-u".to_owned(),
                pod: "ns/web".to_owned(),
                deleting: true,
            }],
            ..Left::default()
        }
    }

    #[test]
    fn gate_or_class_selector_make_a_marooned_pod_and_an_ended_pod_does_not_count() {
        let gated = json!({"schedulingGates": [{"name": names::GATE}]});
        let lifted = json!({"nodeSelector": {names::CLASS_LABEL: "true"}});
        assert_eq!(PodLeft::of(&pod(gated, "Pending")).unwrap().phase, "Gated");
        assert_eq!(
            PodLeft::of(&pod(lifted.clone(), "Running")).unwrap().phase,
            "Running"
        );
        assert_eq!(PodLeft::of(&pod(lifted, "Succeeded")), None);
        assert_eq!(PodLeft::of(&pod(json!({}), "Running")), None);
    }

    #[test]
    fn a_refusal_lists_fifty_and_counts_all() {
        let text = pods(53).refusal("maroonedpods-system", false);
        assert!(
            text.contains("53 marooned pods") && text.contains("and 3 more"),
            "{text}"
        );
        assert!(
            text.contains("  ns/web-49 (Running)") && !text.contains("web-50"),
            "{text}"
        );
        assert!(
            text.contains("--force") && text.contains("kubectl -n maroonedpods-system patch configmap"),
            "{text}"
        );
    }

    #[test]
    fn a_pod_that_cannot_be_deleted_is_listed_with_the_reason() {
        let mut left = pods(1);
        left.pods[0].kept = Some("policy x: protected".to_owned());
        let text = left.given_up(Duration::from_secs(60));
        assert!(text.contains("cannot be deleted: policy x: protected"), "{text}");
        assert!(text.contains("remove what forbids it"), "{text}");
    }

    #[test]
    fn progress_is_reported_and_so_is_a_standstill() {
        let mut progress = Progress::default();
        let seconds = Duration::from_secs;
        assert!(progress.line(&pods(2), seconds(0)).unwrap().contains("2 pods"));
        assert_eq!(progress.line(&pods(2), seconds(14)), None);
        assert!(progress.line(&pods(1), seconds(14)).unwrap().contains("1 pod (0"));
        let waiting = record();
        assert!(progress.line(&waiting, seconds(15)).is_some());
        assert_eq!(progress.line(&waiting, seconds(20)), None);
        let line = progress.line(&waiting, seconds(30)).unwrap();
        assert!(
            line.contains("maroonednode/marooned-u") && line.contains("check that it runs"),
            "{line}"
        );
    }

    #[test]
    fn giving_up_reports_what_is_left_and_what_to_check() {
        let waiting = record();
        let text = waiting.given_up(Duration::from_secs(60));
        assert!(
            text.contains("after 60 s") && text.contains("maroonednode/marooned-u of ns/web"),
            "{text}"
        );
        assert!(text.contains("maroonedpods-reconciler"), "{text}");
        assert!(pods(1).given_up(Duration::from_secs(60)).contains("grace period"));
        assert!(Left::default().is_empty() && !waiting.is_empty() && !pods(1).is_empty());
    }
}
