//! The border between Kubernetes' types and our decisions: small values with only the fields that matter, and
//! [`Observed`], which has them all for one pod.

mod keep;
mod maker;
mod node;
mod observed;
mod packed;
mod pod;
pub mod topology;
mod vmi;

use maroonedpods_common::text;

pub use maker::Maker;
pub use node::NodeView;
pub use observed::{BackingOff, Observed};
pub use packed::Packed;
pub use pod::{PodView, VM_GONE};
pub use vmi::VmiView;

/// A value that others wrote, as long as it need be: no value that we know is longer.
fn bounded(value: &str) -> String {
    text::value(value).into_owned()
}
