//! Step 5 and ever after: the Node says where its VM is, and nothing that its host does not say.

use maroonedpods_common::names;

use super::{Context, Write};
use crate::objects::node::{self, Place};
use crate::view::topology;
use crate::view::{NodeView, VmiView};

/// The Node, once its VM has an address. Not before: a Node that waits for its VM to boot counts in what other
/// controllers do, and a VM that is refused would leave one.
pub(super) fn create(c: &Context, vmi: &VmiView) -> Option<Write> {
    let place = Place {
        address: vmi.address.clone()?,
        topology: c.observed.topology.clone().unwrap_or_default(),
    };
    Some(Write::CreateNode(Box::new(node::new(
        &c.record,
        c.attempt(),
        &place,
    ))))
}

/// What is not so any more before the gate is lifted: address, zone, region.
pub(super) fn correct(c: &Context, vmi: &VmiView, node: &NodeView) -> Option<Write> {
    let address = vmi.address.clone().filter(|a| node.address.as_ref() != Some(a));
    write(c, node, address)
}

/// What is not so any more from then on. A pod keeps its address, so the address is left alone; a host may be relabelled,
/// or go before its VM is known to be gone, and its zone must not live on in our Node.
pub(super) fn follow(c: &Context) -> Option<Write> {
    write(c, c.observed.node.as_ref()?, None)
}

fn write(c: &Context, node: &NodeView, address: Option<String>) -> Option<Write> {
    let topology = c.observed.topology.as_ref();
    let labels = topology.map(|host| topology::difference(&node.topology, host));
    let labels = labels.unwrap_or_default();
    (address.is_some() || !labels.is_empty()).then(|| Write::PlaceNode {
        name: names::node_name(&c.record.spec.pod_ref.uid),
        uid: node.uid.clone(),
        address,
        labels,
    })
}
