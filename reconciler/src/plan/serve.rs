//! After the gate is lifted: the pod runs on its own node, and we watch.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use maroonedpods_common::api::{Phase, condition};

use super::release::{GRACE_MARGIN, finished_pod_ttl};
use super::{Context, Plan, Write, after, policies};
use crate::record::set_condition;
use crate::view::PodView;

/// How soon to ask again when a disruption budget holds an eviction back.
const EVICTION_RETRY: SignedDuration = SignedDuration::from_secs(10);

pub(super) fn plan(c: &Context, pod: &PodView) -> Plan {
    let mut plan = lifted(c, pod).writes(super::csrs::decide(c));
    if pod.terminal {
        return plan.wake_at(pod.finished_at.map_or(c.now, |at| after(at, finished_pod_ttl(c))));
    }
    if let Some(at) = pod.deletion_deadline {
        return plan.wake_at(after(at, GRACE_MARGIN));
    }
    if c.view.vmi.as_ref().is_some_and(|v| v.evacuating) {
        plan = plan.wake_at(after(c.now, EVICTION_RETRY)).write(Write::EvictPod {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        });
    }
    plan
}

/// What pod and record say once the gate is lifted; nothing where they say it already.
pub(super) fn lifted(c: &Context, pod: &PodView) -> Plan {
    let said = if pod.terminal || pod.deletion_deadline.is_some() {
        Plan::wait()
    } else {
        policies::ready(c.view, pod)
    };
    said.writes(lifted_status(c))
}

fn lifted_status(c: &Context) -> Option<Write> {
    if c.status.phase == Phase::Lifted {
        return None;
    }
    let mut status = c.status.clone();
    status.phase = Phase::Lifted;
    status.stages.ready = Some(Time(c.now));
    status.stages.lifted = Some(Time(c.now));
    set_condition(
        &mut status,
        condition::READY,
        true,
        "NodeVerified",
        "the node is ready and this VM's own",
        c.now,
    );
    set_condition(
        &mut status,
        condition::LIFTED,
        true,
        "GateLifted",
        "the pod may be scheduled to its node",
        c.now,
    );
    c.record_status(status)
}
