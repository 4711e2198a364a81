//! What the webhook and the reconciler share as programs, and how they serve HTTP: no client, and no number of them,
//! makes a program hold more than there is room for.
//!
//! Start with [`program`] for flags, log, signals and pages, and with [`Port`] for serving: it accepts connections and
//! speaks HTTP, [`Connections`] holds who is connected and tells them to go, as `ledger` decides. All of it is a crate
//! apart from `maroonedpods-common` because the guest's boot program links that, and serves nothing.

mod connections;
mod ledger;
pub mod program;
mod serve;

pub use connections::{Charge, Connections, Evicted};
pub use ledger::Limits;
pub use serve::{IDLE_TIMEOUT, Port, Security, WINDOW};
