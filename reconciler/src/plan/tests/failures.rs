//! What fails an attempt, and what follows.

use k8s_openapi::api::core::v1::Taint;
use maroonedpods_common::api::Phase;
use maroonedpods_common::names;

use super::model::{Outcome, World, kinds};
use crate::plan::Write;

use super::stages::{about_to_lift, condition_reason, launched, launched_condition, step_until};

/// The next pass fails the attempt for `reason` and deletes its VM.
#[track_caller]
fn fails(mut world: World, reason: &str) {
    world.pass();
    assert_eq!(
        launched_condition(&world),
        Some(("False".to_owned(), reason.to_owned()))
    );
    assert!(world.living_vms().is_empty(), "the VM must go");
    assert!(world.pod().unwrap().gate_index.is_some(), "the pod must wait");
}

#[test]
fn no_lift_while_anything_is_missing() {
    type Break = fn(&mut World) -> bool;
    let breaks: [(&str, Break); 4] = [
        ("not ready", World::kubelet_is_unready),
        ("no address", |w| {
            w.change_node(|n| n.status.as_mut().unwrap().addresses = None)
        }),
        ("the VM goes", |w| {
            let vmi = w.vmi().unwrap();
            w.apply(&Write::DeleteVmi(vmi.reference())).is_ok()
        }),
        ("not registered", |w| {
            let status = w.objects.record.as_mut().unwrap().status.as_mut().unwrap();
            status.phase = Phase::Launched;
            true
        }),
    ];
    for (what, break_it) in breaks {
        let mut world = about_to_lift();
        assert!(break_it(&mut world));
        assert!(!kinds(&world.decide()).contains(&"lift_gate"), "{what}");
    }
}

#[test]
fn a_node_that_is_not_the_vms_own_fails_the_attempt() {
    type Forge = fn(&mut World) -> bool;
    fn taints(w: &mut World, change: fn(&mut Vec<Taint>)) -> bool {
        w.change_node(|n| change(n.spec.as_mut().unwrap().taints.as_mut().unwrap()))
    }
    let forgeries: [Forge; 8] = [
        // The identity taint of another pod, with other effects, under another key.
        |w| taints(w, |all| all[2].value = Some("another".to_owned())),
        |w| taints(w, |all| "PreferNoSchedule".clone_into(&mut all[2].effect)),
        |w| taints(w, |all| "example.org/dedicated".clone_into(&mut all[3].key)),
        |w| w.change_node(|n| n.metadata.uid = Some("another".to_owned())),
        |w| w.change_node(|n| drop(n.metadata.labels.as_mut().unwrap().remove(names::CLASS_LABEL))),
        |w| w.change_node(|n| drop(n.metadata.labels.as_mut().unwrap().remove(names::IDENTITY_LABEL))),
        |w| w.change_node(|n| drop(n.spec.as_mut().unwrap().taints.as_mut().unwrap().remove(0))),
        |w| {
            w.change_node(|n| {
                "another".clone_into(&mut n.status.as_mut().unwrap().node_info.as_mut().unwrap().system_uuid);
            })
        },
    ];
    for forge in forgeries {
        let mut world = about_to_lift();
        assert!(forge(&mut world));
        fails(world, "IdentityMismatch");
    }
}

#[test]
fn deadlines_fail_the_attempt() {
    let mut slow_to_boot = launched();
    assert_eq!(
        slow_to_boot.decide().wake.map(|at| at > slow_to_boot.now),
        Some(true)
    );
    slow_to_boot.tick(299);
    slow_to_boot.pass();
    assert_eq!(launched_condition(&slow_to_boot).unwrap().0, "True");
    slow_to_boot.tick(2);
    fails(slow_to_boot, "BootDeadline");
    let mut slow_to_join = launched();
    slow_to_join.tick(200);
    slow_to_join.vm_is_scheduled();
    slow_to_join.vm_runs();
    slow_to_join.pass();
    slow_to_join.tick(200);
    slow_to_join.pass();
    assert_eq!(launched_condition(&slow_to_join).unwrap().0, "True");
    slow_to_join.tick(101);
    fails(slow_to_join, "JoinDeadline");
}

#[test]
fn a_vm_that_ends_goes_or_is_replaced_fails_the_attempt() {
    let mut rebooted = about_to_lift();
    rebooted.guest_reboots();
    fails(rebooted, "Rebooted");
    let mut ended = launched();
    ended.vm_ends();
    fails(ended, "VMEnded");
    let mut gone = launched();
    gone.vm_vanishes();
    fails(gone, "VMGone");
    let mut replaced = launched();
    replaced.vm_is_replaced();
    fails(replaced, "VMReplaced");
}

#[test]
fn a_vm_without_an_ipv4_address_fails_at_once() {
    let mut world = launched();
    world.vm_is_scheduled();
    world.vm_runs();
    world.vm_has_only_ipv6();
    let message = world.pass().notes.remove(0).message;
    assert!(
        message.contains("fd00::7") && message.contains("need a pod network with IPv4"),
        "{message}"
    );
    assert_eq!(
        launched_condition(&world),
        Some(("False".to_owned(), "NoIPv4".to_owned()))
    );
    world.pass();
    assert_eq!(condition_reason(&world), "Retrying");
}

#[test]
fn a_blocked_vm_is_reported_once() {
    let mut world = launched();
    world.vm_is_blocked();
    world.tick(6);
    world.pass();
    assert_eq!(condition_reason(&world), "VMBlocked");
    assert!(kinds(&world.decide()).is_empty());
}

#[test]
fn a_failed_attempt_leaves_nothing_and_the_next_one_waits() {
    let mut world = launched();
    world.vm_ends();
    world.pass();
    assert_eq!(kinds(&world.decide()), ["pod_report"], "the VM is not gone yet");
    world.pass();
    assert_eq!(condition_reason(&world), "Retrying");
    assert!(kinds(&world.decide()).is_empty(), "the VM is not gone yet");
    world.deleted_vms_vanish();
    step_until(&mut world, |w| w.attempt() > 1, |w| drop(w.pass()));
    assert!(world.secrets.is_empty() && world.node().is_none() && world.objects.vmis.is_empty());
    assert_eq!(condition_reason(&world), "Retrying");
    let waiting = world.decide();
    assert!(waiting.writes.is_empty());
    world.sleep_until(waiting.wake.unwrap());
    world.pass();
    assert!(world.vmi().unwrap().name.ends_with("-r2"));
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
}
