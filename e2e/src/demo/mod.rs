//! The README's first command: the whole loop, live, for a user who has never seen the project.

mod choice;
mod console;
mod real;
mod screen;
mod simulated;
mod timeline;
mod tour;
mod workloads;

use std::fmt;

use anyhow::Result;
use tokio::signal;

pub use self::choice::Guests;
use self::screen::Screen;
use crate::kubevirt::Kvm;
use crate::system::tools;

/// What is shown, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the pods' machines are; real ones where that is possible, when absent.
    pub guests: Option<Guests>,
    /// Whether real guests may use KVM.
    pub kvm: Kvm,
    /// How many pods the Deployment has.
    pub replicas: u32,
    /// Leave everything up at the end until the process is told to stop.
    pub keep: bool,
}

/// The user pressed Ctrl-C.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; everything has been cleaned up")
    }
}

impl std::error::Error for Interrupted {}

/// Runs the demo; what it starts is gone when this returns. Blocks.
///
/// # Errors
/// When anything was not seen that belongs to a marooned pod's life, or anything was left; [`Interrupted`].
pub fn run(options: Options) -> Result<()> {
    let obstacles = match options.guests {
        Some(Guests::Simulated) => Vec::new(),
        None | Some(Guests::Real) => real::obstacles(),
    };
    match choice::choose(options.guests, &obstacles)? {
        Guests::Real => real::run(options),
        Guests::Simulated => {
            for obstacle in obstacles {
                println!("No real virtual machines here, so they are simulated: {obstacle}");
            }
            simulated::run(options)
        }
    }
}

/// Dropped work cleans up behind itself.
async fn unless_interrupted(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        outcome = work => outcome,
        pressed = signal::ctrl_c() => {
            pressed?;
            eprintln!("\ninterrupted; everything is being cleaned up");
            Err(Interrupted.into())
        }
    }
}

fn say_done(screen: &Screen) {
    screen.show("");
    screen.say("done: each marooned pod had a node of its own, and nothing of it is left");
}
