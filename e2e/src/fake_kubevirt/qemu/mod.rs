//! Real guests: each VMI's launcher is a real pod, in which QEMU runs.
//!
//! | file | acts as |
//! |---|---|
//! | [`pod`], [`arguments`] | virt-controller and virt-launcher: what a VMI becomes |
//! | `network.sh` | virt-handler: the masquerade network, with root's rights |
//! | `disks.sh` | virt-handler and virt-launcher: the seed from the Secret, blank disks |
//! | `run.sh` | virt-launcher: starts QEMU, presses its power button, says how it ended |
//! | [`image`] | the image that holds them, from this machine's packages |
//! | [`probe`] | whether KVM works here |

mod arguments;
mod image;
mod nodes;
mod pod;
mod probe;
mod real;

pub use self::image::{launcher_image, provide_launcher};
pub(super) use self::nodes::serve_nodes;
pub(super) use self::pod::in_launcher;
pub use self::probe::Kvm;
pub(super) use self::probe::{Accelerator, accelerator};
pub use self::real::RealVm;
