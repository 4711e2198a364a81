//! The parts of a Node that decisions need.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Taint};
use maroonedpods_common::names;

use super::{ObjectRef, Packed, bounded, topology};

/// The most bytes that a Node's labels may take, [`Packed`]. The Node's guest cannot write labels.
const MOST_LABELS: usize = 8 << 10;

/// The parts of a Node that decisions need.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// It is being deleted.
    pub deleting: bool,
    /// It has finalizers. We never set any on a Node: a guest did.
    pub finalizers: bool,
    /// The Ready condition is True.
    pub ready: bool,
    /// UUID of the machine as its kubelet reports it; empty until a kubelet has reported.
    pub system_uuid: String,
    /// The guest's boot id as its kubelet reports it.
    pub boot_id: String,
    /// The InternalIP.
    pub address: Option<String>,
    /// The taints, in the Node's order.
    pub taints: Vec<Taint>,
    /// The pod UID in the identity label, if the class and identity labels are as we wrote them.
    pub labelled_for: Option<String>,
    /// Zone and region from its labels.
    pub topology: BTreeMap<String, String>,
    /// All labels; `None` if there are too many to keep.
    pub labels: Option<Packed<BTreeMap<String, String>>>,
}

impl NodeView {
    /// A reference to this Node: name and UID.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::without_namespace(&self.name, &self.uid)
    }

    /// Zone and region of the Node, and its labels with these keys.
    #[must_use]
    pub fn topology_and(&self, more: &[String]) -> BTreeMap<String, String> {
        topology::with(&self.topology, self.labels.as_ref(), more)
    }

    /// Reads a Node; `None` for one without name or UID.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        let labels = node.metadata.labels.as_ref();
        let class = labels.and_then(|l| l.get(names::CLASS_LABEL)).map(String::as_str);
        let identity = labels.and_then(|l| l.get(names::IDENTITY_LABEL)).cloned();
        let status = node.status.as_ref();
        let info = status.and_then(|s| s.node_info.as_ref());
        Some(Self {
            name: node.metadata.name.clone()?,
            uid: node.metadata.uid.clone()?,
            deleting: node.metadata.deletion_timestamp.is_some(),
            finalizers: node.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty()),
            ready: status
                .and_then(|s| s.conditions.as_ref())
                .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True")),
            system_uuid: info.map(|i| bounded(&i.system_uuid)).unwrap_or_default(),
            boot_id: info.map(|i| bounded(&i.boot_id)).unwrap_or_default(),
            address: status.and_then(|s| s.addresses.as_ref()).and_then(|all| {
                all.iter()
                    .find(|a| a.type_ == "InternalIP")
                    .map(|a| bounded(&a.address))
            }),
            taints: node
                .spec
                .as_ref()
                .and_then(|s| s.taints.clone())
                .unwrap_or_default(),
            labelled_for: identity.filter(|_| class == Some(names::CLASS_LABEL_VALUE)),
            topology: topology::of(labels),
            labels: Packed::of(labels.unwrap_or(&BTreeMap::new()), MOST_LABELS),
        })
    }
}
