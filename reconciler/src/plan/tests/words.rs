//! What people read: the message on the pod, and the events.

use jiff::SignedDuration;
use maroonedpods_common::api::{Phase, PodReason};
use serde_json::json;

use super::model::{ADDRESS, World};
use super::stages::{about_to_lift, condition_reason, launched, registered, until};
use crate::plan::{self, Decision, Write};

fn running() -> World {
    until(|w| w.pod().is_some_and(|p| p.ready) && w.status().phase == Phase::Lifted)
}

fn message(world: &World) -> String {
    world.pod().and_then(|p| p.condition).unwrap().message
}

/// Asserts the condition's reason, and a part of its message.
#[track_caller]
fn assert_says(world: &World, reason: &str, part: &str) {
    assert_eq!(condition_reason(world), reason);
    assert!(message(world).contains(part), "{}", message(world));
}

/// The events, as whether they warn, their reasons and their messages.
fn events(decision: &Decision) -> Vec<(bool, &str, &str)> {
    let notes = decision.notes.iter();
    notes
        .map(|note| (note.warning, note.reason, note.message.as_str()))
        .collect()
}

#[test]
fn waits_that_people_must_end_are_events_too() {
    let report = |decision: &Decision| {
        let mut reports = decision.writes.iter().filter_map(|write| match write {
            Write::PodReport(report) => Some(report.clone()),
            _ => None,
        });
        reports.next().unwrap()
    };
    let mut world = World::new();
    world.settings = None;
    let waits = report(&world.pass());
    let note = waits.note().unwrap();
    assert_eq!(
        (note.warning, note.reason, note.message),
        (true, "NoConfig", waits.message)
    );
    let mut joins = launched();
    joins.vm_is_scheduled();
    joins.vm_runs();
    joins.pass();
    joins.tick(6);
    let goes_on = report(&joins.pass());
    assert_eq!((goes_on.reason, goes_on.note()), (PodReason::Joining, None));
}

#[test]
fn a_pod_that_loses_its_node_says_why() {
    type Lose = fn(&mut World);
    let losses: [(Lose, &str, bool); 4] = [
        (
            |w| {
                w.record_is_deleted();
            },
            "the pod's MaroonedNode was deleted",
            false,
        ),
        (
            |w| {
                w.vm_ends();
            },
            "the pod's VM has ended",
            true,
        ),
        (
            |w| {
                w.guest_reboots();
            },
            "the pod's VM rebooted",
            true,
        ),
        (
            |w| {
                w.pod_is_deleted();
                w.decide();
                w.tick(61);
            },
            "did not stop it within its grace period",
            true,
        ),
    ];
    for (lose, part, is_event) in losses {
        let mut world = running();
        lose(&mut world);
        let decision = world.pass();
        assert_says(&world, "NodeLost", part);
        match events(&decision).as_slice() {
            [(true, "NodeLost", said)] if is_event => assert!(said.contains(part), "{said}"),
            others => assert!(!is_event && others.is_empty(), "{part}: {others:?}"),
        }
    }
}

#[test]
fn a_pod_that_keeps_no_vm_says_why() {
    let mut opened = launched();
    opened.others_remove_the_gate();
    let decision = opened.pass();
    assert_says(&opened, "GateRemoved", "maroonedpods.io/gate was removed");
    assert_eq!(
        events(&decision),
        [(true, "GateRemoved", message(&opened).as_str())]
    );

    let mut early = launched();
    early.lift_by_hand();
    assert!(
        early.decide().writes.is_empty(),
        "its record may be read before it"
    );
    early.tick(4);
    assert!(early.decide().writes.is_empty());
    early.tick(1);
    early.pass();
    let decision = early.pass();
    let part = "the gate was lifted for an earlier VM of the pod";
    assert_says(&early, "NodeLost", part);
    assert!(
        matches!(events(&decision).as_slice(), [(true, "NodeLost", said)] if said.contains(part)),
        "{:?}",
        decision.notes
    );

    let mut world = World::new();
    let mut observed = world.live_view(&world.objects);
    observed.pod.as_mut().unwrap().names_nodes = true;
    let decision = plan::decide(&observed, world.now);
    world.apply(&decision.writes[0]).unwrap();
    assert_says(
        &world,
        "NamesNodes",
        "without kubernetes.io/hostname and metadata.name",
    );
}

#[test]
fn a_pod_that_is_done_gives_no_event() {
    let mut finished = running();
    finished.pod_finishes();
    finished.decide();
    finished.tick(61);
    let decision = finished.pass();
    assert!(!decision.writes.is_empty() && decision.notes.is_empty());
    let mut gone = launched();
    gone.pod_is_deleted();
    let decision = gone.pass();
    assert!(!decision.writes.is_empty() && decision.notes.is_empty());
}

#[test]
fn a_start_says_how_far_it_is() {
    let mut world = launched();
    world.vm_is_scheduled();
    world.vm_runs();
    world.pass();
    assert_says(&world, "Launching", "a virtual machine is being started");
    world.tick(6);
    world.pass();
    assert_says(&world, "Joining", "the VM runs; its node has not joined yet");

    let mut joined = registered();
    joined.kubelet_is_unready();
    joined.tick(6);
    joined.pass();
    assert_says(
        &joined,
        "Joining",
        "the VM's node has joined and is not ready yet",
    );

    let mut blocked = launched();
    blocked.vm_is_blocked();
    blocked.tick(6);
    blocked.pass();
    assert_says(
        &blocked,
        "VMBlocked",
        "the VM cannot start: Unschedulable: 0/3 nodes",
    );

    // The pod still says that its launch was refused, which is over.
    let mut late = launched();
    late.apply(&plan::refused(&late.pod().unwrap(), "exceeded quota").unwrap())
        .unwrap();
    late.vm_is_scheduled();
    late.tick(6);
    late.pass();
    assert_says(&late, "Launching", "the VM is starting (phase Scheduling)");
}

#[test]
fn steps_are_reported_no_sooner_than_people_can_read() {
    let mut world = launched();
    world.vm_is_blocked();
    world.tick(4);
    let decision = world.decide();
    assert!(decision.writes.is_empty(), "{:?}", decision.writes);
    let wakes_in = decision.wake.unwrap().duration_since(world.clock());
    assert_eq!(wakes_in, SignedDuration::from_secs(1));
}

#[test]
fn each_stage_is_an_event() {
    let mut world = World::new();
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.extend(world.pass().notes);
        world.behave();
    }
    let said: Vec<_> = seen.iter().map(|note| (note.warning, note.reason)).collect();
    assert_eq!(
        said,
        [
            (false, "VMCreating"),
            (false, "NodeJoined"),
            (false, "GateLifted"),
            (false, "Scheduled")
        ]
    );
    for (note, part) in seen.iter().zip([
        "starting VM marooned-",
        "has joined",
        "reserved for this pod",
        "assigned",
    ]) {
        assert!(note.message.contains(part), "{}", note.message);
    }
}

#[test]
fn a_failed_attempt_says_why_and_when_the_next_one_is() {
    let why = "the VM ended (phase Failed) before its node was ready";
    let mut world = launched();
    world.vm_ends();
    let decision = world.pass();
    assert_eq!(
        events(&decision),
        [(true, "VMEnded", format!("attempt 1: {why}").as_str())]
    );
    assert_eq!(world.status().message, why);
    world.pass();
    assert_eq!(
        message(&world),
        format!("attempt 1 of 3 failed: {why}; its VM, Node and Secrets are deleted before the next attempt")
    );
    world.deleted_vms_vanish();
    world.pass();
    assert_eq!(
        world.status().message,
        format!("attempt 1 of 3 failed: {why}; the next starts after 5s")
    );
}

#[test]
fn each_failure_says_what_was_wrong() {
    type Fault = fn(&mut World);
    let faults: [(Fault, &str); 7] = [
        (
            |w| {
                w.vm_is_replaced();
            },
            "another one with the same name",
        ),
        (
            |w| {
                w.vm_vanishes();
            },
            "the VM was deleted before its node was ready",
        ),
        (
            |w| {
                w.guest_reboots();
            },
            "rebooted before its pod could run",
        ),
        (
            |w| {
                w.change_node(|n| {
                    let info = n.status.as_mut().unwrap().node_info.as_mut().unwrap();
                    "elsewhere".clone_into(&mut info.system_uuid);
                });
            },
            "runs on machine elsewhere, which is not its VM",
        ),
        (
            |w| {
                w.change_node(|n| n.metadata.uid = Some("another".to_owned()));
            },
            "deleted and created again",
        ),
        (
            |w| {
                w.change_node(|n| n.spec.as_mut().unwrap().taints.as_mut().unwrap().truncate(0));
            },
            "lost the taints that keep other pods off",
        ),
        (
            |w| {
                w.change_node(|n| n.metadata.labels = None);
            },
            "lost the labels",
        ),
    ];
    for (fault, part) in faults {
        let mut world = about_to_lift();
        fault(&mut world);
        world.pass();
        assert!(
            world.status().message.contains(part),
            "{part}: {}",
            world.status().message
        );
    }
}

/// A kubelet may report its machine in capitals: RFC 9562 lets a UUID be read in either case.
#[test]
fn a_machine_in_capitals_is_the_same() {
    let mut world = about_to_lift();
    world.change_node(|n| {
        let info = n.status.as_mut().unwrap().node_info.as_mut().unwrap();
        info.system_uuid = info.system_uuid.to_uppercase();
    });
    let lifts = |write: &Write| matches!(write, Write::LiftGate(lift) if lift.address == ADDRESS);
    assert!(world.decide().writes.iter().any(lifts));
}

#[test]
fn a_node_that_is_being_deleted_is_not_the_pods() {
    let mut world = about_to_lift();
    world.guest_adds_node_finalizer();
    world.node_is_deleted();
    world.pass();
    let said = world.status().message;
    assert!(said.contains("the node is being deleted"), "{said}");
}

#[test]
fn a_changed_reason_to_wait_is_reported_again() {
    let mut world = about_to_lift();
    world.node_is_tainted();
    world.decide();
    world.tick(10);
    assert_eq!(world.pass().writes.len(), 1);
    assert_says(&world, "Joining", "for good: example.test/maintenance:NoSchedule");
    world.change_node(|n| {
        let taints = n.spec.as_mut().unwrap().taints.as_mut().unwrap();
        taints.retain(|t| t.key != "example.test/maintenance");
        taints.push(serde_json::from_value(json!({"key": "other", "effect": "NoExecute"})).unwrap());
    });
    assert_eq!(world.pass().writes.len(), 1);
    assert_says(&world, "Joining", "for good: other:NoExecute");
    assert!(world.decide().writes.is_empty());
}

#[test]
fn a_missed_deadline_says_what_was_waited_for_and_what_was_in_the_way() {
    let mut slow = launched();
    slow.vm_is_blocked();
    slow.decide();
    slow.tick(300);
    slow.pass();
    assert_eq!(
        slow.status().message,
        "the VM did not run within 5m (Unschedulable: 0/3 nodes)"
    );
    let mut lost = launched();
    lost.vm_is_scheduled();
    lost.vm_runs();
    lost.pass();
    lost.tick(300);
    lost.pass();
    assert_eq!(lost.status().message, "the VM's node was not ready within 5m");
}

#[test]
fn a_single_vm_is_one_vm() {
    let mut world = World::new();
    let mut settings = (*world.settings.clone().unwrap()).clone();
    settings.spec.limits.vms_per_namespace = Some(1);
    world.settings = Some(settings.into());
    world.neighbours = 1;
    world.pass();
    assert_says(&world, "NamespaceLimit", "namespace ns has the 1 VM that limits.");
}

#[test]
fn a_pod_without_kubevirt_says_so_while_it_waits() {
    let world = World::new();
    let pod = world.pod().unwrap();
    let Some(Write::PodReport(report)) = plan::provider_missing(&pod) else {
        panic!("no report")
    };
    assert!(!report.ready && report.message.contains("KubeVirt is not installed"));
    let mut told = world.clone();
    told.apply(&Write::PodReport(report)).unwrap();
    assert_eq!(plan::provider_missing(&told.pod().unwrap()), None, "said once");
    let edits: [fn(&mut crate::view::PodView); 3] = [
        |p| p.gate_index = None,
        |p| p.exempt = true,
        |p| p.deletion_deadline = Some(jiff::Timestamp::UNIX_EPOCH),
    ];
    for (nth, edit) in edits.iter().enumerate() {
        let mut pod = world.pod().unwrap();
        edit(&mut pod);
        assert_eq!(plan::provider_missing(&pod), None, "case {nth}");
    }
}

/// The API's conventions: `lastTransitionTime` moves when the status changes, and not with the reason.
#[test]
fn only_a_changed_status_is_a_transition() {
    let transition = |decision: &Decision| {
        let mut reports = decision.writes.iter().filter_map(|write| match write {
            Write::PodReport(report) => Some((report.ready, report.transition)),
            _ => None,
        });
        reports.next().unwrap()
    };
    let mut world = World::new();
    world.pass();
    assert_eq!(transition(&world.pass()), (false, true), "the first");
    let mut blocked = launched();
    blocked.vm_is_blocked();
    blocked.tick(6);
    assert_eq!(transition(&blocked.decide()), (false, false), "another reason");
    assert_eq!(transition(&about_to_lift().decide()), (true, true), "ready");
}

#[test]
fn a_text_that_is_too_long_for_an_event_is_shortened() {
    let mut world = World::new();
    world.hold = Some("x".repeat(5000));
    world.pass();
    assert!(message(&world).len() <= 1024, "{}", message(&world).len());
    let mut odd = about_to_lift();
    odd.change_node(|n| {
        let info = json!({"systemUUID": "z".repeat(5000)});
        n.status.as_mut().unwrap().node_info = serde_json::from_value(info).ok();
    });
    let decision = odd.pass();
    assert!(decision.notes.iter().all(|note| note.message.len() <= 1024));
    assert!(odd.status().message.len() <= 1024);
}
