//! The boundary between Kubernetes' types and our decisions: small values with only the fields that matter, and
//! [`Observed`], which holds all of them for one pod.

mod keep;
mod maker;
mod node;
mod object_ref;
mod observed;
mod packed;
mod pod;
pub mod topology;
mod vmi;

use maroonedpods_common::text;

pub use maker::Maker;
pub use node::NodeView;
pub use object_ref::ObjectRef;
pub use observed::{BackingOff, Observed};
pub use packed::Packed;
pub use pod::{PodView, VM_GONE};
pub use vmi::VmiView;

/// A value that others wrote, cut to a length that no genuine value exceeds.
fn bounded(value: &str) -> String {
    text::value(value).into_owned()
}
