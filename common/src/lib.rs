//! What the webhook and the reconciler share: names, CRD types and rules.
//!
//! Nothing here reads a clock, the environment, the network or a random source: every item is a constant, a
//! type, or a function of its arguments.

pub mod admission;
pub mod api;
pub mod join_info;
pub mod names;
pub mod quantity;
pub mod sizing;
pub mod text;
