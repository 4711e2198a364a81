//! Each step of the protocol and each of its branches, one by one.

use std::sync::Arc;

use maroonedpods_common::api::{NodeCondition, Phase, PodReason};
use maroonedpods_common::names;

use super::model::{CsrKind, Outcome, World, kinds};
use crate::objects::record;
use crate::plan::{self, Write, WriteKind};

/// A world in which all parties acted properly until `stage` holds.
pub(super) fn until(stage: impl Fn(&World) -> bool) -> World {
    let mut world = World::new();
    for _ in 0..40 {
        if stage(&world) {
            return world;
        }
        world.pass();
        if stage(&world) {
            return world;
        }
        world.behave();
    }
    panic!("the stage was never reached: {:?}", world.status());
}

/// The record is in phase Launched, and KubeVirt has not acted yet.
pub(super) fn launched() -> World {
    let mut world = World::new();
    while world.status().phase != Phase::Launched {
        world.pass();
    }
    world
}

fn registered() -> World {
    until(|w| w.status().phase == Phase::Registered)
}

/// Everything that the lift waits for is in place.
pub(super) fn about_to_lift() -> World {
    let open = |w: &World| w.taints_in_the_way() == [names::STARTUP_TAINT];
    let ready = |w: &World| w.node().is_some_and(|n| n.ready) && open(w);
    let world = until(|w| w.status().phase == Phase::Registered && ready(w));
    assert!(kinds(&world.decide()).contains(&"lift_gate"));
    world
}

pub(super) fn condition_reason(world: &World) -> String {
    world
        .pod()
        .and_then(|p| p.condition)
        .map(|condition| condition.reason)
        .unwrap_or_default()
}

pub(super) fn launched_condition(world: &World) -> Option<(String, String)> {
    record::condition(&world.status(), NodeCondition::Launched).map(|c| (c.status.clone(), c.reason.clone()))
}

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
fn a_gated_pod_gets_its_record_and_nothing_else() {
    assert_eq!(kinds(&World::new().decide()), ["create_record"]);
}

#[test]
fn the_dns_address_is_kept_in_the_record_and_a_missing_one_gives_an_event() {
    let recorded = |world: &World| world.objects.record.clone().unwrap().spec.vm.join.cluster_dns;
    let mut world = World::new();
    assert!(world.pass().notes.is_empty());
    world.cluster_dns = None;
    assert_eq!(recorded(&world).as_deref(), Some("10.96.0.10"));

    let mut without = World::new();
    without.cluster_dns = None;
    let notes = without.pass().notes;
    assert_eq!(recorded(&without), None);
    let [note] = notes.as_slice() else {
        panic!("{notes:?}")
    };
    assert!(note.warning && note.reason == "NoClusterDNS" && note.message.contains("join.clusterDNS"));
}

#[test]
fn without_a_config_the_pod_reports_it() {
    let mut world = World::new();
    world.settings = None;
    world.pass();
    assert_eq!(condition_reason(&world), "NoConfig");
    assert!(kinds(&world.decide()).is_empty(), "reported once");
}

#[test]
fn a_foreign_gate_is_waited_for_unless_configured_otherwise() {
    let mut world = World::new();
    let pod = world.objects.pod.as_mut().unwrap();
    let gates = pod.spec.as_mut().unwrap().scheduling_gates.as_mut().unwrap();
    gates.push(serde_json::from_value(serde_json::json!({"name": "kueue"})).unwrap());
    world.pass();
    assert_eq!(condition_reason(&world), "WaitingForOtherGates");
    let mut overlapping = (*world.settings.clone().unwrap()).clone();
    overlapping.spec.provision_while_gated = true;
    world.settings = Some(Arc::new(overlapping));
    assert_eq!(kinds(&world.decide()), ["create_record"]);
}

#[test]
fn a_pod_that_fits_no_vm_reports_it() {
    let world = World::new();
    let mut observed = world.live_view(&world.objects);
    observed.size = Some(Err("too large".to_owned()));
    let decision = plan::decide(&observed, world.now);
    let [Write::PodReport(report)] = decision.writes.as_slice() else {
        panic!("{:?}", decision.writes)
    };
    assert_eq!(
        (report.reason, report.message.as_str()),
        (PodReason::Unsizable, "too large")
    );
}

#[test]
fn a_pod_that_names_its_node_reports_it_and_keeps_no_vm() {
    let decide_with_names = |world: &World| {
        let mut observed = world.live_view(&world.objects);
        observed.pod.as_mut().unwrap().names_nodes = true;
        plan::decide(&observed, world.now)
    };
    let decision = decide_with_names(&World::new());
    let [Write::PodReport(report)] = decision.writes.as_slice() else {
        panic!("{:?}", decision.writes)
    };
    assert_eq!(report.reason, PodReason::NamesNodes);
    // A gated pod's affinity may be changed while its VM boots.
    let begun = kinds(&decide_with_names(&registered()));
    assert!(
        begun.contains(&"delete_record") && begun.contains(&"delete_vmi"),
        "{begun:?}"
    );
    // After the lift it cannot be changed.
    let running = until(|w| w.pod().is_some_and(|pod| pod.lifted()));
    assert!(!kinds(&decide_with_names(&running)).contains(&"delete_record"));
}

#[test]
fn pods_that_are_not_ours_or_have_finished_are_left_alone() {
    type Edit = fn(&mut crate::view::PodView);
    let edits: [Edit; 4] = [
        |p| p.exempt = true,
        |p| p.terminal = true,
        |p| p.deletion_deadline = Some(jiff::Timestamp::UNIX_EPOCH),
        |p| p.gate_index = None,
    ];
    for (nth, edit) in edits.iter().enumerate() {
        let world = World::new();
        let mut observed = world.live_view(&world.objects);
        edit(observed.pod.as_mut().unwrap());
        let decision = plan::decide(&observed, world.now);
        assert!(decision.writes.is_empty() && !decision.done, "case {nth}");
    }
}

#[test]
fn without_pod_and_record_the_worker_is_done() {
    let mut world = World::new();
    world.objects.pod = None;
    assert!(world.decide().done);
}

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

#[test]
fn a_pod_that_the_scheduler_cannot_place_is_bound_by_us_once_lifted() {
    let spread = serde_json::json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule"}]);
    let mut world = about_to_lift();
    let spec = world.objects.pod.as_mut().unwrap().spec.as_mut().unwrap();
    spec.topology_spread_constraints = Some(serde_json::from_value(spread).unwrap());
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
    ordinary.pass();
    assert!(!kinds(&ordinary.decide()).contains(&"bind_pod"));
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
        kinds(&decision)[kinds(&decision).len() - 4..],
        ["remove_startup_taint", "lift_gate", "pod_report", "record_status"]
    );
    assert!(world.pod().unwrap().lifted());
    let tolerations = world.objects.pod.unwrap().spec.unwrap().tolerations.unwrap();
    let own = tolerations
        .iter()
        .filter(|t| t.key.as_deref() == Some("maroonedpods.io/dedicated"));
    assert_eq!(own.count(), 2);
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
    let forgeries: [Forge; 5] = [
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
    while world.attempt() == 1 {
        world.pass();
    }
    assert!(world.secrets.is_empty() && world.node().is_none() && world.objects.vmis.is_empty());
    assert_eq!(condition_reason(&world), "Retrying");
    let waiting = world.decide();
    assert!(waiting.writes.is_empty());
    world.sleep_until(waiting.wake.unwrap());
    world.pass();
    assert!(world.vmi().unwrap().name.ends_with("-r2"));
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
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
