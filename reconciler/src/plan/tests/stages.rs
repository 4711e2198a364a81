//! Worlds at each stage of a pod, and what they report.

use maroonedpods_common::api::{NodeCondition, Phase};
use maroonedpods_common::names;

use super::model::{World, kinds};
use crate::objects::record;

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

pub(super) fn registered() -> World {
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
