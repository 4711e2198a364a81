//! The checks on the cluster, each broken and repaired on a live one: what the configuration, `/readyz`, a waiting pod
//! and `preflight` say, and that no credential is made meanwhile.
//!
//! The floor of Kubernetes itself and the absence of admission policies cannot be had on this control plane; their
//! verdicts are unit tests of `preflight::judge`.

#![allow(clippy::unwrap_used)]

mod crds;
mod faults;
mod kubevirt_gone;
mod setup;
