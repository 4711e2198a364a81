//! The benchmarks: what the webhook costs beside other designs, what a pod's life takes from the reconciler, and how
//! long a real guest boots.

pub mod guest;
pub mod lives;
pub mod load;
mod machine;
mod proc;
pub mod reconciler;
pub mod reviews;
mod servers;
mod stats;
mod table;
pub mod webhook;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use machine::Machine;
use table::{Goal, Table};

pub use proc::{allowed_cpus, pin};

/// What a benchmark found.
#[derive(Debug, Serialize)]
pub struct Report<F> {
    machine: Machine,
    goals: Vec<Goal>,
    tables: Vec<Table>,
    /// All figures, unrounded.
    figures: F,
}

impl<F: Serialize> Report<F> {
    fn new(goals: Vec<Goal>, mut tables: Vec<Table>, figures: F) -> Self {
        tables.push(table::goals(&goals));
        Self {
            machine: Machine::here(),
            goals,
            tables,
            figures,
        }
    }

    /// Prints the tables, and writes everything to `file` as JSON.
    pub fn publish(&self, file: Option<&Path>) -> Result<()> {
        println!("\n{}", self.machine);
        for table in &self.tables {
            print!("{table}");
        }
        let Some(file) = file else { return Ok(()) };
        let json = serde_json::to_vec_pretty(self)?;
        std::fs::write(file, json).with_context(|| format!("writing {}", file.display()))
    }
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
