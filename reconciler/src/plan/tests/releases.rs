//! Releases: what must be gone before what.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use maroonedpods_common::api::Phase;

use super::model::{Outcome, World, kinds};
use super::stages::{about_to_lift, condition_reason, launched, step_until};
use crate::plan::WriteKind;

fn running() -> World {
    let mut world = World::new();
    assert_eq!(world.settle(50), Ok(Outcome::Lifted));
    world
}

#[test]
fn the_pod_does_not_fail_and_no_node_goes_before_the_vm_is_proven_gone() {
    let mut world = running();
    world.vm_ends();
    let decision = world.pass();
    assert!(decision.needs_live_view());
    assert_eq!(
        kinds(&decision),
        ["pod_not_ready", "pod_report", "delete_record", "delete_vmi"]
    );
    assert_eq!(condition_reason(&world), "NodeLost");
    assert!(kinds(&world.decide()).is_empty(), "waits for the VM");
    world.deleted_vms_vanish();
    let decision = world.pass();
    assert_eq!(kinds(&decision)[0], "fail_pod");
    assert!(kinds(&decision).contains(&"delete_node"));
    assert!(world.pod().unwrap().terminal);
    assert!(world.objects.record.is_some(), "the record outlives the Node");
    assert_eq!(kinds(&world.pass()), ["remove_finalizer"]);
    assert!(world.objects.record.is_none());
}

#[test]
fn a_pod_that_does_not_start_on_its_node_fails_and_says_why() {
    let mut world = about_to_lift();
    let spec = world.objects.pod.as_mut().unwrap().spec.as_mut().unwrap();
    spec.scheduler_name = Some("its-own".to_owned());
    world.pass();
    world.scheduler_says("Unschedulable", "0/3 nodes are available");
    while world.decide().writes.is_empty() {
        world.now = world.decide().wake.unwrap();
    }
    assert_eq!(kinds(&world.pass()), ["record_status", "delete_vmi"]);
    assert_eq!(kinds(&world.pass()), ["pod_report", "delete_record"]);
    world.deleted_vms_vanish();
    assert_eq!(kinds(&world.pass())[0], "fail_pod");
    let said = world.pod().unwrap().condition.unwrap();
    assert_eq!(said.reason, "NotStarted");
    assert!(
        said.message
            .ends_with("within 30m: Unschedulable: 0/3 nodes are available"),
        "{}",
        said.message
    );
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
}

#[test]
fn a_pod_that_asks_for_something_else_while_it_waits_gets_another_vm() {
    for change in [World::pod_wants_a_zone, World::pod_grows] {
        let mut world = launched();
        let first = world.record().metadata.uid;
        assert!(change(&mut world));
        assert_eq!(
            kinds(&world.pass()),
            ["pod_report", "delete_record", "delete_vmi"]
        );
        assert_eq!(condition_reason(&world), "Replanned");
        assert_eq!(world.settle(80), Ok(Outcome::Lifted));
        assert_ne!(world.record().metadata.uid, first);
    }
}

#[test]
fn a_pod_that_cannot_run_as_it_is_now_waits_without_a_vm() {
    let mut world = launched();
    world.pod_changes(&serde_json::json!({"nodeSelector": {"gpu": "a100"}}));
    assert_eq!(world.settle(80), Ok(Outcome::Gone));
    assert_eq!(condition_reason(&world), "Unplaceable");
    assert!(!world.pod().unwrap().terminal);
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
fn a_deleted_pod_gets_its_grace_period_and_a_margin() {
    let mut world = running();
    world.pod_is_deleted();
    assert!(kinds(&world.decide()).is_empty());
    world.tick(59);
    assert!(kinds(&world.decide()).is_empty(), "30 s of grace, 30 s of margin");
    world.tick(2);
    world.pass();
    assert!(world.living_vms().is_empty());
    assert!(world.pod().is_some(), "not before the VM is gone");
    world.deleted_vms_vanish();
    let decision = world.pass();
    assert_eq!(kinds(&decision)[..2], ["fail_pod", "delete_pod"]);
    assert!(world.pod().is_none());
}

#[test]
fn a_pod_that_was_never_lifted_goes_with_its_vm() {
    let mut world = launched();
    world.pod_is_deleted();
    assert_eq!(world.settle(20), Ok(Outcome::Gone));
}

/// By a controller that gives it up, while it still has its gate.
#[test]
fn a_pod_that_failed_before_it_was_lifted_loses_its_vm() {
    let mut world = launched();
    let pod = world.objects.pod.as_mut().unwrap();
    pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
    assert_eq!(kinds(&world.decide()), ["delete_record", "delete_vmi"]);
}

/// A finalizer of others holds it.
#[test]
fn a_pod_that_is_deleted_before_it_was_lifted_loses_its_vm_at_once() {
    let mut world = launched();
    let pod = world.objects.pod.as_mut().unwrap();
    pod.metadata.deletion_timestamp = Some(Time(world.now));
    assert_eq!(kinds(&world.decide()), ["delete_record", "delete_vmi"]);
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
fn a_reboot_ends_the_vm() {
    let mut world = running();
    world.guest_reboots();
    let decision = world.pass();
    assert!(kinds(&decision).contains(&"delete_vmi"));
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
    assert!(world.pod().unwrap().terminal);
}

/// The leader crashes right after the patch, and the guest reboots before the lift is recorded.
#[test]
fn a_reboot_before_the_lift_is_recorded_counts_too() {
    let mut world = World::new();
    let lifted = |w: &World| w.pod().unwrap().lifted();
    step_until(&mut world, lifted, |w| {
        w.behave();
        for write in w.decide().writes {
            w.apply(&write).unwrap();
            if write.kind() == WriteKind::LiftGate {
                break;
            }
        }
    });
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
fn a_guest_cannot_keep_its_node_with_a_finalizer() {
    let mut world = running();
    world.guest_adds_node_finalizer();
    world.pod_is_deleted();
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
    assert!(world.log.contains(&"strip_node_finalizers"));
}

#[test]
fn a_pod_whose_gate_others_remove_stays_without_a_vm() {
    let mut world = launched();
    world.others_remove_the_gate();
    assert_eq!(world.settle(20), Ok(Outcome::Gone));
    assert_eq!(condition_reason(&world), "GateRemoved");
    let pod = world.pod().unwrap();
    assert!(!pod.pinned && !pod.terminal);
}

#[test]
fn deleting_a_record_by_hand_deletes_its_vm() {
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
fn a_waiting_pod_whose_record_is_deleted_by_hand_starts_again() {
    let mut world = launched();
    let first = world.record_uid();
    world.record_is_deleted();
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
    assert_ne!(world.record_uid(), first);
}
