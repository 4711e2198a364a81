//! How long each wait is: by the configuration, and without one.

use std::sync::Arc;

use jiff::SignedDuration;
use maroonedpods_common::api::Phase;

use super::model::{Outcome, World};
use super::stages::{launched, launched_condition};
use crate::plan::Write;
use crate::settings::Settings;

fn configured(world: &mut World, change: impl FnOnce(&mut Settings)) {
    change(Arc::make_mut(world.settings.as_mut().unwrap()));
}

/// The pauses after each of the first attempts, in seconds, in a world whose VMs all end.
fn pauses(max_attempts: u32, attempts: usize) -> Vec<i64> {
    let mut world = World::new();
    configured(&mut world, |settings| settings.spec.max_attempts = max_attempts);
    let mut pauses = Vec::new();
    // Each attempt takes eight passes at most.
    for _ in 0..8 * attempts {
        if world.vmi().is_some_and(|vmi| !vmi.ended()) {
            world.vm_ends();
        }
        world.deleted_vms_vanish();
        let before = world.status().not_before;
        world.pass();
        let noted = world.status().not_before;
        if let Some(until) = noted.filter(|at| Some(at) != before.as_ref()) {
            // A time in a status has whole seconds.
            let pause = until.0.duration_since(world.clock());
            pauses.push(pause.round(jiff::Unit::Second).unwrap().as_secs());
            assert_eq!(world.decide().wake, Some(until.0));
            world.sleep_until(until.0);
        }
        if pauses.len() == attempts {
            return pauses;
        }
    }
    panic!("after {pauses:?}: {:?}", world.status())
}

#[test]
fn pauses_double_within_a_round_up_to_five_minutes() {
    assert_eq!(
        pauses(10, 10),
        [5, 10, 20, 40, 80, 160, 300, 300, 300, 600],
        "the last ends the round"
    );
}

#[test]
fn pauses_between_rounds_double_up_to_an_hour() {
    assert_eq!(pauses(1, 6), [600, 1200, 2400, 3600, 3600, 3600]);
    assert_eq!(pauses(2, 4), [5, 600, 5, 1200]);
}

fn reason(world: &World) -> String {
    launched_condition(world).unwrap().1
}

#[test]
fn deadlines_are_the_configurations() {
    let mut world = launched();
    configured(&mut world, |settings| {
        settings.boot = SignedDuration::from_mins(1);
    });
    world.tick(59);
    world.pass();
    assert_eq!(reason(&world), "VMCreated");
    world.tick(1);
    world.pass();
    assert_eq!(reason(&world), "BootDeadline");

    let mut joins = launched();
    configured(&mut joins, |settings| {
        settings.join = SignedDuration::from_mins(2);
    });
    joins.vm_is_scheduled();
    joins.vm_runs();
    joins.pass();
    joins.tick(119);
    joins.pass();
    assert_eq!(reason(&joins), "VMCreated");
    joins.tick(1);
    joins.pass();
    assert_eq!(reason(&joins), "JoinDeadline");
}

/// The documented defaults hold for what runs while the configuration is gone.
#[test]
fn without_a_configuration_the_defaults_hold() {
    for (runs, late) in [(false, "BootDeadline"), (true, "JoinDeadline")] {
        let mut world = launched();
        world.settings = None;
        if runs {
            world.vm_is_scheduled();
            world.vm_runs();
        }
        world.pass();
        world.tick(299);
        world.pass();
        assert_eq!(reason(&world), "VMCreated");
        world.tick(1);
        world.pass();
        assert_eq!(reason(&world), late);
        world.pass();
        let said = world.pod().unwrap().condition.unwrap().message;
        assert!(said.starts_with("attempt 1 of 3 failed"), "{said}");
    }
    let mut finished = World::new();
    assert_eq!(finished.settle(50), Ok(Outcome::Lifted));
    finished.settings = None;
    finished.pod_finishes();
    let wake = finished.decide().wake.unwrap();
    assert_eq!(
        wake.duration_since(finished.clock()),
        SignedDuration::from_secs(60)
    );
}

#[test]
fn a_credential_outlives_both_deadlines_by_a_minute() {
    let mut world = World::new();
    configured(&mut world, |settings| {
        settings.boot = SignedDuration::from_mins(3);
        settings.join = SignedDuration::from_mins(4);
    });
    world.pass();
    let lifetimes: Vec<_> = world
        .decide()
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::IssueCredentials { lifetime_seconds, .. } => Some(*lifetime_seconds),
            _ => None,
        })
        .collect();
    assert_eq!(lifetimes, [8 * 60]);
}

#[test]
fn the_time_for_logs_is_the_configurations() {
    let mut world = World::new();
    assert_eq!(world.settle(50), Ok(Outcome::Lifted));
    configured(&mut world, |settings| {
        settings.finished_pod_ttl = SignedDuration::from_mins(7);
    });
    world.pod_finishes();
    let wake = world.decide().wake.unwrap();
    assert_eq!(wake.duration_since(world.clock()), SignedDuration::from_mins(7));
    assert_eq!(world.status().phase, Phase::Lifted);
}

#[test]
fn an_eviction_that_a_budget_holds_back_is_tried_again_after_ten_seconds() {
    let mut world = World::new();
    assert_eq!(world.settle(50), Ok(Outcome::Lifted));
    world.host_is_drained();
    let wake = world.decide().wake.unwrap();
    assert_eq!(wake.duration_since(world.clock()), SignedDuration::from_secs(10));
}

#[test]
fn the_vm_of_a_former_record_is_waited_for() {
    let mut world = launched();
    for vmi in world.objects.vmis.values_mut() {
        vmi.metadata.owner_references.as_mut().unwrap()[0].uid = "former".to_owned();
    }
    let decision = world.pass();
    let wakes_in = decision.wake.unwrap().duration_since(world.clock());
    assert_eq!(wakes_in, SignedDuration::from_secs(5));
    let said = world.pod().unwrap().condition.unwrap();
    assert_eq!(said.reason, "VMBlocked");
    assert!(
        said.message.contains("a VM of an earlier record"),
        "{}",
        said.message
    );
}
