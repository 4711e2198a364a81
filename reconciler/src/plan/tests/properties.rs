//! Any interleaving of users, KubeVirt, guests, lagging caches, two leaders and crashes between writes.

use std::cell::Cell;
use std::collections::VecDeque;

use jiff::SignedDuration;
use maroonedpods_common::api::NetworkPolicies;
use proptest::prelude::*;

use super::model::{CsrKind, Objects, World};
use crate::plan::{self, Write};
use crate::view::Observed;
use crate::view::VmiView;

/// More than any run without bugs needs: three attempts, each with a deadline, and a release.
const PASSES: usize = 150;

type Act = fn(&mut World) -> bool;

/// What KubeVirt, guests and people may do, at any time.
const MOVES: &[(&str, Act)] = &[
    ("all parties act", World::behave),
    ("deleted_vms_vanish", World::deleted_vms_vanish),
    ("garbage_is_collected", World::garbage_is_collected),
    ("vm_is_scheduled", World::vm_is_scheduled),
    ("vm_runs", World::vm_runs),
    ("vm_is_blocked", World::vm_is_blocked),
    ("vm_ends", World::vm_ends),
    ("vm_vanishes", World::vm_vanishes),
    ("vm_is_replaced", World::vm_is_replaced),
    ("host_is_drained", World::host_is_drained),
    ("guest_reboots", World::guest_reboots),
    ("guest requests its client certificate", |w| {
        w.guest_requests(CsrKind::Client)
    }),
    ("guest requests another node's certificate", |w| {
        w.guest_requests(CsrKind::OtherNode)
    }),
    ("guest requests its serving certificate", |w| {
        w.guest_requests(CsrKind::Serving)
    }),
    ("guest_fakes_address", World::guest_fakes_address),
    ("guest requests a serving certificate for another address", |w| {
        w.guest_requests(CsrKind::OtherAddress)
    }),
    ("guest renews its client certificate", |w| {
        w.guest_requests(CsrKind::Renewal)
    }),
    ("certificate_is_signed", World::certificate_is_signed),
    ("kubelet_reports", World::kubelet_reports),
    ("kubelet reports another machine", |w| {
        w.kubelet_reports_as("another machine")
    }),
    ("kubelet_is_ready", World::kubelet_is_ready),
    ("kubelet_is_unready", World::kubelet_is_unready),
    ("guest_adds_node_finalizer", World::guest_adds_node_finalizer),
    ("node_is_deleted", World::node_is_deleted),
    ("scheduler_binds", World::scheduler_binds),
    ("pod_runs", World::pod_runs),
    ("pod_finishes", World::pod_finishes),
    ("pod_is_deleted", World::pod_is_deleted),
    ("kubelet_stops_pod", World::kubelet_stops_pod),
    ("pod_is_recreated", World::pod_is_recreated),
    ("others_remove_the_gate", World::others_remove_the_gate),
    ("record_is_deleted", World::record_is_deleted),
    ("pod_wants_a_zone", World::pod_wants_a_zone),
    ("pod_grows", World::pod_grows),
    ("policy_is_written", World::policy_is_written),
    ("policies are refused", |w| {
        w.configure_policies(NetworkPolicies::Refuse)
    }),
    ("policies are warned about", |w| {
        w.configure_policies(NetworkPolicies::Warn)
    }),
    ("node_controller_acts", World::node_controller_acts),
    ("node_is_tainted", World::node_is_tainted),
    ("host is relabelled", |w| w.host_zone_changes(Some("y"))),
    ("host is gone", |w| w.host_zone_changes(None)),
    ("budget holds", |w| !std::mem::replace(&mut w.budget_holds, true)),
];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// One of [`MOVES`].
    Move(usize),
    /// A leader makes a pass and crashes after this many writes.
    Pass { leader: usize, writes: usize },
    /// A leader's caches catch up.
    Refresh(usize),
    /// Time passes.
    Tick(i64),
    /// A leader is paused before it lifts the gate: its patch and its binding are still to be sent.
    Pause(usize),
    /// The paused leader's patch arrives, or the binding that follows a patch.
    Arrive,
    /// The pod is one that the reconciler does not bind.
    OfAScheduler,
    /// Another process takes a leader's place; its clock is `ahead` seconds ahead.
    TakeOver { leader: usize, ahead: i64 },
}

impl Step {
    fn name(self) -> String {
        match self {
            Self::Move(at) => MOVES[at].0.to_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// Mostly progress, so that late stages are reached, with every fault often enough.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Move(0)),
        4 => (0..MOVES.len()).prop_map(Step::Move),
        3 => (0..2_usize).prop_map(|leader| Step::Pass { leader, writes: usize::MAX }),
        3 => (0..2_usize, 0..6_usize).prop_map(|(leader, writes)| Step::Pass { leader, writes }),
        4 => (0..2_usize).prop_map(Step::Refresh),
        1 => (0..2_usize).prop_map(Step::Pause),
        1 => Just(Step::Arrive),
        1 => (0..2_usize, -600..600_i64).prop_map(|(leader, ahead)| Step::TakeOver { leader, ahead }),
        1 => prop_oneof![Just(1), Just(6), Just(31), Just(61), Just(301)].prop_map(Step::Tick),
    ]
}

/// Some way into a life without faults, where a leader may be paused, and then anything: chance alone seldom leads to a lift.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let progress = [Step::Move(0), Step::Refresh(0)];
    let pass = Step::Pass {
        leader: 0,
        writes: usize::MAX,
    };
    let rest = prop::collection::vec(step(), 0..60);
    let fates = (any::<bool>(), prop::bool::weighted(0.25));
    (0..12_usize, fates, rest).prop_map(move |(rounds, (pauses, scheduled), rest)| {
        let mut steps = Vec::new();
        steps.extend(scheduled.then_some(Step::OfAScheduler));
        for _ in 0..rounds {
            steps.extend(progress);
            steps.push(pass);
        }
        if pauses {
            steps.extend(progress);
            steps.push(Step::Pause(0));
        }
        steps.extend(rest);
        steps
    })
}

/// A world with two leaders, each with its own caches.
struct Run {
    world: World,
    caches: [Objects; 2],
    history: Vec<World>,
    /// A lift that is still to arrive, its binding, and the attempt that they belong to.
    late: Option<(VecDeque<Write>, u32)>,
    /// How many lifts arrived late.
    arrived: usize,
}

impl Run {
    fn new() -> Self {
        let world = World::new();
        Self {
            caches: [world.objects.clone(), world.objects.clone()],
            world,
            history: Vec::new(),
            late: None,
            arrived: 0,
        }
    }

    fn of(steps: &[Step]) -> Result<Self, TestCaseError> {
        let mut run = Self::new();
        run.steps(steps).map_err(TestCaseError::fail)?;
        Ok(run)
    }

    /// The world that these steps lead to. That all of them keep to the rules is for other properties to say: to reject
    /// the steps that do not would take for ever where none does.
    fn reached(steps: &[Step]) -> World {
        let mut run = Self::new();
        _ = run.steps(steps);
        run.world
    }

    fn steps(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            self.history.push(self.world.clone());
            let kept = self.step(*step).and_then(|()| self.world.judge());
            kept.map_err(|why| format!("{why}, at {}", step.name()))?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Move(at) => {
                MOVES[at].1(&mut self.world);
            }
            Step::Refresh(leader) => self.caches[leader] = self.world.objects.clone(),
            Step::Tick(seconds) => self.world.tick(seconds),
            Step::Pass { leader, writes } => {
                self.world.leader = leader;
                self.world.judged_pass(&self.caches[leader], writes)?;
            }
            Step::Pause(leader) => self.pause(leader)?,
            Step::Arrive => self.arrive()?,
            Step::OfAScheduler => {
                self.world.is_left_to_the_scheduler();
                self.caches = [self.world.objects.clone(), self.world.objects.clone()];
            }
            Step::TakeOver { leader, ahead } => {
                self.world.leader = leader;
                self.world.take_over(SignedDuration::from_secs(ahead));
            }
        }
        Ok(())
    }

    fn pause(&mut self, leader: usize) -> Result<(), String> {
        self.world.leader = leader;
        let mut writes = VecDeque::from(self.world.decide_from(&self.caches[leader]).writes);
        while let Some(write) = writes.pop_front() {
            if matches!(write, Write::LiftGate(_)) {
                writes.retain(|write| matches!(write, Write::BindPod(_)));
                writes.push_front(write);
                self.late = Some((writes, self.world.attempt()));
                break;
            }
            if self.world.judged_write(&write)?.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn arrive(&mut self) -> Result<(), String> {
        let Some((mut writes, attempt)) = self.late.take() else {
            return Ok(());
        };
        let Some(write) = writes.pop_front() else {
            return Ok(());
        };
        if !matches!(write, Write::LiftGate(_)) {
            return self.world.judged_write(&write).map(drop);
        }
        self.arrived += 1;
        let now = self.world.attempt();
        match self.world.apply(&write) {
            Ok(()) if now != attempt => Err(format!("S1: attempt {now} took the lift of attempt {attempt}")),
            Ok(()) => {
                self.late = Some((writes, attempt));
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// S1, S2, S4 and S6 at each step, also of the way to the end state; L3 there.
#[test]
fn every_interleaving_is_safe_and_ends_well() {
    // Where the gate was never lifted, S1 was not judged.
    let (at_random, late, settling) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let count = |counter: &Cell<usize>, more| counter.set(counter.get() + more);
    proptest!(config(400), |(steps in steps())| {
        let Run { mut world, arrived, .. } = Run::of(&steps)?;
        let before = world.lifts;
        count(&at_random, before);
        count(&late, arrived);
        let outcome = world.settle(PASSES).map_err(TestCaseError::fail)?;
        count(&settling, world.lifts - before);
        let silent = world.written;
        world.tick(3600);
        prop_assert_eq!(world.settle(PASSES), Ok(outcome));
        prop_assert_eq!(world.written, silent, "the end state causes no writes");
    });
    let lifts = [&at_random, &late, &settling].map(Cell::get);
    assert!(
        lifts.iter().all(|number| *number > 0),
        "at random, late, settling: {lifts:?}"
    );
}

proptest! {
    #![proptest_config(config(400))]

    /// Once nothing changes any more, the Node has the zone of its VM's host; so every zone has hosts in it.
    #[test]
    fn a_node_has_the_zone_of_its_vms_host(steps in steps()) {
        let mut world = Run::of(&steps)?.world;
        world.settle(PASSES).map_err(TestCaseError::fail)?;
        if let Some(node) = world.node() {
            let zone = node.topology.get(super::model::ZONE).map(String::as_str);
            prop_assert_eq!(zone, world.zone);
        }
    }

    /// A plan from an old cache is refused, or does not change the end state.
    #[test]
    fn a_stale_plan_does_no_harm(steps in steps(), back in 0..30_usize) {
        let run = Run::of(&steps)?;
        let Some(past) = run.history.iter().rev().nth(back) else { return Ok(()) };
        // If the VM's host is being drained, timing decides whether the pod is lifted first and then evicted, or gets
        // another VM first: both are good ends.
        prop_assume!(run.world.vmi().is_none_or(|vmi| !vmi.evacuating));
        let (mut disturbed, mut left_alone) = (run.world.clone(), run.world);
        let stale = plan::decide(&past.cached_view(&past.objects), disturbed.clock());
        prop_assume!(!stale.needs_live_view());
        for write in &stale.writes {
            if disturbed.judged_write(write).map_err(TestCaseError::fail)?.is_err() {
                break;
            }
        }
        let left_alone = left_alone.settle(PASSES).map_err(TestCaseError::fail)?;
        prop_assert_eq!(disturbed.settle(PASSES), Ok(left_alone), "after {:?}", stale.writes);
    }
}

fn phases() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("Running".to_owned()),
        Just("Failed".to_owned()),
        ".{0,4}"
    ]
}

fn timestamps() -> impl Strategy<Value = jiff::Timestamp> {
    prop_oneof![
        Just(jiff::Timestamp::MIN),
        Just(jiff::Timestamp::MAX),
        (1_700_000_000..1_800_000_000_i64).prop_map(|s| jiff::Timestamp::from_second(s).unwrap()),
    ]
}

/// Views combined from several worlds, with arbitrary times and texts.
fn views() -> impl Strategy<Value = Observed> {
    let parts = (steps(), steps(), steps());
    let times = (
        prop::option::of(timestamps()),
        prop::option::of(timestamps()),
        any::<i64>(),
    );
    (parts, times, phases(), any::<[bool; 2]>()).prop_map(
        |((one, two, three), (deadline, not_before, grace), phase, [settings, terminal])| {
            let one = Run::reached(&one);
            let two = Run::reached(&two);
            let three = Run::reached(&three);
            let mut observed = one.cached_view(&one.objects);
            observed.node = two.node();
            observed.vmi = three.vmi().map(|v| VmiView { phase, ..v });
            if !settings {
                observed.settings = None;
            }
            if let Some(pod) = &mut observed.pod {
                pod.deletion_deadline = deadline;
                pod.deletion_grace = SignedDuration::from_secs(grace);
                pod.terminal = terminal;
            }
            if let (Some(record), Some(at)) = (&mut observed.record, not_before) {
                let status = std::sync::Arc::make_mut(record).status.get_or_insert_default();
                let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at);
                status.not_before = Some(at.clone());
                status.stages.launched = status.stages.launched.take().map(|_| at);
            }
            observed
        },
    )
}

proptest! {
    #![proptest_config(config(200))]

    /// Guests and users write the times in objects; no value may stop the reconciler.
    #[test]
    fn no_view_makes_it_panic(observed in views(), now in timestamps()) {
        let decision = plan::decide(&observed, now);
        prop_assert!(decision.pod.is_none() || observed.pod.is_some());
    }
}
