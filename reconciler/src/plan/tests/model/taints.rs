//! Taints that others add to the Node, and the pod's tolerations.

use k8s_openapi::api::core::v1::Taint;
use maroonedpods_common::names;
use serde_json::json;

use super::writes::not_ready;
use super::{ADDRESS, World};
use crate::objects::lift::Lift;
use crate::plan::Write;

fn foreign() -> Taint {
    Taint {
        key: "example.test/maintenance".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

impl World {
    /// The node controller taints a Node that is not ready although its kubelet has reported, and removes the taint
    /// from a ready one.
    pub fn node_controller_acts(&mut self) -> bool {
        let Some(node) = self.node() else { return false };
        let tainted = |effect| node.taints.contains(&not_ready(effect));
        if node.ready {
            return (tainted("NoSchedule") || tainted("NoExecute"))
                && self.change_taints(|taints| taints.retain(|t| t.key != not_ready("").key));
        }
        (!node.system_uuid.is_empty() && !tainted("NoExecute"))
            && self.change_taints(|taints| taints.push(not_ready("NoExecute")))
    }

    /// The pod tolerates the taint for a second; the limit matters only for a taint that evicts.
    pub fn tolerate_briefly(&mut self, key: &str) {
        let brief = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1});
        let spec = self
            .objects
            .pod
            .as_mut()
            .and_then(|pod| pod.spec.as_mut())
            .unwrap();
        spec.tolerations
            .get_or_insert_default()
            .push(serde_json::from_value(brief).unwrap());
    }

    /// Lifts the pod as it is now, whatever the attempt.
    pub fn lift_by_hand(&mut self) {
        let pod = self.pod().unwrap();
        let lift = Lift {
            pod: pod.reference(),
            resource_version: pod.resource_version.clone(),
            gate_index: pod.gate_index.unwrap(),
            placement: pod.placement.clone(),
            taint_key: "maroonedpods.io".to_owned(),
            address: ADDRESS.to_owned(),
        };
        self.apply(&Write::LiftGate(Box::new(lift))).unwrap();
    }

    /// A user reserves the Node.
    pub fn node_is_tainted(&mut self) -> bool {
        self.change_taints(|taints| taints.push(foreign()))
    }

    pub fn others_remove_their_taints(&mut self) -> bool {
        let tainted = self.node().is_some_and(|node| node.taints.contains(&foreign()));
        tainted && self.change_taints(|taints| taints.retain(|t| *t != foreign()))
    }

    /// Keys of the taints that prevent the pod, which tolerates nothing else, from running.
    pub fn taints_in_the_way(&self) -> Vec<String> {
        let taints = self.node().map(|node| node.taints).unwrap_or_default();
        let keys = taints.into_iter().map(|taint| taint.key);
        keys.filter(|key| key != names::CLASS_TAINT && !key.ends_with("/dedicated"))
            .collect()
    }

    fn change_taints(&mut self, change: impl FnOnce(&mut Vec<Taint>)) -> bool {
        self.change_node(|node| change(node.spec.get_or_insert_default().taints.get_or_insert_default()))
    }
}
