//! Time: whose clock counts, what is waited for and for how long, and what comes too late.

use std::sync::Arc;

use jiff::SignedDuration;
use maroonedpods_common::api::Phase;

use super::model::{CsrKind, Outcome, World, kinds};
use super::stages::{about_to_lift, condition_reason, launched, launched_condition, step_until};
use crate::plan::{Write, decide};
use crate::settings::Settings;
use crate::view::BackingOff;
use crate::view::PodView;

const MINUTES_AHEAD: SignedDuration = SignedDuration::from_mins(10);

fn running() -> World {
    let mut world = World::new();
    assert_eq!(world.settle(50), Ok(Outcome::Lifted));
    world
}

/// All attempts of the first round have failed.
fn exhausted() -> World {
    let mut world = World::new();
    every_vm_ends_until_exhausted(&mut world);
    assert_eq!(
        (world.attempt(), condition_reason(&world).as_str()),
        (3, "AttemptsExhausted")
    );
    world
}

fn every_vm_ends_until_exhausted(world: &mut World) {
    let failed = |w: &World| w.status().phase == Phase::Failed;
    step_until(world, failed, |w| {
        if w.vmi().is_some_and(|v| !v.ended()) {
            w.vm_ends();
        }
        w.deleted_vms_vanish();
        w.tick(10);
        w.pass();
    });
}

fn message(world: &World) -> String {
    world.pod().unwrap().condition.unwrap().message
}

#[test]
fn the_time_for_logs_begins_when_the_end_is_first_seen() {
    let mut world = running();
    world.pod_finishes();
    world.tick(61);
    assert!(
        world.decide().writes.is_empty(),
        "no one has seen it finish before"
    );
    world.tick(59);
    assert!(world.decide().writes.is_empty());
    world.tick(1);
    assert_eq!(kinds(&world.decide()), ["delete_record", "delete_vmi"]);
}

#[test]
fn a_leader_with_a_clock_ahead_deletes_nothing_too_early() {
    let take_over = |world: &mut World| world.take_over(MINUTES_AHEAD);
    let mut boots = launched();
    take_over(&mut boots);
    assert!(kinds(&boots.decide()).is_empty(), "{:?}", boots.decide().writes);
    boots.vm_is_scheduled();
    boots.vm_runs();
    take_over(&mut boots);
    boots.pass();
    assert_eq!(launched_condition(&boots).unwrap().0, "True");

    let mut finished = running();
    finished.pod_finishes();
    finished.pass();
    take_over(&mut finished);
    assert!(kinds(&finished.decide()).is_empty());

    let mut stops = running();
    stops.pod_is_deleted();
    stops.pass();
    take_over(&mut stops);
    assert!(kinds(&stops.decide()).is_empty(), "the pod gets its grace period");

    for world in [&mut boots, &mut finished, &mut stops] {
        world.settle(60).unwrap();
    }
}

#[test]
fn a_take_over_restarts_a_stages_deadline_once() {
    let mut world = launched();
    world.decide();
    world.tick(299);
    world.take_over(-MINUTES_AHEAD);
    world.decide();
    world.tick(299);
    world.pass();
    assert_eq!(launched_condition(&world).unwrap().0, "True");
    world.tick(2);
    world.pass();
    assert_eq!(launched_condition(&world).unwrap().1, "BootDeadline");
}

#[test]
fn a_pause_is_not_extended_by_a_clock_that_is_behind() {
    let mut world = exhausted();
    world.take_over(-SignedDuration::from_hours(24));
    let wake = world.decide().wake.unwrap();
    assert!(wake.duration_since(world.clock()) <= SignedDuration::from_mins(10));
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
}

#[test]
fn the_lift_waits_for_taints_that_evict_or_prevent_scheduling() {
    type Taint = fn(&mut World) -> bool;
    let taints: [(Taint, &str); 2] = [
        (
            |w| {
                w.kubelet_is_unready();
                w.node_controller_acts() && w.kubelet_is_ready()
            },
            "node.kubernetes.io/not-ready:NoExecute",
        ),
        (World::node_is_tainted, "example.test/maintenance:NoSchedule"),
    ];
    for (taint, named) in taints {
        let mut world = about_to_lift();
        assert!(taint(&mut world));
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            world.tolerate_briefly(key);
        }
        let waits = world.decide();
        assert!(
            waits.writes.is_empty(),
            "too early for a report: {:?}",
            waits.writes
        );
        world.sleep_until(waits.wake.unwrap());
        assert_eq!(kinds(&world.pass()), ["pod_report"]);
        assert_eq!(condition_reason(&world), "Joining");
        assert!(message(&world).ends_with(named), "{}", message(&world));
        assert!(world.decide().writes.is_empty(), "reported once");
        let mut late = world.clone();
        late.tick(300);
        late.pass();
        assert_eq!(launched_condition(&late).unwrap().1, "JoinDeadline");
        world.others_remove_their_taints();
        world.node_controller_acts();
        assert!(kinds(&world.decide()).contains(&"lift_gate"));
    }
}

/// The lift of the current attempt, decided but not sent yet.
fn decided_lift(world: &World) -> Write {
    let mut writes = world.decide().writes.into_iter();
    writes.find(|write| matches!(write, Write::LiftGate(_))).unwrap()
}

/// The first attempt failed just before its lift, and the second is under way.
fn second_attempt() -> (World, Write) {
    let mut world = about_to_lift();
    let lift = decided_lift(&world);
    world.vm_ends();
    let second = |w: &World| w.attempt() > 1 && w.status().phase == Phase::Launched;
    step_until(&mut world, second, |w| {
        w.pass();
        w.deleted_vms_vanish();
        w.tick(1);
    });
    (world, lift)
}

#[test]
fn a_late_lift_is_refused() {
    let (mut world, lift) = second_attempt();
    assert!(world.apply(&lift).is_err());
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
    assert_eq!(world.attempt(), 2);
}

#[test]
fn a_pod_that_a_late_lift_reached_nonetheless_is_released() {
    let later: [fn(&mut World); 3] = [
        |_| {},
        |w| {
            w.vm_is_scheduled();
            w.vm_runs();
        },
        |w| {
            let registered = |w: &World| w.status().phase == Phase::Registered;
            step_until(w, registered, |w| {
                w.pass();
                w.behave();
            });
        },
    ];
    for later in later {
        let (mut world, _) = second_attempt();
        later(&mut world);
        world.lift_by_hand();
        assert!(world.pod().unwrap().lifted());
        world.pass();
        world.tick(5);
        world.pass();
        let failed = ("False".to_owned(), "LiftedTooSoon".to_owned());
        assert_eq!(launched_condition(&world), Some(failed));
        assert_eq!(world.settle(60), Ok(Outcome::Gone));
        assert!(world.secrets.is_empty() && world.objects.record.is_none());
        assert!(
            world.pod().is_none_or(|pod| pod.terminal),
            "its controller must see that it failed"
        );
    }
}

#[test]
fn a_late_lift_between_two_attempts_is_released() {
    let mut world = about_to_lift();
    let lift = decided_lift(&world);
    world.vm_ends();
    world.pass();
    // The failure is recorded, but not yet reported on the pod.
    world.apply(&lift).unwrap();
    assert_eq!(world.settle(60), Ok(Outcome::Gone));
    assert!(world.secrets.is_empty());
}

#[test]
fn exhausted_attempts_begin_again_after_a_long_pause_that_doubles() {
    let mut world = exhausted();
    let paused = |world: &World| world.decide().wake.unwrap().duration_since(world.clock());
    assert!(
        message(&world).contains("all 3 attempts failed"),
        "{}",
        message(&world)
    );
    let at = world
        .status()
        .not_before
        .unwrap()
        .0
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    assert!(message(&world).contains(&at), "{}", message(&world));
    assert!(world.decide().writes.is_empty());
    let first = paused(&world);
    assert!((595..=600).contains(&first.as_secs()), "{first:#}");
    world.tick(610);
    world.pass();
    every_vm_ends_until_exhausted(&mut world);
    assert_eq!(
        (world.attempt(), condition_reason(&world).as_str()),
        (6, "AttemptsExhausted")
    );
    assert!(paused(&world).as_secs() > 1180, "{:#}", paused(&world));
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
}

#[test]
fn another_configuration_ends_the_pause_at_once_and_applies_to_the_next_vm() {
    let mut world = exhausted();
    let mut spec = world.settings.as_ref().unwrap().spec.clone();
    "registry.example/fixed@sha256:0000".clone_into(&mut spec.node_image);
    world.settings = Some(Arc::new(Settings::parse(spec).unwrap()));
    assert_eq!(kinds(&world.decide()), ["delete_record"]);
    let before = world.now;
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
    assert!(world.now.duration_since(before) < SignedDuration::from_mins(1));
    let record = world.objects.record.unwrap();
    assert_eq!(record.spec.vm.node_image, "registry.example/fixed@sha256:0000");
}

#[test]
fn a_fixed_cluster_ends_the_pause_at_once() {
    let mut world = exhausted();
    world.hold = Some("KubeVirt is too old".to_owned());
    world.pass();
    world.pass();
    assert_eq!(condition_reason(&world), "ClusterNotReady");
    assert!(world.decide().writes.is_empty());
    world.hold = None;
    assert!(kinds(&world.decide()).contains(&"create_vmi"));
}

#[test]
fn a_failed_record_without_a_pause_is_retried() {
    let mut world = exhausted();
    let status = world.objects.record.as_mut().unwrap().status.as_mut().unwrap();
    status.not_before = None;
    assert_eq!(world.settle(60), Ok(Outcome::Lifted));
}

#[test]
fn an_exhausted_pod_can_be_deleted() {
    let mut world = exhausted();
    world.pod_is_deleted();
    assert_eq!(world.settle(20), Ok(Outcome::Gone));
}

#[test]
fn a_pod_of_a_maker_whose_pods_are_rejected_waits_and_reports_it() {
    let mut world = World::new();
    let mut observed = world.live_view(&world.objects);
    observed.backing_off = Some(BackingOff {
        remaining: SignedDuration::from_secs(90),
        rejections: 2,
        reason: "SysctlForbidden".to_owned(),
    });
    let waits = decide(&observed, world.now);
    assert_eq!(kinds(&waits), ["pod_report"]);
    assert_eq!(waits.wake, Some(world.now + SignedDuration::from_secs(90)));
    world.apply(&waits.writes[0]).unwrap();
    assert_eq!(condition_reason(&world), "BackingOff");
    assert!(message(&world).contains("SysctlForbidden"), "{}", message(&world));
    assert_eq!(kinds(&world.decide()), ["create_record"]);
}

#[test]
fn a_failed_pod_counts_as_rejected_if_no_container_has_started() {
    let rejected = |status: serde_json::Value| {
        let pod =
            serde_json::json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"}, "status": status});
        PodView::of(&serde_json::from_value(pod).unwrap())
            .unwrap()
            .rejected
    };
    let started = |state: &str| {
        serde_json::json!([{"name": "m", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {state: {"exitCode": 1}}}])
    };
    for (status, expected) in [
        (
            serde_json::json!({"phase": "Failed", "reason": "OutOfcpu"}),
            Some("OutOfcpu"),
        ),
        (
            serde_json::json!({"phase": "Failed", "reason": "OutOfcpu", "containerStatuses": started("waiting")}),
            Some("OutOfcpu"),
        ),
        (
            serde_json::json!({"phase": "Failed", "reason": "Evicted", "containerStatuses": started("terminated")}),
            None,
        ),
        (
            serde_json::json!({"phase": "Failed", "reason": "x".repeat(1 << 20)}),
            Some(&*maroonedpods_common::text::value(&"x".repeat(1 << 20))),
        ),
        (serde_json::json!({"phase": "Failed"}), None),
        (
            serde_json::json!({"phase": "Failed", "reason": crate::view::VM_GONE}),
            None,
        ),
        (
            serde_json::json!({"phase": "Running", "reason": "OutOfcpu"}),
            None,
        ),
    ] {
        assert_eq!(rejected(status.clone()).as_deref(), expected, "{status}");
    }
}

#[test]
fn a_running_pods_node_may_renew_its_certificate_until_the_pod_finishes() {
    let mut world = running();
    assert!(world.guest_requests(CsrKind::Renewal));
    assert_eq!(kinds(&world.pass()), ["approve_csr"]);
    world.pod_finishes();
    assert!(world.guest_requests(CsrKind::Renewal));
    assert!(kinds(&world.decide()).is_empty(), "the pod has finished");
    assert_eq!(world.settle(30), Ok(Outcome::Gone));
    assert!(world.objects.csrs.is_empty());
}
