//! A life without faults: the writes, and their number.

use maroonedpods_common::api::Phase;

use super::model::{Outcome, World, kinds};

#[test]
fn a_fault_free_life_is_short_and_leaves_nothing() {
    let mut world = World::new();
    assert_eq!(world.settle(50), Ok(Outcome::Lifted));
    assert_eq!(world.status().phase, Phase::Lifted);
    assert!(world.pod().unwrap().ready);
    assert!(kinds(&world.decide()).is_empty());
    let cold_start = world.written;
    world.pod_is_deleted();
    assert_eq!(world.settle(50), Ok(Outcome::Gone));
    assert!(world.objects.csrs.is_empty());
    assert!(world.written <= 24, "{cold_start} to start: {:#?}", world.log);
}

/// Who acts on a decision reports to that pod what the API server refused.
#[test]
fn a_decision_carries_the_pod_that_was_observed() {
    let world = World::new();
    assert!(world.pod().is_some());
    assert_eq!(world.decide().pod, world.pod());
}
