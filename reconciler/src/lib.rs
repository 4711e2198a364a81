//! The reconciler: gives each marooned pod a virtual machine of its own as its node, and takes it away with the pod.
//!
//! Where to start reading: [`run`] wires tasks together; `watches` fill caches and wake the worker of a pod; a worker
//! (`workers`) repeats one pass: `observe` reads, `plan` decides (a pure function, the heart of it), `act` writes. What
//! is written is rendered in `objects`. `sweep` finds what the workers missed, `preflight` decides whether VMs may be
//! started at all, `certs` and `lease` stand beside. The steps that the code cites are in `docs/architecture.md`.

mod act;
mod answer;
mod api;
mod args;
mod binding;
mod certs;
mod conditions;
mod config;
mod crds;
mod csr;
mod events;
mod fingerprint;
mod http;
mod lease;
mod logs;
mod metrics;
mod network_policies;
mod objects;
mod observe;
mod own_writes;
mod params;
mod placement;
mod plan;
mod preflight;
mod read;
mod run;
mod settings;
mod sightings;
mod status;
mod sweep;
mod uninstall;
mod view;
mod watches;
mod workers;

pub use api::{Cluster, ConnectError};
pub use args::{Args, Cli, Command, PreflightArgs, UninstallArgs};
pub use certs::args::{CertsArgs, Mode as CertsMode};
pub use certs::secret::NAME as CERTS_SECRET;
pub use crds::apply as apply_crds;
pub use logs::without_bodies;
pub use objects::identity::token_id;
pub use preflight::command::{Report, preflight};
pub use run::{Error, Reconciler, run};
pub use uninstall::uninstall;
