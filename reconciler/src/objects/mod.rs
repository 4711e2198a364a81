//! The objects and patches that we write, as functions of what was decided: no I/O in any of them.

pub mod disown;
pub mod identity;
pub mod lift;
pub mod node;
pub mod patch;
pub mod record;
pub mod seed;
pub mod token;
pub mod vmi;
