//! The webhook beside the floor of its stack and beside the usual design.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Bytes;
use serde::Serialize;
use tokio::time::sleep;

use super::Report;
use super::load::{Load, Protocol};
use super::reviews::Size;
use super::servers::{Design, Identity, Server};
use super::stats::{Percentiles, Spread, number};
use super::table::{Goal, Table};

const MIB: f64 = 1_048_576.0;
const MB: f64 = 1_000_000.0;
/// How long a server is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_millis(500);

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    rounds: usize,
    warm_up: Duration,
    measured: Duration,
    starts: usize,
}

impl Effort {
    /// About five minutes, for figures to publish; or, `quick`, about half a minute, to see that it works.
    #[must_use]
    pub fn new(quick: bool) -> Self {
        let (rounds, measured, starts) = if quick { (1, 400, 3) } else { (7, 1200, 21) };
        Self {
            rounds,
            warm_up: Duration::from_millis(250),
            measured: Duration::from_millis(measured),
            starts,
        }
    }
}

/// One way to load a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    size: Size,
    protocol: Protocol,
    in_flight: usize,
    keep_alive: bool,
}

impl Shape {
    const fn kept(size: Size, protocol: Protocol, in_flight: usize) -> Self {
        Self {
            size,
            protocol,
            in_flight,
            keep_alive: true,
        }
    }

    fn name(&self) -> String {
        let protocol = match self.protocol {
            Protocol::H1 => "h1",
            Protocol::H2 => "h2",
        };
        let cold = if self.keep_alive { "" } else { ", cold" };
        format!(
            "{}, {protocol}, {} in flight{cold}",
            self.size.name(),
            self.in_flight
        )
    }
}

const ONE: Shape = Shape::kept(Size::Typical, Protocol::H2, 1);
const MANY: Shape = Shape::kept(Size::Typical, Protocol::H2, 16);
const LARGE: Shape = Shape::kept(Size::Large, Protocol::H2, 16);
const COLD: Shape = Shape {
    keep_alive: false,
    ..Shape::kept(Size::Typical, Protocol::H2, 4)
};

const SHAPES: [Shape; 9] = [
    ONE,
    MANY,
    Shape::kept(Size::Typical, Protocol::H2, 64),
    Shape::kept(Size::Typical, Protocol::H1, 1),
    Shape::kept(Size::Typical, Protocol::H1, 16),
    Shape::kept(Size::Small, Protocol::H2, 16),
    LARGE,
    Shape::kept(Size::Large, Protocol::H1, 16),
    COLD,
];

/// One server under one load for a moment. Times are microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    cpu_per_request: f64,
    per_second: f64,
    p50: f64,
    p99: f64,
}

/// The rounds of one server under one load.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cell {
    shape: Shape,
    design: Design,
    cpu_per_request: Spread,
    per_second: Spread,
    p50: Spread,
    p99: Spread,
}

/// A server's size.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Footprint {
    design: Design,
    start_ms: Spread,
    program_mb: f64,
    idle_mib: f64,
    after_typical_mib: f64,
    after_large_mib: f64,
}

/// All figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    cells: Vec<Cell>,
    footprints: Vec<Footprint>,
}

/// Measures. The calling thread must be bound to another processor than `cpu`, where the servers go.
pub async fn run(effort: Effort, cpu: usize) -> Result<Report<Figures>> {
    let identity = Identity::new()?;
    let footprints = footprints(effort, &identity, cpu).await?;
    let cells = cells(effort, &identity, cpu).await?;
    let figures = Figures { cells, footprints };
    let goals = goals(&figures)?;
    let tables = vec![cell_table(&figures.cells), footprint_table(&figures.footprints)];
    Ok(Report::new(goals, tables, figures))
}

/// Rounds of all loads on all servers. Within a load the servers take turns, and another one begins each round, so
/// that what else the machine does falls on all of them. Each sample has a server of its own: one that has seen
/// larger bodies keeps its heap, and does not measure a smaller one's cost.
async fn cells(effort: Effort, identity: &Identity, cpu: usize) -> Result<Vec<Cell>> {
    let designs = Design::ALL;
    let mut samples: BTreeMap<(Shape, Design), Vec<Sample>> = BTreeMap::new();
    for round in 0..effort.rounds {
        eprintln!("round {} of {}", round + 1, effort.rounds);
        for shape in SHAPES {
            for turn in 0..designs.len() {
                let design = designs[(round + turn) % designs.len()];
                let server = Server::start(design, identity, cpu).await?;
                let sample = sample(effort, &server, &shape)
                    .await
                    .with_context(|| format!("{} under {}", design.name(), shape.name()))?;
                samples.entry((shape, design)).or_default().push(sample);
            }
        }
    }
    let cell = |shape, design| {
        let samples = samples.get(&(shape, design))?;
        let spread = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of));
        Some(Cell {
            shape,
            design,
            cpu_per_request: spread(|sample| sample.cpu_per_request)?,
            per_second: spread(|sample| sample.per_second)?,
            p50: spread(|sample| sample.p50)?,
            p99: spread(|sample| sample.p99)?,
        })
    };
    let all = SHAPES
        .into_iter()
        .flat_map(|shape| Design::ALL.map(|design| (shape, design)));
    Ok(all.filter_map(|(shape, design)| cell(shape, design)).collect())
}

async fn sample(effort: Effort, server: &Server, shape: &Shape) -> Result<Sample> {
    let target = server.target(shape.protocol, Bytes::from(shape.size.review()))?;
    let mut load = Load::new(target, shape.in_flight, shape.keep_alive).await?;
    load.run(effort.warm_up).await?;
    let (cpu_before, start) = (server.cpu_time()?, std::time::Instant::now());
    let took = load.run(effort.measured).await?;
    let (elapsed, cpu) = (start.elapsed(), server.cpu_time()?.saturating_sub(cpu_before));
    let count = number(took.len());
    let percentiles = Percentiles::of(took.iter().map(|time| time.as_secs_f64() * 1e6));
    let percentiles = percentiles.context("nothing was answered in time")?;
    Ok(Sample {
        cpu_per_request: cpu.as_secs_f64() * 1e6 / count,
        per_second: count / elapsed.as_secs_f64(),
        p50: percentiles.p50,
        p99: percentiles.p99,
    })
}

async fn footprints(effort: Effort, identity: &Identity, cpu: usize) -> Result<Vec<Footprint>> {
    eprintln!("start-up and memory");
    let mut starts: BTreeMap<Design, Vec<f64>> = BTreeMap::new();
    for _ in 0..effort.starts {
        for design in Design::ALL {
            let server = Server::start(design, identity, cpu).await?;
            starts
                .entry(design)
                .or_default()
                .push(server.started_in.as_secs_f64() * 1e3);
        }
    }
    let mut footprints = Vec::new();
    for (design, starts) in starts {
        let server = Server::start(design, identity, cpu).await?;
        sleep(SETTLE).await;
        let idle_mib = mib(&server)?;
        exercise(effort, &server, Size::Typical, 16).await?;
        let after_typical_mib = mib(&server)?;
        exercise(effort, &server, Size::Large, 64).await?;
        footprints.push(Footprint {
            design,
            start_ms: Spread::of(starts).context("no start")?,
            program_mb: bytes(design.program_bytes()?) / MB,
            idle_mib,
            after_typical_mib,
            after_large_mib: mib(&server)?,
        });
    }
    Ok(footprints)
}

async fn exercise(effort: Effort, server: &Server, size: Size, in_flight: usize) -> Result<()> {
    let target = server.target(Protocol::H2, Bytes::from(size.review()))?;
    let mut load = Load::new(target, in_flight, true).await?;
    load.run(effort.measured * 2).await?;
    Ok(())
}

fn mib(server: &Server) -> Result<f64> {
    Ok(bytes(server.resident_bytes()?) / MIB)
}

/// As a number to calculate with: sizes here are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn bytes(n: u64) -> f64 {
    n as f64
}

fn goals(figures: &Figures) -> Result<Vec<Goal>> {
    let cell = |shape: Shape, design: Design| {
        let mut cells = figures.cells.iter();
        cells
            .find(|cell| cell.shape == shape && cell.design == design)
            .context("a cell was not measured")
    };
    let cpu = |shape, design| anyhow::Ok(cell(shape, design)?.cpu_per_request.median);
    let over_floor = |shape| anyhow::Ok(cpu(shape, Design::Ours)? / cpu(shape, Design::Floor)?);
    let ours = figures
        .footprints
        .iter()
        .find(|footprint| footprint.design == Design::Ours);
    let ours = ours.context("our webhook was not measured")?;
    let goal = |what: &str, measured: f64, at_most: f64| Goal {
        what: what.to_owned(),
        measured,
        at_most,
    };
    Ok(vec![
        goal(
            "CPU per request over the floor, typical, 16 in flight",
            over_floor(MANY)?,
            2.5,
        ),
        goal(
            "CPU per request over the usual design, typical, 16 in flight",
            cpu(MANY, Design::Ours)? / cpu(MANY, Design::Usual)?,
            0.1,
        ),
        goal(
            "p50 over the floor's, typical, 1 in flight",
            cell(ONE, Design::Ours)?.p50.median / cell(ONE, Design::Floor)?.p50.median,
            1.2,
        ),
        goal(
            "CPU per request over the floor, large, 16 in flight",
            over_floor(LARGE)?,
            2.6,
        ),
        goal(
            "CPU per cold request over the floor, typical",
            over_floor(COLD)?,
            1.1,
        ),
        goal("memory when idle, MiB", ours.idle_mib, 12.0),
        goal(
            "memory after large bodies, 64 in flight, MiB",
            ours.after_large_mib,
            16.0,
        ),
        goal("program, stripped, MB", ours.program_mb, 8.0),
        goal("start to first answer over TLS, ms", ours.start_ms.median, 12.0),
    ])
}

fn cell_table(cells: &[Cell]) -> Table {
    let mut table = Table::new(
        "Medians of the rounds (least–most). CPU is the server's own, time as the client sees it, in µs",
        &[
            "body and load",
            "server",
            "CPU/request",
            "x floor",
            "requests/s",
            "p50",
            "p99",
        ],
    );
    for cell in cells {
        let mut same = cells.iter().filter(|other| other.shape == cell.shape);
        let floor = same.find(|other| other.design == Design::Floor);
        let ratio = floor.map_or(f64::NAN, |floor| {
            cell.cpu_per_request.median / floor.cpu_per_request.median
        });
        let spread = |of: Spread| format!("{:.1} ({:.1}–{:.1})", of.median, of.min, of.max);
        table.row([
            cell.shape.name(),
            cell.design.name().to_owned(),
            spread(cell.cpu_per_request),
            format!("{ratio:.2}"),
            format!("{:.0}", cell.per_second.median),
            spread(cell.p50),
            format!("{:.0}", cell.p99.median),
        ]);
    }
    table
}

fn footprint_table(footprints: &[Footprint]) -> Table {
    let mut table = Table::new(
        "Start-up and memory",
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
