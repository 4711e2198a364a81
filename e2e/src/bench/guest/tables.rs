//! What is printed of the figures, and what they should be.

use super::boot::Boot;
use super::{Figures, Guest, MEMORY_MI};
use crate::bench::stats::{Spread, number};
use crate::bench::table::{Aim, Table};

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
pub fn aims(figures: &Figures) -> Vec<Aim> {
    let ready = |guest: &Guest| Some(spread(guest, |boot| stage(boot, "Node Ready"))?.median);
    let share = figures
        .stock
        .as_ref()
        .and_then(|stock| Some(ready(&figures.ours)? / ready(stock)?));
    let aim = |measured| Aim::new("power-on to Node Ready, ours / stock", measured, SHARE);
    share.map(aim).into_iter().collect()
}

fn times(figures: &Figures) -> Table {
    let guests = [Some(&figures.ours), figures.stock.as_ref()]
        .into_iter()
        .flatten();
    let title = format!(
        "Seconds since power-on, {}; KubeVirt {}, QEMU {}, {}, 1 processor, {MEMORY_MI} MiB; load before: {:.2}",
        of_boots(figures.ours.boots.len()),
        figures.kubevirt,
        figures.ours.boots.first().map_or("unknown", |boot| &boot.qemu),
        acceleration(guests.flat_map(|guest| &guest.boots)),
        figures.load_before,
    );
    let mut table = beside(&title, "stock: Debian's packages, see --help");
    for name in STAGES {
        row(&mut table, name, figures, 2, |boot| stage(boot, name));
    }
    table
}

fn of_boots(count: usize) -> String {
    if count == 1 {
        "one boot of each".to_owned()
    } else {
        format!("median (least - greatest) of {count} boots of each")
    }
}

/// What QEMU said of KVM.
fn acceleration<'a>(boots: impl Iterator<Item = &'a Boot>) -> &'static str {
    let (with, without): (Vec<_>, Vec<_>) = boots.partition(|boot| boot.kvm);
    match (with.is_empty(), without.is_empty()) {
        (true, _) => "emulated, without KVM",
        (false, true) => "with KVM",
        (false, false) => "some boots with KVM, some emulated",
    }
}

fn costs(figures: &Figures) -> Table {
    let title = format!(
        "What a guest costs its host, {}",
        of_boots(figures.ours.boots.len())
    );
    let mut table = beside(&title, "stock");
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
    add("memory of the launcher's other processes (PSS), MiB", 0, |b| {
        Some(b.helpers_mi)
    });
    add("their CPU with an idle pod, % of one", 1, |b| {
        Some(b.helpers_idle_percent)
    });
    let small = figures.smallest.as_ref();
    for (name, value) in [
        (
            "smallest memory that its pod ran with (one boot of each size), MiB",
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
        "The images, MB, nothing compressed; of the disks what is used, not the room in their files",
        "stock",
    );
    let parts: [(&str, Size); 3] = [
        ("disk, used", |g| g.sizes.disk),
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
            helpers_mi: 7.0,
            helpers_idle_percent: 8.0,
            kvm: false,
            qemu: "10.0.2".to_owned(),
        };
        Guest {
            sizes: Sizes {
                disk: 200_000_000,
                kernel: 1,
                initrd: 1,
            },
            boots: vec![boot],
        }
    }

    #[test]
    fn the_aim_is_a_share_of_the_other_guests_time() {
        let figures = |stock| Figures {
            kubevirt: String::new(),
            load_before: 0.0,
            ours: guest(8.0),
            stock,
            smallest: None,
        };
        let beside = aims(&figures(Some(guest(32.0))));
        let what = "power-on to Node Ready, ours / stock";
        assert_eq!(beside, [Aim::new(what, 0.25, 1.0 / 3.0)]);
        assert!(aims(&figures(None)).is_empty());
        let shown = times(&figures(None)).to_string();
        assert!(
            shown.contains("one boot of each") && shown.contains("8.00 (8.00 - 8.00)"),
            "{shown}"
        );
    }

    #[test]
    fn acceleration_is_what_qemu_says_of_every_boot() {
        let with = |kvm| Boot {
            kvm,
            ..guest(1.0).boots.remove(0)
        };
        let said =
            |boots: &[bool]| acceleration(boots.iter().map(|&kvm| with(kvm)).collect::<Vec<_>>().iter());
        assert_eq!(said(&[true, true]), "with KVM");
        assert_eq!(said(&[false, false]), "emulated, without KVM");
        assert_eq!(said(&[true, false]), "some boots with KVM, some emulated");
    }
}
