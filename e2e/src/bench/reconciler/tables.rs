//! What is printed of the figures, and what they should be.

use std::collections::BTreeSet;

use super::Batch;
use crate::bench::lives::Lives;
use crate::bench::stats::Percentiles;
use crate::bench::table::{Goal, Table};

pub(super) fn goals(batches: &[Batch]) -> Vec<Goal> {
    let goal = |what: String, measured: f64, at_most: f64| Goal {
        what,
        measured,
        at_most,
    };
    let mut goals = Vec::new();
    for batch in batches {
        let at_once = format!("{} at once", batch.pods);
        if let Some(lift) = batch.lives.ready_to_lifted.filter(|_| batch.pods <= 100) {
            goals.push(goal(
                format!("Node Ready to lifted, p50, ms, {at_once}"),
                lift.p50,
                50.0,
            ));
            goals.push(goal(
                format!("Node Ready to lifted, p99, ms, {at_once}"),
                lift.p99,
                500.0,
            ));
        }
        goals.push(goal(
            format!("writes in a life, {at_once}"),
            batch.lives.writes,
            24.0,
        ));
        if let Some(writes) = batch.idle_writes_per_minute {
            goals.push(goal(format!("writes a minute when idle, {at_once}"), writes, 0.0));
        }
        goals.push(goal(
            format!("reconciler's RSS, MiB, {at_once}"),
            batch.resident_mib,
            60.0,
        ));
    }
    goals
}

fn columns<'a>(first: &'a str, batches: &'a [Batch]) -> Vec<String> {
    let at_once = batches.iter().map(|batch| format!("{} at once", batch.pods));
    std::iter::once(first.to_owned()).chain(at_once).collect()
}

fn by_batch(title: &str, batches: &[Batch], rows: Vec<(String, Vec<String>)>) -> Table {
    Table {
        title: title.to_owned(),
        columns: columns("", batches),
        rows: rows
            .into_iter()
            .map(|(name, cells)| std::iter::once(name).chain(cells).collect())
            .collect(),
    }
}

pub(super) fn times(batches: &[Batch]) -> Table {
    type Stage = fn(&Lives) -> Option<Percentiles>;
    let stages: [(&str, Stage); 8] = [
        ("pod created → VMI created", |l| l.created_to_vmi),
        ("VMI created → Node Ready (simulated)", |l| l.vmi_to_ready),
        ("Node Ready → gate lifted", |l| l.ready_to_lifted),
        ("  until our first call arrives", |l| l.lift_wait),
        ("  our calls at the API server", |l| l.lift_calls),
        ("gate lifted → Running (simulated)", |l| l.lifted_to_running),
        ("pod created → Running", |l| l.created_to_running),
        ("pod deleted → nothing left", |l| l.deleted_to_gone),
    ];
    let row = |(name, stage): (&str, Stage)| {
        let cell = |batch: &Batch| {
            stage(&batch.lives).map_or("none".to_owned(), |p| {
                format!("{:.0} / {:.0} / {:.0}", p.p50, p.p99, p.max)
            })
        };
        (name.to_owned(), batches.iter().map(cell).collect())
    };
    by_batch(
        "Stages of a life in ms: p50 / p99 / greatest, by the API server's audit log",
        batches,
        stages.into_iter().map(row).collect(),
    )
}

pub(super) fn costs(batches: &[Batch]) -> Table {
    let row = |name: &str, of: &dyn Fn(&Batch) -> String| (name.to_owned(), batches.iter().map(of).collect());
    let failed = |batch: &Batch| {
        let reasons = batch.failed_passes.iter();
        let reasons: Vec<_> = reasons.map(|(reason, n)| format!("{n} {reason}")).collect();
        if reasons.is_empty() {
            "0".to_owned()
        } else {
            reasons.join(", ")
        }
    };
    let rows = vec![
        row("all Running after, s", &|b| format!("{:.1}", b.up_seconds)),
        row("all gone after, s", &|b| format!("{:.1}", b.down_seconds)),
        row("writes in a life", &|b| format!("{:.2}", b.lives.writes)),
        row("events in a life", &|b| format!("{:.2}", b.lives.events)),
        row("writes a minute when idle", &|b| {
            b.idle_writes_per_minute
                .map_or("-".to_owned(), |writes| format!("{writes:.0}"))
        }),
        row("RSS with all Running, MiB", &|b| format!("{:.1}", b.resident_mib)),
        row("RSS at most so far, MiB", &|b| format!("{:.1}", b.peak_mib)),
        row("VMs beyond the first of a pod", &|b| {
            b.further_attempts.to_string()
        }),
        row("passes that failed", &failed),
    ];
    by_batch("The reconciler's cost", batches, rows)
}

pub(super) fn shares(batches: &[Batch]) -> Table {
    let programs: BTreeSet<_> = batches
        .iter()
        .flat_map(|batch| batch.cpu_ms_per_pod.keys())
        .collect();
    let rows = programs.into_iter().map(|program| {
        let cell = |batch: &Batch| {
            let ms = batch.cpu_ms_per_pod.get(program).copied().unwrap_or_default();
            let all: f64 = batch.cpu_ms_per_pod.values().sum();
            format!("{ms:.0} ({:.0} %)", ms / all * 100.0)
        };
        (program.clone(), batches.iter().map(cell).collect())
    });
    by_batch(
        "CPU in a life, ms, by program (bench: fake KubeVirt and guests, webhook, and the client that creates the pods)",
        batches,
        rows.collect(),
    )
}

pub(super) fn kinds(batches: &[Batch]) -> Table {
    let kinds: BTreeSet<_> = batches
        .iter()
        .flat_map(|batch| batch.lives.kinds.keys())
        .collect();
    let rows = kinds.into_iter().map(|kind| {
        let cell = |batch: &Batch| format!("{:.2}", batch.lives.kinds.get(kind).copied().unwrap_or_default());
        (kind.clone(), batches.iter().map(cell).collect())
    });
    by_batch(
        "The reconciler's writes in a life, by kind",
        batches,
        rows.collect(),
    )
}
