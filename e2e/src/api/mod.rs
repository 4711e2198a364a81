//! Helpers to speak with any API server: what tests assert, wait for, read and apply.

pub mod apply;
pub mod check;
pub mod leftovers;
pub mod namespace;
pub mod read;
