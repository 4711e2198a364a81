//! What is printed of the figures, and what they should be.

use super::boot::Boot;
use super::sizes::Sizes;
use super::{Figures, Guest, MEMORY_MI, STOCK};
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
    let stock = figures.others.iter().find(|guest| guest.name == STOCK);
    let share = stock.and_then(|stock| Some(ready(&figures.ours)? / ready(stock)?));
    let aim = |measured| Aim::new("power-on to Node Ready, ours / stock", measured, SHARE);
    share.map(aim).into_iter().collect()
}

fn times(figures: &Figures) -> Table {
    let boots = figures
        .others
        .iter()
        .chain([&figures.ours])
        .flat_map(|guest| &guest.boots);
    let stock = if figures.others.iter().any(|guest| guest.name == STOCK) {
        "; stock: Debian's packages, see --help"
    } else {
        ""
    };
    let title = format!(
        "Seconds since power-on, {}; KubeVirt {}, QEMU {}, {}, 1 processor, {MEMORY_MI} MiB; load before: {:.2}{stock}",
        of_boots(figures.ours.boots.len()),
        figures.kubevirt,
        figures.ours.boots.first().map_or("unknown", |boot| &boot.qemu),
        acceleration(boots),
        figures.load_before,
    );
    let mut table = beside(&title, figures);
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
    let mut table = beside(&title, figures);
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
    add("QEMU's RSS for translated code, MiB", 0, |b| {
        Some(b.resident_translated_mi)
    });
    add("QEMU's RSS for all else, MiB", 0, |b| Some(b.resident_other_mi));
    add("memory of the launcher's other processes (PSS), MiB", 0, |b| {
        Some(b.helpers_mi)
    });
    add("all of these but translated code, MiB", 0, |b| {
        Some(b.resident_guest_mi + b.resident_other_mi + b.helpers_mi)
    });
    add(
        "CPU of the launcher's other processes with an idle pod, % of one",
        1,
        |b| Some(b.helpers_idle_percent),
    );
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
        cells(
            &mut table,
            name,
            cell(value),
            figures.others.iter().map(|_| [cell(None), cell(None)]),
        );
    }
    table
}

/// A size in bytes.
type Size = fn(&Sizes) -> usize;

fn sizes(figures: &Figures) -> Table {
    let mut table = beside(
        "The images, MB, nothing compressed; of the disks what is used, not the room in their files",
        figures,
    );
    let parts: [(&str, Size); 3] = [
        ("disk, used", |sizes| sizes.disk),
        ("kernel", |sizes| sizes.kernel),
        ("initrd", |sizes| sizes.initrd),
    ];
    for (name, of) in parts {
        let megabytes = |guest: &Guest| Some(number(of(guest.sizes.as_ref()?)) / MB);
        let ours = megabytes(&figures.ours);
        let shown = |size: f64| format!("{size:.1}");
        let others = figures.others.iter().map(|other| {
            let other = megabytes(other);
            [cell(other.map(shown)), share(ours, other)]
        });
        cells(&mut table, name, cell(ours.map(shown)), others);
    }
    table
}

/// A table with a column for each guest, and one for ours as a share of it.
fn beside(title: &str, figures: &Figures) -> Table {
    let others = figures.others.iter();
    let others = others.flat_map(|other| [other.name.clone(), format!("ours / {}", other.name)]);
    let columns: Vec<_> = [String::new(), figures.ours.name.clone()]
        .into_iter()
        .chain(others)
        .collect();
    Table::new(title, &columns.iter().map(String::as_str).collect::<Vec<_>>())
}

fn row(table: &mut Table, name: &str, figures: &Figures, digits: usize, of: impl Fn(&Boot) -> Option<f64>) {
    let ours = spread(&figures.ours, &of);
    let shown = |spread: Spread| {
        let Spread { median, min, max } = spread;
        format!("{median:.digits$} ({min:.digits$} - {max:.digits$})")
    };
    let median = |spread: Option<Spread>| spread.map(|spread| spread.median);
    let others = figures.others.iter().map(|other| {
        let other = spread(other, &of);
        [cell(other.map(shown)), share(median(ours), median(other))]
    });
    cells(table, name, cell(ours.map(shown)), others);
}

fn cells(table: &mut Table, name: &str, ours: String, others: impl Iterator<Item = [String; 2]>) {
    let row: Vec<_> = [name.to_owned(), ours]
        .into_iter()
        .chain(others.flatten())
        .collect();
    table.row(row);
}

/// `ours / other`, where both are known.
fn share(ours: Option<f64>, other: Option<f64>) -> String {
    let share = ours.zip(other).map(|(ours, other)| ours / other);
    cell(share.map(|share| format!("{share:.2}")))
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
    use super::*;

    fn guest(name: &str, ready: f64) -> Guest {
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
            resident_translated_mi: 6.0,
            resident_other_mi: 6.5,
            helpers_mi: 7.0,
            helpers_idle_percent: 8.0,
            kvm: false,
            qemu: "10.0.2".to_owned(),
        };
        Guest {
            name: name.to_owned(),
            sizes: (name != "given").then_some(Sizes {
                disk: 200_000_000,
                kernel: 1,
                initrd: 1,
            }),
            boots: vec![boot],
        }
    }

    #[test]
    fn the_aim_is_a_share_of_the_other_guests_time() {
        let figures = |others| Figures {
            kubevirt: String::new(),
            load_before: 0.0,
            ours: guest("ours", 8.0),
            others,
            smallest: None,
        };
        let beside = aims(&figures(vec![guest("given", 1.0), guest("stock", 32.0)]));
        let what = "power-on to Node Ready, ours / stock";
        assert_eq!(beside, [Aim::new(what, 0.25, 1.0 / 3.0)]);
        assert!(aims(&figures(Vec::new())).is_empty());
        let shown = times(&figures(Vec::new())).to_string();
        assert!(
            shown.contains("one boot of each") && shown.contains("8.00 (8.00 - 8.00)"),
            "{shown}"
        );
    }

    #[test]
    fn each_guest_has_a_column_and_its_share() {
        let figures = Figures {
            kubevirt: String::new(),
            load_before: 0.0,
            ours: guest("ours", 8.0),
            others: vec![guest("stock", 32.0), guest("given", 16.0)],
            smallest: None,
        };
        let table = times(&figures);
        assert_eq!(
            table.columns,
            ["", "ours", "stock", "ours / stock", "given", "ours / given"]
        );
        let ready = table.rows.iter().find(|row| row[0] == "Node Ready").unwrap();
        assert_eq!(
            ready[1..],
            [
                "8.00 (8.00 - 8.00)",
                "32.00 (32.00 - 32.00)",
                "0.25",
                "16.00 (16.00 - 16.00)",
                "0.50"
            ]
        );
        assert_eq!(
            sizes(&figures).rows[0],
            ["disk, used", "200.0", "200.0", "1.00", "-", "-"]
        );
    }

    #[test]
    fn acceleration_is_what_qemu_says_of_every_boot() {
        let with = |kvm| Boot {
            kvm,
            ..guest("ours", 1.0).boots.remove(0)
        };
        let said =
            |boots: &[bool]| acceleration(boots.iter().map(|&kvm| with(kvm)).collect::<Vec<_>>().iter());
        assert_eq!(said(&[true, true]), "with KVM");
        assert_eq!(said(&[false, false]), "emulated, without KVM");
        assert_eq!(said(&[true, false]), "some boots with KVM, some emulated");
    }
}
