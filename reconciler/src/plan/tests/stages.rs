//! Worlds at each stage of a pod, and what they report.

use maroonedpods_common::api::{NodeCondition, Phase};
use maroonedpods_common::names;

use super::model::{World, kinds};
use crate::objects::record;

/// More than any stage is away.
const STEPS: usize = 200;

/// Repeats `step` until `stage` holds. A plan that never gets there fails the test, and does not hang it.
#[track_caller]
pub(super) fn step_until(
    world: &mut World,
    stage: impl Fn(&World) -> bool,
    mut step: impl FnMut(&mut World),
) {
    for _ in 0..STEPS {
        if stage(world) {
            return;
        }
        step(world);
    }
    panic!("the stage was never reached: {:?}", world.status());
}

/// A world in which all parties acted properly until `stage` holds.
#[track_caller]
pub(super) fn until(stage: impl Fn(&World) -> bool) -> World {
    let mut world = World::new();
    let mut leads = false;
    step_until(&mut world, stage, |w| {
        leads = !leads;
        if leads {
            w.pass();
        } else {
            w.behave();
        }
    });
    world
}

/// The record is in phase Launched, and KubeVirt has not acted yet.
pub(super) fn launched() -> World {
    let mut world = World::new();
    step_until(
        &mut world,
        |w| w.status().phase == Phase::Launched,
        |w| drop(w.pass()),
    );
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
