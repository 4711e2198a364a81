//! The webhook beside the floor of its stack and beside the two usual designs.

mod load;
mod patches;
mod reviews;
mod servers;
mod tables;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::body::Bytes;
use serde::Serialize;
use tokio::time::sleep;

use self::load::{Load, Protocol};
use self::reviews::Size;
use self::servers::{Design, Provisions, Server};
use super::stats::{Percentiles, Spread, number};
use super::{Report, notes};

const MIB: f64 = 1_048_576.0;
const MB: f64 = 1_000_000.0;
/// How long a server is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_millis(500);

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    quick: bool,
    rounds: usize,
    warm_up: Duration,
    measured: Duration,
    starts: usize,
}

impl Effort {
    /// About seven minutes, for figures to publish; or, `quick`, under a minute, to see that it works.
    #[must_use]
    pub fn new(quick: bool) -> Self {
        let (rounds, measured, starts) = if quick { (1, 400, 3) } else { (7, 1200, 21) };
        Self {
            quick,
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
#[derive(Clone, Copy, Debug)]
struct Sample {
    cpu_per_request: f64,
    per_second: f64,
    times: Percentiles,
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
    /// None where a round has too few requests for one.
    p99: Option<Spread>,
    max: Spread,
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
    let provisions = Provisions::new()?;
    let answer = compare_patches(&provisions, cpu).await?;
    provisions.set_answer(&answer)?;
    let footprints = footprints(effort, &provisions, cpu).await?;
    let cells = cells(effort, &provisions, cpu).await?;
    let figures = Figures { cells, footprints };
    let notes = notes(effort.quick, method(effort, answer.len()));
    let aims = tables::aims(&figures)?;
    let tables = vec![
        tables::cells(&figures.cells),
        tables::footprints(&figures.footprints),
    ];
    Ok(Report::new(notes, aims, tables, figures))
}

fn method(effort: Effort, answer_bytes: usize) -> [String; 3] {
    let Effort { rounds, starts, .. } = effort;
    [
        format!(
            "loads: {rounds} round(s) each; starts: {starts} each; memory and size of the programs: once each"
        ),
        "reviews are made here and sent by this program, over TLS and loopback; kube-apiserver takes no part"
            .to_owned(),
        format!(
            "before the measurement, the patches of ours, typed and diff meant the same pod for each body; the floor \
             gives our own answer, {answer_bytes} bytes"
        ),
    ]
}

/// Makes sure that the patches of all designs mean the same. Gives our answer.
async fn compare_patches(provisions: &Provisions, cpu: usize) -> Result<Bytes> {
    eprintln!("comparing patches");
    let mut servers = Vec::new();
    for design in Design::PATCHING {
        servers.push((design, Server::start(design, provisions, cpu).await?));
    }
    let mut ours = Vec::new();
    for size in Size::ALL {
        let review = Bytes::from(size.review());
        let mut answers = Vec::new();
        for (design, server) in &servers {
            let answer = server.target(Protocol::H2, review.clone())?.ask_once().await?;
            answers.push((design.name(), answer));
        }
        patches::mean_the_same(&review, &answers).with_context(|| format!("the {} body", size.name()))?;
        ours.extend(answers.into_iter().next().map(|(_, answer)| answer));
    }
    let answer = ours.pop().context("no body was answered")?;
    ensure!(
        ours.iter().all(|other| other.len() == answer.len()),
        "our answers differ in length by body: the floor cannot give one for all"
    );
    Ok(answer)
}

/// Rounds of all loads on all servers. Within a load the servers take turns, and another one begins each round, so
/// that what else the machine does falls on all of them. Each sample has a server of its own: one that has seen
/// larger bodies keeps its heap, and does not measure a smaller one's cost.
async fn cells(effort: Effort, provisions: &Provisions, cpu: usize) -> Result<Vec<Cell>> {
    let designs = Design::ALL;
    let mut samples: BTreeMap<(Shape, Design), Vec<Sample>> = BTreeMap::new();
    for round in 0..effort.rounds {
        eprintln!("round {} of {}", round + 1, effort.rounds);
        for shape in SHAPES {
            for turn in 0..designs.len() {
                let design = designs[(round + turn) % designs.len()];
                let server = Server::start(design, provisions, cpu).await?;
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
            p50: spread(|sample| sample.times.p50)?,
            p99: samples
                .iter()
                .map(|sample| sample.times.p99)
                .collect::<Option<Vec<_>>>()
                .and_then(Spread::of),
            max: spread(|sample| sample.times.max)?,
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
    let times = Percentiles::of(took.iter().map(|time| time.as_secs_f64() * 1e6));
    Ok(Sample {
        cpu_per_request: cpu.as_secs_f64() * 1e6 / count,
        per_second: count / elapsed.as_secs_f64(),
        times: times.context("nothing was answered in time")?,
    })
}

async fn footprints(effort: Effort, provisions: &Provisions, cpu: usize) -> Result<Vec<Footprint>> {
    eprintln!("start-up and memory");
    let mut starts: BTreeMap<Design, Vec<f64>> = BTreeMap::new();
    for _ in 0..effort.starts {
        for design in Design::ALL {
            let server = Server::start(design, provisions, cpu).await?;
            starts
                .entry(design)
                .or_default()
                .push(server.started_in.as_secs_f64() * 1e3);
        }
    }
    let mut footprints = Vec::new();
    for (design, starts) in starts {
        let server = Server::start(design, provisions, cpu).await?;
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
