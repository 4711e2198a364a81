//! Reads what tests look for in pods and Nodes.

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use serde_json::json;

/// The pod's phase; empty while it has none.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or_default()
}

/// Status and reason of one of the pod's conditions.
#[must_use]
pub fn condition(pod: &Pod, type_: &str) -> Option<(String, String)> {
    find(pod, type_).map(|c| (c.status.clone(), c.reason.clone().unwrap_or_default()))
}

fn find<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let mut conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.find(|c| c.type_ == type_)
}

/// Whether the pod is Running and Ready.
#[must_use]
pub fn runs(pod: &Pod) -> bool {
    phase(pod) == "Running" && condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

/// The node that the pod is bound to; empty if it is not bound.
#[must_use]
pub fn node(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Reason and message of the condition `maroonedpods.io/NodeReady`; empty where the pod has none.
#[must_use]
pub fn report(pod: &Pod) -> (String, String) {
    let ours = find(pod, names::NODE_READY_CONDITION).cloned();
    let said = ours.map(|c| (c.reason.unwrap_or_default(), c.message.unwrap_or_default()));
    said.unwrap_or_default()
}

/// The reason of [`report`].
#[must_use]
pub fn reason(pod: &Pod) -> String {
    report(pod).0
}

/// Names of the pod's scheduling gates.
#[must_use]
pub fn gates(pod: &Pod) -> Vec<&str> {
    let gates = pod.spec.iter().flat_map(|s| s.scheduling_gates.iter().flatten());
    gates.map(|gate| gate.name.as_str()).collect()
}

/// Whether the pod has anything of ours in spec, status or annotations: gate, selector, toleration, condition.
#[must_use]
pub fn bears_our_mark(pod: &Pod) -> bool {
    json!([pod.spec, pod.status, pod.annotations()])
        .to_string()
        .contains("maroonedpods")
}

/// Whether the Node's Ready condition holds.
#[must_use]
pub fn node_is_ready(node: &Node) -> bool {
    let status = node.status.iter();
    let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The VMIs in our VM namespace, which is the only one with VMIs of ours.
#[must_use]
pub fn vmis(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachineInstance");
    Api::namespaced_with(client.clone(), names::VM_NAMESPACE, &ApiResource::from_gvk(&kind))
}

/// The host that runs the VM of the pod's first attempt; `None` until it has one.
///
/// # Errors
/// The VMI cannot be read.
pub async fn vm_host(client: &Client, pod: &Pod) -> kube::Result<Option<String>> {
    let name = names::vmi_name(&pod.uid().unwrap_or_default().into(), 1);
    let vmi = vmis(client).get_opt(&name).await?;
    Ok(vmi.and_then(|vmi| vmi.data["status"]["nodeName"].as_str().map(str::to_owned)))
}
