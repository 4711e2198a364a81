//! What the webhook, the reconciler and the guest share: names, CRD types and rules. Every item is a constant, a type,
//! or a function of its arguments: nothing reads a clock, the environment, the network or a random source.
//!
//! Start with [`names`], every label, taint and derived name; then [`admission`], which pods are marooned and what they
//! carry, and [`api`], the custom resources. [`sizing`] sizes VMs, [`join_info`] is the contract with the guest.

pub mod admission;
pub mod api;
pub mod join_info;
pub mod names;
mod pod_uid;
pub mod quantity;
pub mod sizing;
pub mod text;

pub use pod_uid::PodUid;
