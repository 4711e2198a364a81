//! A namespace with a limit on its VMs.

use std::sync::Arc;

use maroonedpods_common::api::PodReason;

use super::model::{Outcome, World, kinds};
use super::stages::condition_reason;
use crate::plan::Write;

fn limited(mut world: World, limit: u32) -> World {
    let mut settings = (*world.settings.clone().unwrap()).clone();
    settings.spec.limits.vms_per_namespace = Some(limit);
    world.settings = Some(Arc::new(settings));
    world
}

#[test]
fn beyond_the_limit_a_pod_waits_and_reports_why() {
    let mut world = limited(World::new(), 2);
    world.neighbours = 2;
    let decision = world.pass();
    let [Write::PodReport(report)] = decision.writes.as_slice() else {
        panic!("{:?}", decision.writes)
    };
    assert_eq!((report.ready, report.reason), (false, PodReason::NamespaceLimit));
    for part in ["namespace ns ", "2 VMs", "limits.vmsPerNamespace"] {
        assert!(report.message.contains(part), "{}", report.message);
    }
    let again = world.decide();
    assert!(again.writes.is_empty() && again.wake.is_none() && again.waits_for_place);
    world.neighbours = 1;
    assert!(!world.decide().waits_for_place);
    assert_eq!(kinds(&world.decide()), ["create_record"]);
    assert_eq!(world.settle(200), Ok(Outcome::Lifted));
}

#[test]
fn a_place_that_another_pod_took_meanwhile_is_not_taken_twice() {
    let mut world = limited(World::new(), 1);
    let decision = world.decide();
    world.neighbours = 1;
    assert!(world.apply(&decision.writes[0]).is_err());
    assert!(world.objects.record.is_none());
    world.pass();
    assert_eq!(condition_reason(&world), "NamespaceLimit");
}

#[test]
fn a_pod_with_a_record_keeps_its_place() {
    let mut world = limited(World::new(), 3);
    world.pass();
    world.neighbours = 5;
    let mut world = limited(world, 1);
    assert!(kinds(&world.decide()).contains(&"issue_credentials"));
    assert_eq!(world.settle(200), Ok(Outcome::Lifted));
}

#[test]
fn there_is_no_limit_unless_one_is_set() {
    let mut world = World::new();
    world.neighbours = 10_000;
    assert_eq!(kinds(&world.decide()), ["create_record"]);
}
