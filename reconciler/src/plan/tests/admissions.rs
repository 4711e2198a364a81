//! Step 1: which pods get a record.

use std::sync::Arc;

use maroonedpods_common::api::PodReason;

use super::model::{World, kinds};
use crate::plan::{self, Write};

use super::stages::{condition_reason, registered, until};
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
fn what_a_pod_prefers_in_vain_gives_an_event() {
    let mut world = World::new();
    let racks = serde_json::json!({"weight": 1, "preference": {"matchExpressions": [{"key": "rack", "operator": "Exists"}]}});
    world.pod_changes(&serde_json::json!({"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [racks]}}}));
    let notes = world.pass().notes;
    let [note] = notes.as_slice() else {
        panic!("{notes:?}")
    };
    assert!(!note.warning && note.reason == "PreferencesIgnored");
    assert!(note.message.contains("node affinity (rack)"), "{}", note.message);
    assert!(world.objects.record.is_some(), "the pod gets its VM all the same");
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
