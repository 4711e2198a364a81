//! How it ends: who must be gone before whom.

use maroonedpods_common::api::Phase;

use super::model::{Outcome, World, kinds};
use crate::plan::WriteKind;

fn running() -> World {
    let mut world = World::new();
    assert_eq!(world.settle(50), Ok(Outcome::Lifted));
    world
}

#[test]
fn nothing_is_said_or_taken_before_the_vm_is_proven_gone() {
    let mut world = running();
    world.vm_ends();
    let decision = world.pass();
    assert!(decision.needs_live_view());
    assert_eq!(
        kinds(&decision),
        ["pod_not_ready", "pod_report", "delete_record", "delete_vmi"]
    );
    assert!(kinds(&world.decide()).is_empty(), "waits for the VM");
    world.vms_that_go_are_gone();
    let decision = world.pass();
    assert_eq!(kinds(&decision)[0], "fail_pod");
    assert!(kinds(&decision).contains(&"delete_node"));
    assert!(world.pod().unwrap().terminal);
    assert!(world.objects.record.is_some(), "the record outlives the Node");
    assert_eq!(kinds(&world.pass()), ["remove_finalizer"]);
    assert!(world.objects.record.is_none());
}

#[test]
fn a_finished_pod_keeps_its_vm_for_its_logs() {
    let mut world = running();
    world.pod_finishes();
    let decision = world.decide();
    assert!(decision.writes.is_empty());
    world.now = decision.wake.unwrap();
    assert_eq!(kinds(&world.decide()), ["delete_record", "delete_vmi"]);
}

#[test]
fn a_deleted_pod_has_its_grace_and_a_margin() {
    let mut world = running();
    world.pod_is_deleted();
    assert!(kinds(&world.decide()).is_empty());
    world.tick(59);
    assert!(kinds(&world.decide()).is_empty(), "30 s of grace, 30 s of margin");
    world.tick(2);
    world.pass();
    assert!(world.living_vms().is_empty());
    assert!(world.pod().is_some(), "not before the VM is gone");
    world.vms_that_go_are_gone();
    let decision = world.pass();
    assert_eq!(kinds(&decision)[..2], ["fail_pod", "delete_pod"]);
    assert!(world.pod().is_none());
}

#[test]
fn a_pod_that_was_never_lifted_goes_with_its_vm() {
    let mut world = World::new();
    while world.status().phase != Phase::Launched {
        world.pass();
    }
    world.pod_is_deleted();
    assert_eq!(world.settle(20), Ok(Outcome::Gone));
}

#[test]
fn a_new_pod_of_the_same_name_is_not_touched() {
    let mut world = running();
    world.pod_is_deleted();
    world.kubelet_stops_pod();
    world.pod_is_recreated();
    let fresh = world.objects.pod.clone();
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
    assert_eq!(world.objects.pod, fresh);
}

#[test]
fn a_reboot_is_the_end_of_the_vm() {
    let mut world = running();
    world.guest_reboots();
    let decision = world.pass();
    assert!(kinds(&decision).contains(&"delete_vmi"));
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
    assert!(world.pod().unwrap().terminal);
}

/// We crash right after the patch, and the guest reboots before anybody has recorded it.
#[test]
fn a_reboot_before_the_lift_is_recorded_counts_too() {
    let mut world = World::new();
    while !world.pod().unwrap().lifted() {
        world.behave();
        for write in world.decide().writes {
            world.apply(&write).unwrap();
            if write.kind() == WriteKind::LiftGate {
                break;
            }
        }
    }
    assert_eq!(world.status().phase, Phase::Registered);
    world.guest_reboots();
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
}

#[test]
fn a_drained_host_evicts_the_pod_under_its_budget() {
    let mut world = running();
    world.host_is_drained();
    world.budget_holds = true;
    let decision = world.pass();
    assert_eq!(kinds(&decision), ["evict_pod"]);
    assert!(decision.wake.is_some() && world.pod().unwrap().deletion_deadline.is_none());
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
}

#[test]
fn a_guest_cannot_hold_its_node() {
    let mut world = running();
    world.guest_holds_node();
    world.pod_is_deleted();
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
    assert!(world.log.contains(&"strip_node_finalizers"));
}

#[test]
fn a_pod_whose_gate_others_take_stays_without_a_vm() {
    let mut world = World::new();
    while world.status().phase != Phase::Launched {
        world.pass();
    }
    world.gate_is_taken();
    assert_eq!(world.settle(20), Ok(Outcome::Gone));
    let pod = world.pod().unwrap();
    assert!(!pod.pinned && !pod.terminal);
}

#[test]
fn a_record_that_a_person_deletes_takes_the_vm_along() {
    let mut world = running();
    world.record_is_deleted();
    assert_eq!(
        kinds(&world.decide()),
        ["pod_not_ready", "pod_report", "delete_vmi"]
    );
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
    assert!(world.pod().unwrap().terminal);
}

#[test]
fn a_waiting_pod_whose_record_a_person_deletes_starts_anew() {
    let mut world = World::new();
    while world.status().phase != Phase::Launched {
        world.pass();
    }
    let first = world.record_uid();
    world.record_is_deleted();
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
    assert_ne!(world.record_uid(), first);
}
