//! The benchmarks: what the webhook costs beside other designs, what a pod's life takes from the reconciler, and how
//! long a real guest boots.

pub mod guest;
mod lives;
mod machine;
mod proc;
pub mod reconciler;
mod stats;
mod table;
pub mod webhook;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use machine::Machine;
use table::{Aim, Table};

pub use proc::{allowed_cpus, pin};

/// What a benchmark found.
#[derive(Debug, Serialize)]
pub struct Report<F> {
    machine: Machine,
    /// How it was measured: what ran once, what was simulated, what took part.
    notes: Vec<String>,
    aims: Vec<Aim>,
    tables: Vec<Table>,
    /// All figures, unrounded.
    figures: F,
}

impl<F: Serialize> Report<F> {
    fn new(notes: Vec<String>, aims: Vec<Aim>, mut tables: Vec<Table>, figures: F) -> Self {
        tables.push(table::aims(&aims));
        Self {
            machine: Machine::here(),
            notes,
            aims,
            tables,
            figures,
        }
    }

    /// Prints the tables, and writes everything to `file` as JSON.
    pub fn publish(&self, file: Option<&Path>) -> Result<()> {
        println!("\n{}", self.machine);
        for note in &self.notes {
            println!("- {note}");
        }
        for table in &self.tables {
            print!("{table}");
        }
        let Some(file) = file else { return Ok(()) };
        let json = serde_json::to_vec_pretty(self)?;
        std::fs::write(file, json).with_context(|| format!("writing {}", file.display()))
    }
}

/// The notes of a benchmark, after the one on a `quick` run.
fn notes(quick: bool, more: impl IntoIterator<Item = String>) -> Vec<String> {
    let warning = "a quick run: it shows that the benchmark works, its figures are worth nothing";
    let warning = quick.then(|| warning.to_owned());
    warning.into_iter().chain(more).collect()
}

/// A program of the release build, which lies beside the build of this one.
fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let builds = own
        .parent()
        .and_then(Path::parent)
        .context("this program lies in no build")?;
    let path = builds.join("release").join(name);
    ensure!(path.exists(), "{} is not there: run hack/bench", path.display());
    Ok(path)
}
