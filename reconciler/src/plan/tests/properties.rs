//! Any interleaving of users, KubeVirt, guests, lagging caches, two leaders and crashes between writes.

use jiff::SignedDuration;
use maroonedpods_common::api::{NetworkPolicies, NodeCondition};
use maroonedpods_common::names;
use proptest::prelude::*;

use super::model::{CsrKind, Objects, POD_UID, World};
use crate::objects::identity;
use crate::objects::record;
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
    ("pod_runs", World::pod_runs),
    ("pod_finishes", World::pod_finishes),
    ("pod_is_deleted", World::pod_is_deleted),
    ("kubelet_stops_pod", World::kubelet_stops_pod),
    ("pod_is_recreated", World::pod_is_recreated),
    ("others_remove_the_gate", World::others_remove_the_gate),
    ("record_is_deleted", World::record_is_deleted),
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
    /// A leader is paused before it lifts the gate: its patch is still to be sent.
    Pause(usize),
    /// The paused leader's patch arrives.
    Arrive,
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

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..70)
}

/// A world with two leaders, each with its own caches.
struct Run {
    world: World,
    caches: [Objects; 2],
    history: Vec<World>,
    /// A lift that is still to arrive, and the attempt that it belongs to.
    late: Option<(Write, u32)>,
}

impl Run {
    fn of(steps: &[Step]) -> Result<Self, TestCaseError> {
        let world = World::new();
        let caches = [world.objects.clone(), world.objects.clone()];
        let mut run = Self {
            world,
            caches,
            history: Vec::new(),
            late: None,
        };
        for step in steps {
            run.history.push(run.world.clone());
            run.step(*step)
                .map_err(|why| TestCaseError::fail(format!("{why}, at {}", step.name())))?;
        }
        Ok(run)
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Move(at) => {
                MOVES[at].1(&mut self.world);
            }
            Step::Refresh(leader) => self.caches[leader] = self.world.objects.clone(),
            Step::Tick(seconds) => self.world.tick(seconds),
            Step::Pass { leader, writes } => self.pass(leader, writes)?,
            Step::Pause(leader) => self.pause(leader),
            Step::Arrive => self.arrive()?,
            Step::TakeOver { leader, ahead } => {
                self.world.leader = leader;
                self.world.take_over(SignedDuration::from_secs(ahead));
            }
        }
        let living = self.world.living_vms();
        if living.len() > 1 {
            return Err(format!("S2: these VMs live at once: {living:?}"));
        }
        if self.world.impersonates() {
            return Err("S4: a serving certificate names another's address".to_owned());
        }
        let twice = self
            .world
            .approvals
            .iter()
            .find(|(user, n)| user.starts_with(names::BOOTSTRAP_USER_PREFIX) && **n > 1);
        twice.map_or(Ok(()), |(user, n)| {
            Err(format!("S4: {user} had {n} client requests approved"))
        })
    }

    fn pause(&mut self, leader: usize) {
        self.world.leader = leader;
        for write in self.world.decide_from(&self.caches[leader]).writes {
            if matches!(write, Write::LiftGate(_)) {
                self.late = Some((write, self.world.attempt()));
                return;
            }
            if self.world.apply(&write).is_err() {
                return;
            }
        }
    }

    fn arrive(&mut self) -> Result<(), String> {
        let Some((lift, attempt)) = self.late.take() else {
            return Ok(());
        };
        let now = self.world.attempt();
        match self.world.apply(&lift) {
            Ok(()) if now != attempt => Err(format!("S1: attempt {now} took the lift of attempt {attempt}")),
            _ => Ok(()),
        }
    }

    fn pass(&mut self, leader: usize, writes: usize) -> Result<(), String> {
        self.world.leader = leader;
        let cache = &self.caches[leader];
        let stale = plan::decide(&self.world.cached_view(cache), self.world.clock());
        if stale.writes.iter().any(destroys) && !stale.needs_live_view() {
            return Err(format!("S6: planned from a cache: {:?}", stale.writes));
        }
        let decision = self.world.decide_from(cache);
        for write in decision.writes.iter().take(writes) {
            if matches!(write, Write::LiftGate(_)) {
                verified(&self.world).map_err(|why| format!("S1: {why}"))?;
                if self.world.must_wait_for_policy() {
                    return Err("lifted although a policy must be waited for".to_owned());
                }
            }
            if let Some(waited) = deadline_missed(&self.world, write) {
                return Err(format!("failed by its deadline after {waited:#}"));
            }
            let gated = self.world.pod().is_some_and(|p| p.gate_index.is_some());
            let existed = self.world.objects.pod.is_some();
            if self.world.apply(write).is_err() {
                break;
            }
            let after = self.world.pod();
            let lost = gated && existed && after.as_ref().is_some_and(|p| p.gate_index.is_none());
            if lost && !after.is_some_and(|p| p.lifted()) {
                return Err(format!("S1: {} took the gate without pinning", write.kind()));
            }
        }
        Ok(())
    }
}

/// The age of the VM that this write abandons because of a deadline, if that is too early.
fn deadline_missed(world: &World, write: &Write) -> Option<SignedDuration> {
    let Write::RecordStatus { status, .. } = write else {
        return None;
    };
    let failed = record::condition(status, NodeCondition::Launched).filter(|c| c.status == "False")?;
    let new = record::condition(&world.status(), NodeCondition::Launched).is_none_or(|c| c.status == "True");
    let vmi = world
        .objects
        .vmis
        .values()
        .find(|vmi| vmi.metadata.uid == status.vmi_uid)?;
    let waited = world
        .now
        .duration_since(vmi.metadata.creation_timestamp.as_ref()?.0);
    let late = failed.reason.ends_with("Deadline") && new;
    (late && waited < SignedDuration::from_mins(5)).then_some(waited)
}

/// A list of its own on purpose, independent of `Write::needs_live_view`.
fn destroys(write: &Write) -> bool {
    matches!(
        write,
        Write::DeletePod(_)
            | Write::DeleteRecord(_)
            | Write::DeleteVmi(_)
            | Write::DeleteNode(_)
            | Write::DeleteCsr(_)
            | Write::StripNodeFinalizers(_)
            | Write::RemoveFinalizer { .. }
            | Write::FailPod { .. }
            | Write::EvictPod(_)
            | Write::LiftGate(_)
    )
}

/// Whether the pod's own Node exists, is ready and belongs to the pod's VM.
fn verified(world: &World) -> Result<(), &'static str> {
    let node = world.node().ok_or("no node")?;
    let vmi = world.vmi().ok_or("no VM")?;
    let status = world.status();
    let firmware = identity::firmware_uuid(&world.record(), world.attempt()).to_string();
    let all = [
        (node.ready, "the node is not ready"),
        (node.system_uuid == firmware, "the node runs elsewhere"),
        (vmi.running() && !vmi.deleting, "the VM does not run"),
        (status.vmi_uid.as_ref() == Some(&vmi.uid), "the VM was replaced"),
        (
            status.node_uid.as_ref() == Some(&node.uid),
            "the node was replaced",
        ),
        (
            node.labelled_for.as_deref() == Some(POD_UID),
            "the labels are gone",
        ),
        (
            world
                .taints_in_the_way()
                .iter()
                .all(|key| key == names::STARTUP_TAINT),
            "a taint is in the way",
        ),
        (world.secrets.is_empty(), "the join credential still works"),
    ];
    all.iter()
        .find(|(holds, _)| !holds)
        .map_or(Ok(()), |(_, why)| Err(why))
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(400))]

    /// S1, S2, S4 and S6 at each step; L3 at the end.
    #[test]
    fn every_interleaving_is_safe_and_ends_well(steps in steps()) {
        let mut world = Run::of(&steps)?.world;
        let outcome = world.settle(PASSES).map_err(TestCaseError::fail)?;
        let silent = world.written;
        world.tick(3600);
        prop_assert_eq!(world.settle(PASSES), Ok(outcome));
        prop_assert_eq!(world.written, silent, "the end state causes no writes");
    }

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
            if disturbed.apply(write).is_err() {
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
    (parts, times, phases(), any::<[bool; 2]>()).prop_filter_map(
        "a reachable world",
        |((one, two, three), (deadline, not_before, grace), phase, [settings, terminal])| {
            let one = Run::of(&one).ok()?.world;
            let two = Run::of(&two).ok()?.world;
            let three = Run::of(&three).ok()?.world;
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
            Some(observed)
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
