//! What is printed of the figures, and what they should be.

use std::collections::BTreeSet;

use super::Batch;
use crate::bench::lives::Lives;
use crate::bench::stats::Percentiles;
use crate::bench::table::{Aim, Table};

/// The most pods at once whose gates are to be lifted soon after their nodes are ready.
const LIFTED_SOON: usize = 100;

/// Of the reconciler as it is shipped, with pods that name no scheduler.
pub(super) fn aims(batches: &[Batch]) -> Vec<Aim> {
    let shipped = batches
        .iter()
        .filter(|batch| batch.starts_at_once.is_none() && !batch.bound_by_scheduler);
    shipped.flat_map(of_batch).collect()
}

fn of_batch(batch: &Batch) -> Vec<Aim> {
    let at_once = batch.name();
    let aim = |what: &str, measured, at_most| Aim::new(format!("{what}, {at_once}"), measured, at_most);
    let mut aims = Vec::new();
    if let Some(lift) = batch.lives.ready_to_lifted.filter(|_| batch.pods <= LIFTED_SOON) {
        let (end, greatest) = lift.tail();
        aims.push(aim("Node Ready to lifted, ms, p50", lift.p50, 50.0));
        aims.push(aim(&format!("Node Ready to lifted, ms, {end}"), greatest, 500.0));
    }
    aims.push(aim("writes in a life", batch.lives.writes, 24.0));
    if let Some(writes) = batch.idle_writes_per_minute {
        aims.push(aim("writes a minute when idle", writes, 0.0));
    }
    aims.push(aim("reconciler's RSS, MiB", batch.resident_mib, 60.0));
    aims
}

fn columns(first: &str, batches: &[Batch]) -> Vec<String> {
    std::iter::once(first.to_owned())
        .chain(batches.iter().map(Batch::name))
        .collect()
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
        ("VMI created → Node Ready (VM and guest simulated)", |l| {
            l.vmi_to_ready
        }),
        ("Node Ready → gate lifted", |l| l.ready_to_lifted),
        ("  until our first call arrives", |l| l.lift_wait),
        ("  our calls at the API server", |l| l.lift_calls),
        ("gate lifted → Running (kubelet simulated)", |l| {
            l.lifted_to_running
        }),
        ("pod created → Running (with the simulated parts)", |l| {
            l.created_to_running
        }),
        ("pod deleted → nothing left (VM and kubelet simulated)", |l| {
            l.deleted_to_gone
        }),
    ];
    let row = |(name, stage): (&str, Stage)| {
        let cell =
            |batch: &Batch| stage(&batch.lives).map_or_else(|| "none".to_owned(), |times| times.to_string());
        (name.to_owned(), batches.iter().map(cell).collect())
    };
    by_batch(
        "Stages of a life in ms, by the API server's audit log: median / p99, from 100 lives on / maximum",
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
        row("reads in a life", &|b| format!("{:.2}", b.lives.reads)),
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
        "CPU in a life, ms, by program (bench: simulated KubeVirt and guests, webhook, and the client that creates the pods)",
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroUsize;

    use super::*;

    fn batch(pods: usize, starts_at_once: Option<usize>, lift: f64) -> Batch {
        Batch {
            pods,
            starts_at_once: starts_at_once.and_then(NonZeroUsize::new),
            bound_by_scheduler: false,
            lives: Lives {
                ready_to_lifted: Percentiles::of(vec![lift; pods]),
                writes: 23.0,
                ..Lives::default()
            },
            up_seconds: 1.0,
            down_seconds: 1.0,
            cpu_ms_per_pod: BTreeMap::new(),
            resident_mib: 78.1,
            peak_mib: 78.1,
            idle_writes_per_minute: None,
            further_attempts: 0,
            failed_passes: BTreeMap::new(),
        }
    }

    #[test]
    fn every_batch_up_to_a_hundred_pods_has_the_lifts_aims() {
        let aims = aims(&[
            batch(10, None, 168.0),
            batch(100, None, 40.0),
            batch(1000, None, 281.0),
        ]);
        let memory = |at: &str| Aim::new(format!("reconciler's RSS, MiB, {at} at once"), 78.1, 60.0);
        let writes = |at: &str| Aim::new(format!("writes in a life, {at} at once"), 23.0, 24.0);
        let lift = |end: &str, at: &str, measured, at_most| {
            Aim::new(
                format!("Node Ready to lifted, ms, {end}, {at} at once"),
                measured,
                at_most,
            )
        };
        assert_eq!(
            aims,
            [
                lift("p50", "10", 168.0, 50.0),
                lift("maximum", "10", 168.0, 500.0),
                writes("10"),
                memory("10"),
                lift("p50", "100", 40.0, 50.0),
                lift("p99", "100", 40.0, 500.0),
                writes("100"),
                memory("100"),
                writes("1000"),
                memory("1000"),
            ]
        );
    }

    #[test]
    fn only_the_shipped_reconciler_has_aims_and_the_other_is_told_apart() {
        let batches = [batch(100, None, 1.0), batch(100, Some(8), 1.0)];
        assert_eq!(aims(&batches), aims(&batches[..1]));
        assert_eq!(
            times(&batches).columns,
            ["", "100 at once", "100 at once, 8 starts at once"]
        );
    }
}
