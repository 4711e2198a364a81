//! NetworkPolicies that select the pod, at each stage of its life.

use maroonedpods_common::api::NetworkPolicies;

use super::model::{Outcome, World, kinds};
use super::stages::{about_to_lift, condition_reason, until};

fn selected(mut world: World, mode: NetworkPolicies) -> World {
    world.configure_policies(mode);
    world.policy_is_written();
    world
}

#[test]
fn an_unenforced_policy_is_reported_with_the_lift_without_another_write() {
    let quiet = about_to_lift().decide();
    let mut world = selected(about_to_lift(), NetworkPolicies::Warn);
    let decision = world.pass();
    assert_eq!(kinds(&decision), kinds(&quiet));
    let warned = decision.notes.iter().filter(|n| n.warning).collect::<Vec<_>>();
    assert!(
        matches!(warned.as_slice(), [note] if note.reason == "NetworkPolicyNotEnforced"),
        "{warned:?}"
    );
    assert!(warned[0].message.ends_with("deny-all"), "{}", warned[0].message);
    assert_eq!(condition_reason(&world), "NetworkPolicyNotEnforced");
    let decision = world.decide();
    assert!(
        decision.writes.is_empty() && decision.notes.is_empty(),
        "reported once"
    );
}

#[test]
fn a_policy_that_comes_and_goes_is_reported_once_each_time() {
    let mut world = until(|w| w.pod().is_some_and(|p| p.lifted()) && kinds(&w.decide()).is_empty());
    assert_eq!(condition_reason(&world), "NodeReady");
    world = selected(world, NetworkPolicies::Refuse);
    let decision = world.pass();
    assert_eq!(
        (kinds(&decision).as_slice(), decision.notes.len()),
        (&["pod_report"][..], 1)
    );
    assert_eq!(condition_reason(&world), "NetworkPolicyNotEnforced");
    assert!(kinds(&world.decide()).is_empty());
    world.policies.clear();
    let decision = world.pass();
    assert_eq!(
        (kinds(&decision).as_slice(), decision.notes.len()),
        (&["pod_report"][..], 0)
    );
    assert_eq!(condition_reason(&world), "NodeReady");
}

#[test]
fn in_refuse_mode_a_selected_pod_gets_no_vm() {
    let mut world = selected(World::new(), NetworkPolicies::Refuse);
    let decision = world.pass();
    assert_eq!(
        (kinds(&decision).as_slice(), decision.notes.len()),
        (&["pod_report"][..], 1)
    );
    assert!(kinds(&world.decide()).is_empty(), "reported once");
    // A user who cannot change the policy may change the configuration.
    assert_eq!(
        kinds(&selected(world.clone(), NetworkPolicies::Warn).decide()),
        ["create_record"]
    );
    world.policies.clear();
    assert_eq!(world.settle(200).unwrap(), Outcome::Lifted);
}

#[test]
fn in_refuse_mode_a_late_policy_prevents_the_lift() {
    let mut world = selected(about_to_lift(), NetworkPolicies::Refuse);
    world.pass();
    assert_eq!(condition_reason(&world), "NetworkPolicyNotEnforced");
    assert!(world.pod().unwrap().gate_index.is_some());
    assert!(!kinds(&world.decide()).contains(&"lift_gate"));
    world.policies.clear();
    assert!(kinds(&world.pass()).contains(&"lift_gate"));

    let mut recorded = World::new();
    recorded.pass();
    let mut recorded = selected(recorded, NetworkPolicies::Refuse);
    recorded.pass();
    assert!(recorded.living_vms().is_empty());
    assert_eq!(condition_reason(&recorded), "NetworkPolicyNotEnforced");
}
