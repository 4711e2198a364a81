//! What the audit log tells of pods' lives: when each stage was reached, and what the reconciler wrote.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use maroonedpods_common::names;
use serde::Serialize;

use super::stats::{Percentiles, number};
use crate::control_plane::audit::AuditEvent;

/// One marooned pod whose life is looked at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// When the API server was done with what marks a stage.
#[derive(Clone, Debug, Default)]
struct Life {
    created: Option<Timestamp>,
    vmi: Option<Timestamp>,
    ready: Option<Timestamp>,
    lifted: Option<Timestamp>,
    running: Option<Timestamp>,
    deleted: Option<Timestamp>,
    gone: Option<Timestamp>,
    /// The reconciler's requests about this pod, reads included, as the server saw them.
    calls: Vec<(Timestamp, Timestamp)>,
}

/// Times of many lives, in milliseconds; a stage that no life reached is absent.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lives {
    /// From the pod to its VMI: ours, but for what the API server takes.
    pub created_to_vmi: Option<Percentiles>,
    /// From the VMI to a kubelet that says Ready: scheduler, fake KubeVirt, simulated guest, certificates.
    pub vmi_to_ready: Option<Percentiles>,
    /// From there to the lifted gate: ours.
    pub ready_to_lifted: Option<Percentiles>,
    /// Of that, until the API server got our first call: the watch's news on its way, and waiting for our turn.
    pub lift_wait: Option<Percentiles>,
    /// Of that, calls that the API server was working on.
    pub lift_calls: Option<Percentiles>,
    /// From the lifted gate to Running: the binding, and the simulated kubelet.
    pub lifted_to_running: Option<Percentiles>,
    /// From the pod to Running.
    pub created_to_running: Option<Percentiles>,
    /// From the pod's deletion to its record's: nothing is left.
    pub deleted_to_gone: Option<Percentiles>,
    /// The reconciler's writes in a life, refused ones included; events, leases and its counts on the
    /// configuration apart.
    pub writes: f64,
    /// Events in a life.
    pub events: f64,
    /// The reconciler's reads of objects and lists in a life, watches and leases apart.
    pub reads: f64,
    /// Writes in a life by kind.
    pub kinds: BTreeMap<String, f64>,
}

/// Reads the lives of `subjects` from `audit`. Writes are those that `reconciler` made in that span.
#[must_use]
pub fn read(audit: &[AuditEvent], reconciler: &str, subjects: &[Subject]) -> Lives {
    let lives = lives(audit, reconciler, subjects);
    let between = |from: fn(&Life) -> Option<Timestamp>, to: fn(&Life) -> Option<Timestamp>| {
        Percentiles::of(
            lives
                .iter()
                .filter_map(|life| Some(milliseconds(from(life)?, to(life)?))),
        )
    };
    let (mut kinds, mut writes, mut events) = (BTreeMap::<String, usize>::new(), 0, 0);
    for event in audit.iter().filter(|e| e.user == reconciler && e.is_write()) {
        match event.resource.as_str() {
            // Of the process and of the whole, not of a life.
            "leases" | "maroonedpodsconfigs" => continue,
            "events" => events += 1,
            _ => writes += 1,
        }
        *kinds.entry(kind(event)).or_default() += 1;
    }
    let is_read = |e: &&AuditEvent| {
        e.user == reconciler && e.resource != "leases" && matches!(e.verb.as_str(), "get" | "list")
    };
    let reads = audit.iter().filter(is_read).count();
    let per_life = |n: usize| number(n) / number(subjects.len().max(1));
    Lives {
        created_to_vmi: between(|l| l.created, |l| l.vmi),
        vmi_to_ready: between(|l| l.vmi, |l| l.ready),
        ready_to_lifted: between(|l| l.ready, |l| l.lifted),
        lift_wait: Percentiles::of(lives.iter().filter_map(|life| Some(lift(life)?.0))),
        lift_calls: Percentiles::of(lives.iter().filter_map(|life| Some(lift(life)?.1))),
        lifted_to_running: between(|l| l.lifted, |l| l.running),
        created_to_running: between(|l| l.created, |l| l.running),
        deleted_to_gone: between(|l| l.deleted, |l| l.gone),
        writes: per_life(writes),
        events: per_life(events),
        reads: per_life(reads),
        kinds: kinds.into_iter().map(|(kind, n)| (kind, per_life(n))).collect(),
    }
}

/// The reconciler's writes between two moments, leases apart.
#[must_use]
pub fn writes_between(audit: &[AuditEvent], reconciler: &str, from: Timestamp, to: Timestamp) -> usize {
    let ours = |e: &&AuditEvent| e.user == reconciler && e.is_write() && e.resource != "leases";
    audit
        .iter()
        .filter(ours)
        .filter(|e| from <= e.completed && e.completed < to)
        .count()
}

fn lives(audit: &[AuditEvent], reconciler: &str, subjects: &[Subject]) -> Vec<Life> {
    let mut lives = vec![Life::default(); subjects.len()];
    let mut pods = HashMap::new();
    let mut nodes = HashMap::new();
    for (index, subject) in subjects.iter().enumerate() {
        pods.insert((subject.namespace.as_str(), subject.name.as_str()), index);
        nodes.insert(names::node_name(&subject.uid.as_str().into()), index);
    }
    for event in audit.iter().filter(|event| event.code < 400) {
        let of_pod = || pods.get(&(event.namespace.as_str(), event.name.as_str()));
        let index = match event.resource.as_str() {
            "pods" => of_pod(),
            _ => nodes.get(&event.name),
        };
        if let Some(life) = index.and_then(|&index| lives.get_mut(index)) {
            let by_us = event.user == reconciler;
            let by_its_node = event.user.starts_with(names::NODE_USER_PREFIX);
            note(life, event, by_us, by_its_node);
        }
    }
    lives
}

fn note(life: &mut Life, event: &AuditEvent, by_us: bool, by_its_node: bool) {
    let done = Some(event.completed);
    if by_us && event.verb != "watch" && event.verb != "list" {
        life.calls.push((event.received, event.completed));
    }
    match (
        event.verb.as_str(),
        event.resource.as_str(),
        event.subresource.as_str(),
    ) {
        ("create", "pods", "") => life.created = done,
        ("create", "virtualmachineinstances", "") => life.vmi = life.vmi.or(done),
        ("patch", "nodes", "status") if by_its_node => life.ready = life.ready.or(done),
        ("patch", "pods", "") if by_us => life.lifted = life.lifted.or(done),
        ("patch", "pods", "status") if by_its_node => life.running = life.running.or(done),
        // The kubelet's own deletion at the end comes later.
        ("delete", "pods", "") => life.deleted = life.deleted.or(Some(event.received)),
        ("patch" | "delete", "maroonednodes", "") if by_us => life.gone = done,
        _ => {}
    }
}

/// From Ready to our first call, and the time in which at least one call of ours was with the API server, until
/// the gate was lifted.
fn lift(life: &Life) -> Option<(f64, f64)> {
    let (ready, lifted) = (life.ready?, life.lifted?);
    let mut calls: Vec<_> = life
        .calls
        .iter()
        .filter(|(from, to)| *to > ready && *from < lifted)
        .map(|(from, to)| ((*from).max(ready), (*to).min(lifted)))
        .collect();
    calls.sort();
    let first = calls.first()?.0;
    let (mut busy, mut until) = (0.0, ready);
    for (from, to) in calls {
        if to > until {
            busy += milliseconds(from.max(until), to);
            until = to;
        }
    }
    Some((milliseconds(ready, first), busy))
}

fn kind(event: &AuditEvent) -> String {
    let slash = if event.subresource.is_empty() { "" } else { "/" };
    let refused = if event.code < 400 {
        String::new()
    } else {
        format!(" answered {}", event.code)
    };
    format!(
        "{} {}{slash}{}{refused}",
        event.verb, event.resource, event.subresource
    )
}

fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECONCILER: &str = "us";

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(millisecond).unwrap()
    }

    fn event(user: &str, request: (&str, &str, &str), name: &str, (from, to): (i64, i64)) -> AuditEvent {
        let (verb, resource, subresource) = request;
        AuditEvent {
            user: user.to_owned(),
            verb: verb.to_owned(),
            impersonated: Vec::new(),
            group: String::new(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: if resource == "pods" {
                "ns".to_owned()
            } else {
                String::new()
            },
            name: name.to_owned(),
            code: 200,
            denied: false,
            field_manager: String::new(),
            body: serde_json::Value::Null,
            dry_run: false,
            policy_failures: String::new(),
            user_agent: String::new(),
            received: at(from),
            completed: at(to),
        }
    }

    fn subject() -> Subject {
        Subject {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "whole milliseconds")]
    fn a_life_is_read_stage_by_stage() {
        let node = names::node_name(&"u".into());
        let kubelet = format!("{}{node}", names::NODE_USER_PREFIX);
        let mut refused = event(RECONCILER, ("patch", "pods", ""), "p", (130, 131));
        refused.code = 422;
        let audit = [
            event("user", ("create", "pods", ""), "p", (0, 10)),
            event(
                RECONCILER,
                ("create", "virtualmachineinstances", ""),
                &node,
                (50, 60),
            ),
            event(RECONCILER, ("create", "events", ""), "e", (60, 61)),
            event(RECONCILER, ("update", "leases", ""), "l", (60, 61)),
            event(&kubelet, ("patch", "nodes", "status"), &node, (90, 100)),
            event(&kubelet, ("patch", "nodes", "status"), &node, (300, 310)),
            event(RECONCILER, ("get", "nodes", ""), &node, (120, 125)),
            event(RECONCILER, ("get", "pods", ""), "p", (122, 127)),
            refused,
            event(RECONCILER, ("patch", "pods", ""), "p", (140, 150)),
            event(&kubelet, ("patch", "pods", "status"), "p", (160, 170)),
            event("user", ("delete", "pods", ""), "p", (500, 510)),
            event(&kubelet, ("delete", "pods", ""), "p", (520, 530)),
            event(RECONCILER, ("patch", "maroonednodes", ""), &node, (590, 600)),
        ];
        let lives = read(&audit, RECONCILER, &[subject()]);
        let only = |percentiles: Option<Percentiles>| percentiles.unwrap().p50;
        assert_eq!(only(lives.created_to_vmi), 50.0);
        assert_eq!(only(lives.vmi_to_ready), 40.0);
        assert_eq!(only(lives.ready_to_lifted), 50.0);
        assert_eq!(only(lives.lift_wait), 20.0);
        assert_eq!(only(lives.lift_calls), 17.0);
        assert_eq!(only(lives.lifted_to_running), 20.0);
        assert_eq!(only(lives.created_to_running), 160.0);
        assert_eq!(only(lives.deleted_to_gone), 100.0);
        assert_eq!((lives.writes, lives.events, lives.reads), (4.0, 1.0, 2.0));
        assert_eq!(lives.kinds["patch pods answered 422"], 1.0);
    }

    #[test]
    fn an_unfinished_life_has_no_end() {
        let audit = [event("user", ("create", "pods", ""), "p", (0, 10))];
        let lives = read(&audit, RECONCILER, &[subject()]);
        assert!(lives.created_to_vmi.is_none() && lives.deleted_to_gone.is_none());
    }

    #[test]
    fn idleness_does_not_count_leases() {
        let audit = [
            event(RECONCILER, ("update", "leases", ""), "l", (10, 11)),
            event(RECONCILER, ("get", "pods", ""), "p", (10, 11)),
            event(RECONCILER, ("patch", "pods", ""), "p", (10, 30)),
        ];
        assert_eq!(writes_between(&audit, RECONCILER, at(0), at(20)), 0);
        assert_eq!(writes_between(&audit, RECONCILER, at(0), at(31)), 1);
    }
}
