//! Each step of the protocol and each of its branches, one by one.

use super::model::{CsrKind, Outcome, World, kinds};
use crate::placement;
use crate::plan::{self, Write, WriteKind};

use super::stages::{about_to_lift, condition_reason, launched, registered, until};
#[test]
fn a_launch_creates_the_secrets_first_and_no_node() {
    let mut world = World::new();
    world.pass();
    let decision = world.decide();
    let order = ["pod_report", "issue_credentials", "create_vmi"];
    assert_eq!(kinds(&decision), order);
    assert!(decision.needs_live_view());
}

#[test]
fn a_pod_reports_what_its_vm_does() {
    let mut world = launched();
    assert_eq!(condition_reason(&world), "Launching");
    world.vm_is_scheduled();
    world.vm_runs();
    world.pass();
    world.tick(6);
    world.pass();
    assert_eq!(condition_reason(&world), "Joining");
}

#[test]
fn a_refused_launch_is_undone_and_then_tried_with_a_dry_run_first() {
    let mut world = World::new();
    world.pass();
    let decision = world.decide();
    let Some((last, made)) = decision.writes.split_last() else {
        panic!("nothing is launched")
    };
    assert_eq!(last.kind(), WriteKind::CreateVmi);
    for write in made {
        world.apply(write).unwrap();
    }
    world.apply(&decision.take_back.unwrap()).unwrap();
    assert!(world.secrets.is_empty() && world.node().is_none());

    let pod = world.pod().unwrap();
    world
        .apply(&plan::refused(&pod, "exceeded quota").unwrap())
        .unwrap();
    let order = ["try_vmi", "issue_credentials", "create_vmi"];
    assert_eq!(kinds(&world.decide()), order);
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
}

/// A feature gate may be turned off or on after the record was made. The check learns that; without the policy, the
/// reconciler finds a reboot itself.
#[test]
fn a_vm_has_a_reboot_policy_if_kubevirt_accepts_it_now() {
    let asks = |before: Option<bool>, known: Option<bool>| {
        let mut world = World::new();
        world.terminate_on_reboot = before;
        world.pass();
        let pod = world.pod().unwrap();
        world
            .apply(&plan::refused(&pod, "the gate is off").unwrap())
            .unwrap();
        world.terminate_on_reboot = known;
        let writes = world.decide().writes;
        let records = writes.iter().filter_map(|write| match write {
            Write::TryVmi { record, .. } | Write::CreateVmi { record, .. } => Some(record),
            _ => None,
        });
        let asks = records.map(|record| record.spec.vm.terminate_on_reboot);
        asks.collect::<Vec<_>>()
    };
    for before in [None, Some(false), Some(true)] {
        assert_eq!(asks(before, Some(false)), [false, false]);
        assert_eq!(asks(before, Some(true)), [true, true]);
    }
    // KubeVirt does not answer: that says nothing.
    assert_eq!(asks(Some(true), None), [true, true]);
    assert_eq!(asks(None, None), [false, false]);
}

#[test]
fn the_node_is_created_once_the_vm_has_an_address_and_before_any_certificate() {
    let mut world = launched();
    assert!(kinds(&world.decide()).is_empty());
    world.vm_is_scheduled();
    assert!(kinds(&world.decide()).is_empty());
    world.vm_runs();
    world.guest_requests(CsrKind::Client);
    let decision = world.pass();
    assert_eq!(kinds(&decision), ["create_node"]);
    assert!(decision.needs_live_view());
    let node = world.node().unwrap();
    assert_eq!(node.address.as_deref(), Some(super::model::ADDRESS));
    assert_eq!(node.topology[super::model::ZONE], "z");
    assert_eq!(kinds(&world.decide()), ["approve_csr"]);
}

#[test]
fn the_node_follows_the_zone_of_its_vms_host() {
    let zone = |world: &World| world.node().unwrap().topology.get(super::model::ZONE).cloned();
    for mut world in [about_to_lift(), until(|w| w.pod().is_some_and(|p| p.ready))] {
        world.host_zone_changes(Some("y"));
        world.pass();
        assert_eq!(zone(&world).as_deref(), Some("y"));
        world.host_zone_changes(None);
        world.pass();
        assert_eq!(zone(&world), None);
        assert!(!kinds(&world.decide()).contains(&"place_node"), "reported once");
    }
    let mut going = until(|w| w.pod().is_some_and(|p| p.ready));
    going.host_zone_changes(None);
    going.record_is_deleted();
    going.pass();
    assert_eq!(zone(&going), None, "a VM may take long to vanish");
}

/// About to be lifted, with a demand by which the scheduler finds no Node for the pod.
fn unplaceable() -> World {
    let spread = serde_json::json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule"}]);
    let mut world = about_to_lift();
    world.is_left_to_the_scheduler();
    let spec = world.objects.pod.as_mut().unwrap().spec.as_mut().unwrap();
    spec.topology_spread_constraints = Some(serde_json::from_value(spread).unwrap());
    // As if it had been so from the start.
    let asked = placement::asked(&world.pod().unwrap()).unwrap();
    world.objects.record.as_mut().unwrap().spec.placement.asked = asked;
    world
}

/// The leader crashes right after the patch that lifts the gate.
fn just_lifted(mut world: World) -> World {
    for write in world.decide().writes {
        world.apply(&write).unwrap();
        if write.kind() == WriteKind::LiftGate {
            return world;
        }
    }
    panic!("no lift was due")
}

#[test]
fn what_a_crash_right_after_the_lift_left_out_is_written_later() {
    for left_to_the_scheduler in [false, true] {
        let mut world = about_to_lift();
        let left_out: &[_] = if left_to_the_scheduler {
            world.is_left_to_the_scheduler();
            &["pod_report", "record_status"]
        } else {
            &["bind_pod", "pod_report", "record_status"]
        };
        let mut world = just_lifted(world);
        assert_eq!(kinds(&world.decide()), left_out);
        world.pass();
        assert_eq!(
            (condition_reason(&world).as_str(), kinds(&world.decide()).len()),
            ("NodeReady", 0)
        );
        assert_eq!(world.pod().unwrap().bound, !left_to_the_scheduler);
    }
}

#[test]
fn a_pod_that_ends_right_after_its_lift_is_neither_ready_nor_bound() {
    for lifted in [just_lifted(unplaceable()), just_lifted(about_to_lift())] {
        let mut finished = lifted.clone();
        let pod = finished.objects.pod.as_mut().unwrap();
        pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
        let mut going = lifted;
        let pod = going.objects.pod.as_mut().unwrap();
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(going.now));
        for world in [finished, going] {
            assert_eq!(kinds(&world.decide()), ["record_status"]);
        }
    }
}

#[test]
fn a_pod_that_the_scheduler_cannot_place_is_bound_by_us_once_lifted() {
    let mut world = unplaceable();
    assert!(
        !kinds(&world.decide()).contains(&"bind_pod"),
        "not while it is gated"
    );
    world.pass();
    assert_eq!(kinds(&world.decide()), ["bind_pod"]);
    world.pass();
    assert!(world.pod().unwrap().bound);
    assert!(kinds(&world.decide()).is_empty());

    let mut ordinary = about_to_lift();
    ordinary.is_left_to_the_scheduler();
    assert!(!kinds(&ordinary.pass()).contains(&"bind_pod"));
    assert!(!kinds(&ordinary.decide()).contains(&"bind_pod"));
}

#[test]
fn a_pod_whose_node_was_deleted_right_after_its_lift_goes_with_it() {
    let mut world = just_lifted(about_to_lift());
    world.node_is_deleted();
    assert!(kinds(&world.decide()).contains(&"bind_pod"));
    assert_eq!(world.settle(60), Ok(Outcome::Gone));
}

#[test]
fn a_binding_is_told_in_a_schedulers_words_and_once() {
    let told = |decision: &plan::Decision| {
        let notes = decision.notes.iter().filter(|note| note.reason == "Scheduled");
        notes
            .map(|note| (note.warning, note.message.clone()))
            .collect::<Vec<_>>()
    };
    let words = "Successfully assigned ns/pod to marooned-8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";
    let once = [(false, words.to_owned())];
    let mut world = about_to_lift();
    assert_eq!(told(&world.pass()), once);
    assert_eq!(told(&world.decide()), []);
    assert_eq!(told(&just_lifted(about_to_lift()).decide()), once);
    let mut left = just_lifted(unplaceable());
    assert_eq!(told(&left.pass()), once);
    assert_eq!(told(&left.decide()), []);
}

#[test]
fn a_ready_node_waits_for_the_gates_of_others() {
    let mut world = about_to_lift();
    let gates = |world: &mut World, gates: &[&str]| {
        let gates: Vec<_> = gates
            .iter()
            .map(|gate| serde_json::json!({"name": gate}))
            .collect();
        let spec = world.objects.pod.as_mut().unwrap().spec.as_mut().unwrap();
        spec.scheduling_gates = serde_json::from_value(gates.into()).unwrap();
    };
    let ours = "maroonedpods.io/gate";
    gates(&mut world, &[ours, "kueue"]);
    assert_eq!(kinds(&world.pass()), ["pod_report"]);
    assert_eq!(condition_reason(&world), "WaitingForOtherGates");
    // However long that takes, the node is there.
    world.tick(3600);
    assert!(kinds(&world.decide()).is_empty());
    gates(&mut world, &[ours]);
    assert!(kinds(&world.pass()).contains(&"lift_gate"));
    assert!(world.pod().unwrap().bound);
}

#[test]
fn a_node_without_the_labels_that_its_pod_selects_does_not_get_it() {
    let mut world = about_to_lift();
    let pod = world.objects.pod.as_mut().unwrap();
    let selector = pod.spec.as_mut().unwrap().node_selector.as_mut().unwrap();
    selector.insert("disk".to_owned(), "fast".to_owned());
    let asked = placement::asked(&world.pod().unwrap()).unwrap();
    world.objects.record.as_mut().unwrap().spec.placement.asked = asked;
    assert_eq!(kinds(&world.pass()), ["pod_report"]);
    assert_eq!(condition_reason(&world), "Joining");
    let node = world.objects.node.as_mut().unwrap();
    let labels = node.metadata.labels.as_mut().unwrap();
    labels.insert("disk".to_owned(), "fast".to_owned());
    assert!(kinds(&world.pass()).contains(&"lift_gate"));
}

#[test]
fn a_vm_is_recorded_before_any_other_write_for_it() {
    let mut world = until(|w| w.vmi().is_some());
    world.vm_is_scheduled();
    world.vm_runs();
    world.guest_requests(CsrKind::Client);
    assert_eq!(kinds(&world.decide()), ["record_status"]);
}

#[test]
fn the_address_is_that_of_the_named_interface() {
    let mut world = launched();
    world.vm_is_scheduled();
    world.vm_runs();
    world.pass();
    world.change_node(|node| node.status.as_mut().unwrap().addresses = None);
    assert_eq!(kinds(&world.decide()), ["place_node"]);
    world.pass();
    assert_eq!(
        world.node().unwrap().address.as_deref(),
        Some(super::model::ADDRESS)
    );
}

#[test]
fn only_the_expected_request_is_approved() {
    let mut world = launched();
    world.vm_is_scheduled();
    world.vm_runs();
    world.guest_requests(CsrKind::OtherNode);
    world.tick(1);
    world.guest_requests(CsrKind::Client);
    world.pass();
    let decision = world.pass();
    let verdicts: Vec<_> = kinds(&decision)
        .into_iter()
        .filter(|k| k.ends_with("_csr"))
        .collect();
    assert_eq!(verdicts, ["deny_csr", "approve_csr"]);
    world.guest_requests(CsrKind::Client);
    assert_eq!(
        kinds(&world.decide()),
        ["deny_csr"],
        "one certificate per attempt"
    );
}

#[test]
fn the_credential_is_deleted_once_the_kubelet_has_reported() {
    let world = until(|w| w.node().is_some_and(|n| !n.system_uuid.is_empty()));
    let kinds = kinds(&world.decide());
    let at = |kind| kinds.iter().position(|k| *k == kind).unwrap();
    assert!(at("revoke_credentials") < at("record_status"));
    assert!(registered().secrets.is_empty());
}

#[test]
fn the_gate_is_lifted_in_one_patch_that_pins() {
    let mut world = about_to_lift();
    let decision = world.pass();
    assert_eq!(
        kinds(&decision)[kinds(&decision).len() - 5..],
        [
            "remove_startup_taint",
            "lift_gate",
            "bind_pod",
            "pod_report",
            "record_status"
        ]
    );
    assert!(world.pod().unwrap().lifted());
    let tolerations = world.objects.pod.unwrap().spec.unwrap().tolerations.unwrap();
    let own = tolerations
        .iter()
        .filter(|t| t.key.as_deref() == Some("maroonedpods.io/dedicated"));
    assert_eq!(own.count(), 2);
}

#[test]
fn a_cluster_that_is_not_ready_starts_no_vm_and_serves_running_ones() {
    let why = "the cluster approves requests itself".to_owned();
    let mut fresh = World::new();
    fresh.hold = Some(why.clone());
    fresh.pass();
    assert_eq!(condition_reason(&fresh), "ClusterNotReady");
    assert!(fresh.decide().writes.is_empty(), "{:?}", kinds(&fresh.decide()));

    // A record from before the fault does not help.
    let mut recorded = World::new();
    recorded.pass();
    recorded.hold = Some(why.clone());
    assert_eq!(kinds(&recorded.decide()), ["pod_report"]);
    recorded.hold = None;
    assert!(kinds(&recorded.decide()).contains(&"issue_credentials"));

    let mut ready = about_to_lift();
    ready.hold = Some(why);
    assert!(kinds(&ready.decide()).contains(&"lift_gate"));
}

#[test]
fn a_guest_that_waits_for_its_node_does_not_queue_behind_new_pods() {
    let mut world = launched();
    world.vm_is_scheduled();
    world.vm_runs();
    let decision = world.decide();
    assert_eq!(kinds(&decision), ["create_node"]);
    assert!(
        decision
            .writes
            .iter()
            .all(|write| write.leads_to_lift() && !write.starts())
    );
}
