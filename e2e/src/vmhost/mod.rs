//! KubeVirt and its guests, played honestly against a real API server.
//!
//! [`host`] plays virt-controller and virt-handler: phases, launcher pods, interfaces, deletion. A guest
//! ([`guest`]) has only what a guest has: the seed, a firmware UUID and its size; it joins with the token, speaks
//! with the certificate it was issued, and runs its pods. Simulated host nodes ([`nodes`]) run ordinary pods and
//! the launchers. [`script`] says what goes wrong.

mod csr;
mod guest;
mod host;
mod kubelet;
mod nodes;
mod pods;
pub mod script;
mod seed;

pub use guest::{GuestEvent, GuestLog};
pub(crate) use host::resource;
pub use host::{VmHost, VmHostOptions, install_crd};
