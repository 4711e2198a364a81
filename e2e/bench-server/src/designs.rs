//! The usual designs: the review is read into kube's types, and its pod into k8s-openapi's.

use std::mem;

use anyhow::{Context, Result};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use k8s_openapi::api::core::v1::{Pod, PodSchedulingGate, Toleration};
use kube::ResourceExt;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use maroonedpods_common::admission::{Addition, OptOut, Outcome, PodView, decide};
use maroonedpods_common::names;
use serde_json::{Value, json};

/// The answer to a review, with the patch that a design makes of its pod.
pub fn review(body: &[u8], patch: fn(&Pod) -> Result<Patch>) -> Result<Vec<u8>> {
    let review: AdmissionReview<Pod> = serde_json::from_slice(body)?;
    let request: AdmissionRequest<Pod> = review.try_into()?;
    let pod = request.object.as_ref().context("no pod")?;
    let response = AdmissionResponse::from(&request).with_patch(patch(pod)?)?;
    Ok(serde_json::to_vec(&response.into_review())?)
}

/// Operations written by hand. `metadata` and `spec` are in every pod that kube-apiserver sends.
pub fn typed(pod: &Pod) -> Result<Patch> {
    let spec = pod.spec.as_ref();
    let mut labels = Parent {
        path: ["metadata", "labels"],
        empty: json!({}),
        exists: pod.metadata.labels.is_some(),
    };
    let mut gates = Parent {
        path: ["spec", "schedulingGates"],
        empty: json!([]),
        exists: spec.is_some_and(|spec| spec.scheduling_gates.is_some()),
    };
    let mut selector = Parent {
        path: ["spec", "nodeSelector"],
        empty: json!({}),
        exists: spec.is_some_and(|spec| spec.node_selector.is_some()),
    };
    let mut tolerations = Parent {
        path: ["spec", "tolerations"],
        empty: json!([]),
        exists: spec.is_some_and(|spec| spec.tolerations.is_some()),
    };
    let mut operations = Vec::new();
    for addition in additions(pod) {
        match addition {
            Addition::Label => {
                labels.add(names::MAROON_LABEL, names::MAROON_TRUE.into(), &mut operations);
            }
            Addition::Gate => gates.add("-", json!({"name": names::GATE}), &mut operations),
            Addition::ClassSelector => {
                let value = names::CLASS_LABEL_VALUE.into();
                selector.add(names::CLASS_LABEL, value, &mut operations);
            }
            Addition::SchedulerName => operations.push(PatchOperation::Add(AddOperation {
                path: PointerBuf::from_tokens(["spec", "schedulerName"]),
                value: names::SCHEDULER_NAME.into(),
            })),
            Addition::Toleration(ours) => {
                tolerations.add("-", serde_json::to_value(ours)?, &mut operations);
            }
        }
    }
    Ok(Patch(operations))
}

/// The pod as it should be, compared with the pod as it is.
pub fn diff(pod: &Pod) -> Result<Patch> {
    let changed = changed(pod.clone());
    Ok(json_patch::diff(
        &serde_json::to_value(pod)?,
        &serde_json::to_value(&changed)?,
    ))
}

fn additions(pod: &Pod) -> Vec<Addition> {
    match decide(&PodView::from(pod), OptOut::Honoured) {
        Outcome::Add(additions) => additions,
        Outcome::LeaveAlone(_) | Outcome::Deny(_) => Vec::new(),
    }
}

/// An object or a list that additions go to.
struct Parent {
    path: [&'static str; 2],
    empty: Value,
    exists: bool,
}

impl Parent {
    /// Adds the member or item `key`, and before the first one the parent, where the pod lacks it.
    fn add(&mut self, key: &str, value: Value, operations: &mut Vec<PatchOperation>) {
        let path = PointerBuf::from_tokens(self.path);
        let mut add = |path, value| operations.push(PatchOperation::Add(AddOperation { path, value }));
        if !mem::replace(&mut self.exists, true) {
            add(path.clone(), self.empty.clone());
        }
        add(path.with_trailing_token(key), value);
    }
}

fn changed(mut pod: Pod) -> Pod {
    for addition in additions(&pod) {
        let mut spec = pod.spec.take().unwrap_or_default();
        match addition {
            Addition::Label => {
                let labels = pod.labels_mut();
                labels.insert(names::MAROON_LABEL.to_owned(), names::MAROON_TRUE.to_owned());
            }
            Addition::Gate => spec
                .scheduling_gates
                .get_or_insert_default()
                .push(PodSchedulingGate {
                    name: names::GATE.to_owned(),
                }),
            Addition::ClassSelector => {
                let selector = spec.node_selector.get_or_insert_default();
                selector.insert(names::CLASS_LABEL.to_owned(), names::CLASS_LABEL_VALUE.to_owned());
            }
            Addition::SchedulerName => spec.scheduler_name = Some(names::SCHEDULER_NAME.to_owned()),
            Addition::Toleration(ours) => spec.tolerations.get_or_insert_default().push(Toleration {
                key: Some(ours.key.to_owned()),
                operator: Some(ours.operator.to_owned()),
                value: Some(ours.value.to_owned()).filter(|value| !value.is_empty()),
                effect: Some(ours.effect.to_owned()),
                toleration_seconds: ours.toleration_seconds,
            }),
        }
        pod.spec = Some(spec);
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(pod: &Value, design: fn(&Pod) -> Result<Patch>) -> Value {
        let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &design(&typed).unwrap()).unwrap();
        patched
    }

    #[test]
    fn both_designs_mean_the_same_whatever_the_pod_lacks() {
        let containers = json!([{"name": "app"}]);
        let bare = json!({"metadata": {}, "spec": {"containers": containers}});
        let full = json!({
            "metadata": {"labels": {"app": "shop"}},
            "spec": {
                "containers": containers,
                "schedulingGates": [{"name": "example.com/other"}],
                "nodeSelector": {"zone": "a"},
                "schedulerName": "default-scheduler",
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}],
            },
        });
        for pod in [bare, full] {
            let typed = patched(&pod, typed);
            assert_eq!(typed, patched(&pod, diff));
            assert_eq!(typed["metadata"]["labels"][names::MAROON_LABEL], "true");
            let gates = typed["spec"]["schedulingGates"].as_array().unwrap();
            assert!(gates.contains(&json!({"name": names::GATE})), "{typed}");
            assert!(typed["spec"]["nodeSelector"][names::CLASS_LABEL].is_string());
            assert_eq!(typed["spec"]["schedulerName"], names::SCHEDULER_NAME);
            // Applied again, nothing is missing.
            assert_eq!(patched(&typed, super::typed), typed);
        }
    }

    #[test]
    fn an_answer_is_a_review_with_a_patch() {
        let request = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u", "operation": "CREATE", "userInfo": {}, "dryRun": false,
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "object": {"metadata": {}, "spec": {"containers": []}},
            },
        });
        let answer = review(&serde_json::to_vec(&request).unwrap(), typed).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["response"]["uid"], "u");
        assert_eq!(answer["response"]["allowed"], true);
        assert!(!answer["response"]["patch"].as_array().unwrap().is_empty());
    }
}
