//! The VM's address: KubeVirt's report counts until the pod runs in the VM, and our own record from then on.

use maroonedpods_common::api::Phase;
use maroonedpods_common::names;
use serde_json::json;

use super::model::{ADDRESS, CsrKind, FOREIGN_ADDRESS, World, kinds};
use super::stages::{about_to_lift, until};
use crate::plan::Write;

fn running() -> World {
    until(|w| w.pod().is_some_and(|p| p.ready) && w.status().phase == Phase::Lifted)
}

fn verdicts(world: &mut World) -> Vec<&'static str> {
    let decision = world.pass();
    kinds(&decision)
        .into_iter()
        .filter(|kind| kind.ends_with("_csr"))
        .collect()
}

#[test]
fn a_guest_that_fakes_its_address_gets_no_certificate_for_it() {
    let mut world = running();
    assert!(world.guest_fakes_address());
    assert!(
        !kinds(&world.decide()).contains(&"place_node"),
        "the Node stays where it is"
    );
    assert!(world.guest_requests(CsrKind::OtherAddress));
    assert_eq!(verdicts(&mut world), ["deny_csr"]);
    assert!(world.guest_requests(CsrKind::Serving));
    assert_eq!(
        verdicts(&mut world),
        ["approve_csr"],
        "its own is its own for life"
    );
    assert!(!world.impersonates());
}

#[test]
fn without_guards_the_address_comes_from_the_record() {
    let mut world = running();
    world.change_node(|node| {
        let addresses = json!([{"type": "InternalIP", "address": FOREIGN_ADDRESS}]);
        node.status.get_or_insert_default().addresses = serde_json::from_value(addresses).unwrap();
    });
    assert!(world.guest_requests(CsrKind::OtherAddress));
    assert_eq!(verdicts(&mut world), ["deny_csr"]);
}

#[test]
fn an_address_that_changes_before_the_lift_reaches_node_pod_and_record() {
    let mut world = about_to_lift();
    assert_eq!(world.status().address.as_deref(), Some(ADDRESS));
    world.vm_address_changes();
    let decision = world.decide();
    assert!(!kinds(&decision).contains(&"lift_gate"));
    let moves = |write: &&Write| matches!(write, Write::PlaceNode { address: Some(_), .. });
    let moved = decision.writes.iter().find(moves).unwrap();
    assert!(
        moved.needs_live_view(),
        "by an old cache the pod may wait though it runs"
    );
    world.pass();
    world.pass();
    let annotations = world.objects.pod.as_ref().unwrap().metadata.annotations.clone();
    assert_eq!(annotations.unwrap()[names::ADDRESS_ANNOTATION], FOREIGN_ADDRESS);
    assert_eq!(world.status().phase, Phase::Lifted);
    assert_eq!(world.status().address.as_deref(), Some(FOREIGN_ADDRESS));
    assert!(world.guest_requests(CsrKind::OtherAddress));
    assert!(verdicts(&mut world).contains(&"approve_csr"), "it is its own");
}
