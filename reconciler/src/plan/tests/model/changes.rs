//! What users and schedulers write to the pod while it waits.

use maroonedpods_common::names;
use serde_json::{Value, json};

use super::{World, ZONE};

/// What [`World::pod_wants_a_zone`] asks for.
pub(super) const WANTED_ZONE: &str = "z";

impl World {
    /// The pod's specification is patched (RFC 7396), as a queue or a resize does while the gate holds.
    pub fn pod_changes(&mut self, spec: &Value) -> bool {
        let gated = self.pod().is_some_and(|pod| pod.gate_index.is_some());
        let next = self.next_version().to_string();
        let Some(pod) = self.objects.pod.as_mut().filter(|_| gated) else {
            return false;
        };
        let mut changed = serde_json::to_value(&pod).unwrap();
        json_patch::merge(&mut changed, &json!({"spec": spec}));
        let changed = serde_json::from_value(changed).unwrap();
        if *pod == changed {
            return false;
        }
        *pod = changed;
        pod.metadata.resource_version = Some(next);
        true
    }

    /// A queue assigns a zone to the waiting pod.
    pub fn pod_wants_a_zone(&mut self) -> bool {
        self.pod_changes(
            &json!({"nodeSelector": {(names::CLASS_LABEL): names::CLASS_LABEL_VALUE, (ZONE): WANTED_ZONE}}),
        )
    }

    /// The waiting pod is resized beyond its VM.
    pub fn pod_grows(&mut self) -> bool {
        let container = json!({"name": "main", "image": "app", "resources": {"requests": {"memory": "8Gi"}}});
        self.pod_changes(&json!({"containers": [container]}))
    }

    /// A scheduler says why it has not bound the pod.
    pub fn scheduler_says(&mut self, reason: &str, message: &str) {
        let uid = self.pod().unwrap().uid.to_string();
        self.pod_condition(&uid, "PodScheduled", ("False", reason, message))
            .unwrap();
    }
}
