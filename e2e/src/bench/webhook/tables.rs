//! What is printed of the figures, and what they should be.

use anyhow::{Context, Result};

use super::servers::Design;
use super::{COLD, Cell, Figures, Footprint, LARGE, MANY, ONE, Shape};
use crate::bench::stats::Spread;
use crate::bench::table::{Aim, Table};

pub(super) fn aims(figures: &Figures) -> Result<Vec<Aim>> {
    let cell = |shape, design| cell(&figures.cells, shape, design).context("a cell was not measured");
    let cpu = |shape, design| anyhow::Ok(cell(shape, design)?.cpu_per_request.median);
    let over_floor = |shape| anyhow::Ok(cpu(shape, Design::Ours)? / cpu(shape, Design::Floor)?);
    let heavier = heavier(&figures.cells).context("no usual design was measured")?;
    let ours = figures
        .footprints
        .iter()
        .find(|footprint| footprint.design == Design::Ours);
    let ours = ours.context("our webhook was not measured")?;
    Ok(vec![
        Aim::new(
            "CPU per request over the floor, typical, 16 in flight",
            over_floor(MANY)?,
            2.5,
        ),
        Aim::new(
            format!(
                "CPU per request over the heavier usual design ({}), typical, 16 in flight",
                heavier.design.name()
            ),
            cpu(MANY, Design::Ours)? / heavier.cpu_per_request.median,
            0.1,
        ),
        Aim::new(
            "p50 over the floor's, typical, 1 in flight",
            cell(ONE, Design::Ours)?.p50.median / cell(ONE, Design::Floor)?.p50.median,
            1.2,
        ),
        Aim::new(
            "CPU per request over the floor, large, 16 in flight",
            over_floor(LARGE)?,
            2.6,
        ),
        Aim::new(
            "CPU per cold request over the floor, typical",
            over_floor(COLD)?,
            1.1,
        ),
        Aim::new("memory when idle, MiB", ours.idle_mib, 12.0),
        Aim::new(
            "memory after large bodies, 64 in flight, MiB",
            ours.after_large_mib,
            16.0,
        ),
        Aim::new("program, stripped, MB", ours.program_mb, 8.0),
        Aim::new("start to first answer over TLS, ms", ours.start_ms.median, 12.0),
    ])
}

fn cell(cells: &[Cell], shape: Shape, design: Design) -> Option<&Cell> {
    cells
        .iter()
        .find(|cell| cell.shape == shape && cell.design == design)
}

/// The usual design that takes more CPU.
fn heavier(cells: &[Cell]) -> Option<&Cell> {
    let usual = Design::USUAL
        .into_iter()
        .filter_map(|design| cell(cells, MANY, design));
    usual.max_by(|a, b| a.cpu_per_request.median.total_cmp(&b.cpu_per_request.median))
}

pub(super) fn cells(cells: &[Cell]) -> Table {
    let mut table = Table::new(
        "Medians of the rounds (least–most). CPU is the server's own, time as the client sees it, in µs; the maximum \
         stands for p99 where a round has fewer than 100 requests",
        &[
            "body and load",
            "server",
            "CPU/request",
            "ours / it",
            "requests/s",
            "p50",
            "p99",
        ],
    );
    for of in cells {
        let ours = cell(cells, of.shape, Design::Ours);
        let ratio = ours.map_or(f64::NAN, |ours| {
            ours.cpu_per_request.median / of.cpu_per_request.median
        });
        let spread = |of: Spread| format!("{:.1} ({:.1}–{:.1})", of.median, of.min, of.max);
        table.row([
            of.shape.name(),
            of.design.name().to_owned(),
            spread(of.cpu_per_request),
            format!("{ratio:.3}"),
            format!("{:.0}", of.per_second.median),
            spread(of.p50),
            of.p99.map_or_else(
                || format!("max {:.0}", of.max.median),
                |p99| format!("{:.0}", p99.median),
            ),
        ]);
    }
    table
}

pub(super) fn footprints(footprints: &[Footprint]) -> Table {
    let mut table = Table::new(
        "Start-up, median (least–most), and memory, once",
        &[
            "server",
            "start, ms",
            "program, MB",
            "RSS idle, MiB",
            "after typical",
            "after large, 64 in flight",
        ],
    );
    for of in footprints {
        let start = of.start_ms;
        table.row([
            of.design.name().to_owned(),
            format!("{:.1} ({:.1}–{:.1})", start.median, start.min, start.max),
            format!("{:.2}", of.program_mb),
            format!("{:.1}", of.idle_mib),
            format!("{:.1}", of.after_typical_mib),
            format!("{:.1}", of.after_large_mib),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::SHAPES;
    use super::*;

    fn spread(median: f64) -> Spread {
        Spread {
            median,
            min: median,
            max: median,
        }
    }

    /// Each design's CPU time, under all loads.
    fn figures(designs: [(Design, f64); 4]) -> Figures {
        let cell = |shape, (design, cpu)| Cell {
            shape,
            design,
            cpu_per_request: spread(cpu),
            per_second: spread(1.0),
            p50: spread(cpu),
            p99: None,
            max: spread(7.0),
        };
        let footprint = |design| Footprint {
            design,
            start_ms: spread(1.0),
            program_mb: 1.0,
            idle_mib: 1.0,
            after_typical_mib: 1.0,
            after_large_mib: 1.0,
        };
        Figures {
            cells: SHAPES
                .into_iter()
                .flat_map(|shape| designs.map(|design| cell(shape, design)))
                .collect(),
            footprints: designs.map(|(design, _)| footprint(design)).into(),
        }
    }

    fn aim(figures: &Figures, number: usize) -> Aim {
        aims(figures).unwrap().swap_remove(number)
    }

    #[test]
    fn ours_is_compared_with_the_heavier_usual_design() {
        let by_hand = [
            (Design::Ours, 8.0),
            (Design::Floor, 4.0),
            (Design::Typed, 160.0),
            (Design::Diff, 100.0),
        ];
        let figures = figures(by_hand);
        assert_eq!(
            aim(&figures, 0),
            Aim::new("CPU per request over the floor, typical, 16 in flight", 2.0, 2.5)
        );
        let what = "CPU per request over the heavier usual design (typed), typical, 16 in flight";
        assert_eq!(aim(&figures, 1), Aim::new(what, 0.05, 0.1));
    }

    #[test]
    fn each_row_says_how_ours_compares_and_which_end_it_shows() {
        let by_hand = [
            (Design::Ours, 8.0),
            (Design::Floor, 4.0),
            (Design::Typed, 32.0),
            (Design::Diff, 80.0),
        ];
        let mut figures = figures(by_hand);
        figures.cells[0].p99 = Some(spread(6.0));
        let table = cells(&figures.cells);
        let shown: Vec<_> = table.rows[..4]
            .iter()
            .map(|row| (row[1].as_str(), row[3].as_str(), row[6].as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("ours", "1.000", "6"),
                ("floor", "2.000", "max 7"),
                ("typed", "0.250", "max 7"),
                ("diff", "0.100", "max 7"),
            ]
        );
    }
}
