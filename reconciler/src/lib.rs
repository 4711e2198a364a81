//! The reconciler: gives each marooned pod a virtual machine of its own as its node, and takes it away again.
//!
//! [`observe`] reads, [`plan`] decides (pure), [`act`] writes; [`workers`] runs the three in a loop per pod.
//! [`watches`] wake the workers, [`sweep`] finds what they missed. [`preflight`] says whether VMs may
//! be started at all. Of the program's other subcommands, [`uninstall`] and [`crds`] do one thing and end.

pub mod act;
pub mod answer;
pub mod api;
pub mod args;
pub mod binding;
pub mod certs;
pub mod conditions;
pub mod config;
pub mod crds;
pub mod csr;
mod disown;
pub mod events;
pub mod http;
pub mod identity;
pub mod lease;
pub mod lift;
pub mod logs;
pub mod metrics;
pub mod node;
pub mod observe;
pub mod packed;
pub mod places;
pub mod plan;
pub mod policies;
pub mod preflight;
pub mod read;
pub mod record;
pub mod rejections;
pub mod seed;
pub mod seen;
pub mod settings;
pub mod sightings;
pub mod sweep;
pub mod token;
pub mod topology;
pub mod turns;
pub mod uninstall;
pub mod view;
pub mod vmi;
pub mod watches;
pub mod workers;

mod pace;
mod params;
mod run;
mod tolerations;

pub use args::Args;
pub use run::{Error, Reconciler, run};
