//! The guards, attacked: by a tenant with more rights than most, by root in two guests, while the webhook is gone, and
//! by mistake. Each attempt is refused with a message that says what to do, and its harmless twin passes.
//!
//! `cargo test -p maroonedpods-e2e --test guards -- --nocapture` prints the tables (attempt, who, server's message).

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures)]

mod daemon_sets;
mod fixtures;
mod guest;
mod placement;
mod pods;
mod policies;
mod preemption;
mod selectors;
mod table;
mod tenant;
mod webhook_gone;
