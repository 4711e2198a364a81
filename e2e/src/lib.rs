//! A real control plane for tests and for the demo, and the helpers to speak with it.
//!
//! Each folder uses only those after it: [`demo`], [`bench`] and [`conformance`], [`harness`], [`install`], [`kubevirt`] and
//! [`fake_kubevirt`], [`cluster`], [`control_plane`], [`api`], [`system`].

pub mod api;
pub mod bench;
pub mod cluster;
pub mod conformance;
pub mod control_plane;
pub mod demo;
pub mod fake_kubevirt;
pub mod harness;
pub mod install;
pub mod kubevirt;
pub mod system;
