//! Taints that others put on the Node, and what the pod tolerates.

use k8s_openapi::api::core::v1::Taint;
use maroonedpods_common::names;
use serde_json::json;

use super::writes::not_ready;
use super::{ADDRESS, World};
use crate::plan::Write;

fn foreign() -> Taint {
    Taint {
        key: "example.test/maintenance".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

impl World {
    /// The node controller taints a Node that its kubelet reported on and that is not ready, and frees a ready one.
    pub fn node_controller_looks(&mut self) -> bool {
        let Some(node) = self.node() else { return false };
        let tainted = |effect| node.taints.contains(&not_ready(effect));
        if node.ready {
            return (tainted("NoSchedule") || tainted("NoExecute"))
                && self.change_taints(|taints| taints.retain(|t| t.key != not_ready("").key));
        }
        (!node.system_uuid.is_empty() && !tainted("NoExecute"))
            && self.change_taints(|taints| taints.push(not_ready("NoExecute")))
    }

    /// The pod tolerates a taint for a second, which only one that evicts asks about.
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

    /// A lift of the pod as it is now, whatever the attempt.
    pub fn lift_by_hand(&mut self) {
        let pod = self.pod().unwrap();
        let patch = crate::objects::lift::patch(&pod, pod.gate_index.unwrap(), "maroonedpods.io", ADDRESS);
        let (namespace, name, uid) = (pod.namespace, pod.name, pod.uid);
        self.apply(&Write::LiftGate {
            namespace,
            name,
            uid,
            patch,
        })
        .unwrap();
    }

    /// Somebody has use for the Node alone.
    pub fn node_is_tainted(&mut self) -> bool {
        self.change_taints(|taints| taints.push(foreign()))
    }

    pub fn others_take_their_taints_off(&mut self) -> bool {
        let tainted = self.node().is_some_and(|node| node.taints.contains(&foreign()));
        tainted && self.change_taints(|taints| taints.retain(|t| *t != foreign()))
    }

    /// Keys of taints that the pod, which tolerates nothing, would have to tolerate.
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
