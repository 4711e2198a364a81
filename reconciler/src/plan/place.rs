//! The Node of step 4, step 5, and later changes: the Node has its VM's address, and zone, region and the other labels that
//! its pod selects exactly as the VM's host has them.

use super::{Context, Write};
use crate::objects::node::Place;
use crate::view::topology;
use crate::view::{NodeView, VmiView};

/// The Node, once its VM has an address. Not before: a Node that waits for its VM to boot counts in what other
/// controllers do, and a VM that is refused would leave one.
pub(super) fn create(c: &Context, vmi: &VmiView) -> Option<Write> {
    let place = Place {
        address: vmi.address.clone()?,
        topology: c.observed.topology.clone().unwrap_or_default(),
    };
    Some(Write::CreateNode {
        record: c.record.clone(),
        attempt: c.attempt(),
        place,
    })
}

/// Corrects what changed before the gate is lifted: address, zone, region.
pub(super) fn correct(c: &Context, vmi: &VmiView, node: &NodeView) -> Option<Write> {
    let address = vmi.address.clone().filter(|a| node.address.as_ref() != Some(a));
    write(c, node, address)
}

/// Corrects what changed after the lift. A pod keeps its address, so the address stays; a host may be relabelled, or be
/// deleted before its VM is known to be gone, and our Node must not keep the zone.
pub(super) fn follow(c: &Context) -> Option<Write> {
    write(c, c.observed.node.as_ref()?, None)
}

fn write(c: &Context, node: &NodeView, address: Option<String>) -> Option<Write> {
    let now = node.topology_and(&c.record.spec.placement.host_labels);
    let topology = c.observed.topology.as_ref();
    let labels = topology.map(|host| topology::difference(&now, host));
    let labels = labels.unwrap_or_default();
    (address.is_some() || !labels.is_empty()).then(|| Write::PlaceNode {
        node: node.reference(),
        address,
        labels,
    })
}
