//! For tests alone: a program of ours as a process of its own, clients that attack it, and pods of odd shapes.
//!
//! The tests of the webhook, of the reconciler and of the whole system use the same ones. No program depends on
//! this crate.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

mod attack;
mod pods;
mod program;

pub use attack::Attack;
pub use pods::odd_pod;
pub use program::Program;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Long enough that only a defect takes longer.
pub const GIVE_UP: Duration = Duration::from_secs(60);

/// An address of this machine at which nothing listens.
#[must_use]
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Waits until `condition` holds. Panics with `what` when it does not within [`GIVE_UP`].
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waiting = async {
        while !condition().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(GIVE_UP, waiting).await;
    waited.unwrap_or_else(|_| panic!("still waiting: {what}"));
}
