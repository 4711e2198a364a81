//! What is printed of the figures, and what they should be.

use super::boot::Boot;
use super::{Figures, Guest, MEMORY_MI};
use crate::bench::stats::{Spread, number};
use crate::bench::table::{Goal, Table};

/// From power-on to a pod that runs, in order.
const STAGES: [&str; 10] = [
    "initrd",
    "init",
    "seed",
    "network",
    "containerd",
    "kubelet",
    "client CSR",
    "certificate",
    "Node Ready",
    "pod Running",
];
const MB: f64 = 1e6;
/// Of a stock guest's time to a Node that is ready.
const SHARE: f64 = 1.0 / 3.0;

/// All tables.
pub fn all(figures: &Figures) -> Vec<Table> {
    vec![times(figures), costs(figures), sizes(figures)]
}

/// What the figures should be.
pub fn goals(figures: &Figures) -> Vec<Goal> {
    let ready = |guest: &Guest| Some(spread(guest, |boot| stage(boot, "Node Ready"))?.median);
    let share = figures
        .stock
        .as_ref()
        .and_then(|stock| Some(ready(&figures.ours)? / ready(stock)?));
    let goal = |measured| Goal {
        what: "power-on to Node Ready, ours / stock".to_owned(),
        measured,
        at_most: SHARE,
    };
    share.map(goal).into_iter().collect()
}

fn times(figures: &Figures) -> Table {
    let how = if figures.ours.boots.iter().all(|boot| boot.kvm) {
        "with KVM"
    } else {
        "emulated, without KVM"
    };
    let title = format!(
        "Seconds since power-on, median (least - greatest) of {}; {}, {how}, 1 processor, {MEMORY_MI} MiB; load before: {:.2}",
        figures.ours.boots.len(),
        figures.qemu,
        figures.load_before,
    );
    let mut table = beside(&title, "stock: Debian's packages, see --help");
    for name in STAGES {
        row(&mut table, name, figures, 2, |boot| stage(boot, name));
    }
    table
}

fn costs(figures: &Figures) -> Table {
    let mut table = beside("What a guest costs its host", "stock");
    let mut add =
        |name: &str, digits, of: fn(&Boot) -> Option<f64>| row(&mut table, name, figures, digits, of);
    add("pod created to launcher created, s", 2, |b| b.created_to_launcher);
    add("launcher created to QEMU started, s", 2, |b| {
        b.launcher_to_power_on
    });
    add("QEMU's CPU until Node Ready, s", 2, |b| Some(b.cpu_until_ready));
    add("QEMU's CPU until pod Running, s", 2, |b| {
        Some(b.cpu_until_running)
    });
    add("QEMU's CPU with an idle pod, % of one", 1, |b| {
        Some(b.idle_percent)
    });
    add("memory used in the guest, MiB", 0, |b| Some(b.used_mi));
    add("QEMU's RSS for the guest's memory, MiB", 0, |b| {
        Some(b.resident_guest_mi)
    });
    add("QEMU's RSS beyond it, MiB", 0, |b| Some(b.resident_beyond_mi));
    let small = figures.smallest.as_ref();
    for (name, value) in [
        (
            "smallest memory that its pod ran with, MiB",
            small.map(|boot| boot.memory_mi.to_string()),
        ),
        (
            "  used in that guest, MiB",
            small.map(|boot| format!("{:.0}", boot.used_mi)),
        ),
        (
            "  its seconds to pod Running",
            small.and_then(|boot| Some(format!("{:.2}", stage(boot, "pod Running")?))),
        ),
    ] {
        table.row([name.to_owned(), cell(value), cell(None), cell(None)]);
    }
    table
}

/// A size in bytes.
type Size = fn(&Guest) -> usize;

fn sizes(figures: &Figures) -> Table {
    let mut table = beside(
        "The images, MB, nothing compressed but what their file systems compress",
        "stock",
    );
    let parts: [(&str, Size); 4] = [
        ("archive", |g| g.sizes.archive),
        ("disk", |g| g.sizes.disk),
        ("kernel", |g| g.sizes.kernel),
        ("initrd", |g| g.sizes.initrd),
    ];
    for (name, of) in parts {
        let megabytes = |guest| number(of(guest)) / MB;
        let ours = megabytes(&figures.ours);
        let stock = figures.stock.as_ref().map(megabytes);
        table.row([
            name.to_owned(),
            format!("{ours:.1}"),
            cell(stock.map(|size| format!("{size:.1}"))),
            cell(stock.map(|size| format!("{:.2}", ours / size))),
        ]);
    }
    table
}

fn beside(title: &str, stock: &str) -> Table {
    Table::new(title, &["", "ours", stock, "ours / stock"])
}

fn row(table: &mut Table, name: &str, figures: &Figures, digits: usize, of: impl Fn(&Boot) -> Option<f64>) {
    let ours = spread(&figures.ours, &of);
    let stock = figures.stock.as_ref().and_then(|stock| spread(stock, &of));
    let shown = |spread: Spread| {
        let Spread { median, min, max } = spread;
        format!("{median:.digits$} ({min:.digits$} - {max:.digits$})")
    };
    let share = ours.zip(stock).map(|(ours, stock)| ours.median / stock.median);
    table.row([
        name.to_owned(),
        cell(ours.map(shown)),
        cell(stock.map(shown)),
        cell(share.map(|share| format!("{share:.2}"))),
    ]);
}

fn spread(guest: &Guest, of: impl Fn(&Boot) -> Option<f64>) -> Option<Spread> {
    Spread::of(guest.boots.iter().filter_map(of))
}

fn stage(boot: &Boot, name: &str) -> Option<f64> {
    boot.stages
        .iter()
        .find(|(stage, _)| *stage == name)
        .map(|(_, at)| *at)
}

fn cell(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::sizes::Sizes;
    use super::*;

    fn guest(ready: f64) -> Guest {
        let boot = Boot {
            created_to_launcher: None,
            launcher_to_power_on: None,
            stages: vec![("Node Ready", ready)],
            cpu_until_ready: 1.0,
            cpu_until_running: 2.0,
            idle_percent: 3.0,
            memory_mi: MEMORY_MI,
            used_mi: 4.0,
            resident_guest_mi: 5.0,
            resident_beyond_mi: 6.0,
            kvm: false,
        };
        Guest {
            sizes: Sizes::of(&[], &[], &[]),
            boots: vec![boot],
        }
    }

    #[test]
    fn the_goal_is_a_share_of_the_other_guests_time() {
        let figures = |stock| Figures {
            qemu: String::new(),
            load_before: 0.0,
            ours: guest(8.0),
            stock,
            smallest: None,
        };
        let beside = goals(&figures(Some(guest(32.0))));
        assert_eq!(beside.len(), 1);
        assert!((beside[0].measured - 0.25).abs() < f64::EPSILON);
        assert!(goals(&figures(None)).is_empty());
        let shown = times(&figures(None)).to_string();
        assert!(
            shown.contains("emulated") && shown.contains("8.00 (8.00 - 8.00)"),
            "{shown}"
        );
    }
}
