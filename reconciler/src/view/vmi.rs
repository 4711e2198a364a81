//! The parts of a VMI that decisions need.

use std::net::IpAddr;

use kube::core::DynamicObject;
use maroonedpods_common::{names, text};
use serde_json::Value;

use super::{ObjectRef, bounded};

/// The parts of a VMI that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmiView {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// UID of the record that owns it.
    pub owner_uid: Option<String>,
    /// It is being deleted.
    pub deleting: bool,
    /// `status.phase`, as KubeVirt writes it.
    pub phase: String,
    /// IPv4 address of the interface named [`names::VM_INTERFACE`].
    pub address: Option<String>,
    /// An IPv6 address of that interface, if it has only IPv6 addresses.
    pub only_ipv6: Option<String>,
    /// The host node that it runs on.
    pub host: Option<String>,
    /// Its host is being drained, and the VM must leave it.
    pub evacuating: bool,
    /// Why KubeVirt makes no progress, in KubeVirt's own words.
    pub blocked: Option<String>,
}

impl VmiView {
    /// A reference to this VMI: name and UID.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::without_namespace(&self.name, &self.uid)
    }

    /// Reads a VMI; `None` for one without name or UID. Fields of another type than KubeVirt's count as absent.
    #[must_use]
    pub fn of(vmi: &DynamicObject) -> Option<Self> {
        let status = vmi.data.get("status").unwrap_or(&Value::Null);
        let word = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(bounded);
        let entry = |list: &str, key: &str, wanted: &str| {
            let found = status[list]
                .as_array()
                .into_iter()
                .flatten()
                .find(|e| e[key] == wanted);
            found.cloned().unwrap_or(Value::Null)
        };
        let blocked = ["PodScheduled", "Synchronized"].iter().find_map(|condition| {
            let c = entry("conditions", "type", condition);
            (c["status"] == "False").then(|| {
                let reason = c["reason"].as_str().unwrap_or("no reason given");
                let sentence = format!("{reason}: {}", c["message"].as_str().unwrap_or_default());
                text::sentence(&sentence).into_owned()
            })
        });
        let (address, only_ipv6) = addresses(&entry("interfaces", "name", names::VM_INTERFACE));
        Some(Self {
            name: vmi.metadata.name.clone()?,
            uid: vmi.metadata.uid.clone()?,
            owner_uid: vmi
                .metadata
                .owner_references
                .iter()
                .flatten()
                .next()
                .map(|o| o.uid.clone()),
            deleting: vmi.metadata.deletion_timestamp.is_some(),
            phase: word(&status["phase"]).unwrap_or_default(),
            address,
            only_ipv6,
            host: word(&status["nodeName"]),
            evacuating: word(&status["evacuationNodeName"]).is_some(),
            blocked,
        })
    }

    /// The VM has ended for good; KubeVirt never leaves these phases.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// The domain is up; that does not mean that the kubelet inside is.
    #[must_use]
    pub fn running(&self) -> bool {
        self.phase == "Running"
    }
}

/// The interface's IPv4 address; otherwise an IPv6 address of its own, if it has one. (A link-local address does not
/// count: each link has one.)
fn addresses(interface: &Value) -> (Option<String>, Option<String>) {
    let all = interface["ipAddresses"].as_array().into_iter().flatten();
    let mut ipv6 = None;
    for address in std::iter::once(&interface["ipAddress"]).chain(all) {
        match address.as_str().and_then(|text| text.parse().ok()) {
            Some(IpAddr::V4(address)) => return (Some(address.to_string()), None),
            Some(IpAddr::V6(address)) if !address.is_unicast_link_local() => {
                ipv6.get_or_insert(address.to_string());
            }
            _ => {}
        }
    }
    (None, ipv6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vmi(status: &Value) -> VmiView {
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "v", "uid": "u", "ownerReferences": [
                {"apiVersion": "maroonedpods.io/v1alpha1", "kind": "MaroonedNode", "name": "n", "uid": "r"}]},
            "status": status,
        });
        VmiView::of(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn the_interface_is_picked_by_name() {
        let view = vmi(&json!({"phase": "Running", "interfaces": [
            {"name": "cni0", "ipAddress": "10.244.0.1"}, {"name": "default", "ipAddress": "10.1.2.3"}]}));
        assert_eq!(view.address.as_deref(), Some("10.1.2.3"));
        assert!(view.running() && !view.ended());
    }

    #[test]
    fn the_ipv4_address_counts_at_any_position() {
        let addresses = |interface: Value| {
            let mut interface = interface;
            interface["name"] = json!("default");
            let view = vmi(&json!({"phase": "Running", "interfaces": [interface]}));
            (view.address, view.only_ipv6)
        };
        let text = |address: &str| Some(address.to_owned());
        let dual = json!({"ipAddress": "fd00::7", "ipAddresses": ["fd00::7", "10.1.2.3"]});
        assert_eq!(addresses(dual), (text("10.1.2.3"), None));
        let single = json!({"ipAddress": "fd00::7", "ipAddresses": ["fd00::7"]});
        assert_eq!(addresses(single), (None, text("fd00::7")));
        for nothing in [
            json!({}),
            json!({"ipAddress": "fe80::1"}),
            json!({"ipAddress": "?", "ipAddresses": 7}),
        ] {
            assert_eq!(addresses(nothing), (None, None));
        }
    }

    #[test]
    fn the_reason_of_a_blocked_launcher_is_quoted() {
        let view = vmi(&json!({"phase": "Scheduling", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}));
        assert_eq!(view.blocked.as_deref(), Some("Unschedulable: 0/3 nodes"));
    }

    #[test]
    fn odd_types_count_as_absent() {
        let view =
            vmi(&json!({"phase": 3, "interfaces": "none", "conditions": {}, "evacuationNodeName": ""}));
        assert_eq!(view.phase, "");
        assert_eq!(view.address, None);
        assert!(!view.evacuating && !view.ended());
    }
}
