//! How the webhook and the reconciler serve HTTP: no client, and no number of them, makes them hold more than there is
//! room for.
//!
//! [`Port`] accepts and speaks; [`Connections`] know who is there and tell them to go, as `ledger` decides. This is no
//! part of `maroonedpods-common` because the guest's boot program links that, and serves nothing.

mod connections;
mod ledger;
mod serve;

pub use connections::{Charge, Connections, Evicted};
pub use ledger::Limits;
pub use serve::{Port, Security, WINDOW};
