//! A fake KubeVirt and its guests, which keep to the real ones' behaviour against a real API server. It stays beside a
//! real KubeVirt, for scale and for faults.
//!
//! Which file acts for which component, and with which rights:
//!
//! | file | acts as | client |
//! |---|---|---|
//! | [`host`], [`machine`], [`launcher`] | virt-api's mutator, virt-controller, virt-handler | KubeVirt |
//! | [`eviction`] | virt-api's webhook on evictions, beside real guests | KubeVirt |
//! | [`qemu`] | virt-handler and virt-launcher of real guests, in place of all below | KubeVirt |
//! | [`nodes`] | the hosts' kubelets, which run launchers and ordinary pods | `system:node:<host>` |
//! | [`guest`], [`join`] | the node image's boot program | anonymous, then its bootstrap token |
//! | [`kubelet`], [`pods`] | the guest's kubelet | `system:node:marooned-…`, by the certificate it was issued |
//!
//! A guest is given what a machine has, its seed and its hardware, and no client. [`script`] says what goes wrong.

mod admission;
mod crd;
mod csr;
mod eviction;
mod guest;
mod host;
mod join;
mod kubelet;
mod launcher;
mod log;
mod machine;
mod nodes;
mod own_node;
mod pod_status;
mod pods;
mod qemu;
mod retry;
pub mod script;
mod seed;
mod vmi;

pub(crate) use crd::resource;
pub use crd::{install_crd, say_version};
pub use csr::Ask;
pub use host::{FakeKubeVirt, FakeKubeVirtOptions, Guests};
pub use log::{GuestEvent, GuestLog, StolenCredentials};
pub use qemu::{Kvm, RealVm, launcher_image, provide_launcher};
