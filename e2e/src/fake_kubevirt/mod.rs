//! A fake KubeVirt with simulated guests, which keep to the real ones' behaviour against a real API server: for scale and
//! for faults. Real guests have the real one, [`crate::kubevirt`].
//!
//! Which file acts for which component, and with which rights:
//!
//! | file | acts as | client |
//! |---|---|---|
//! | [`virt_api`], [`eviction`] | virt-api: its webhooks on VMIs and evictions | `kubevirt-apiserver` |
//! | [`host`], [`machine`], [`writes`], [`launcher`] | virt-controller, and virt-handler | `kubevirt-controller`, `kubevirt-handler` |
//! | [`nodes`], [`domains`] | the hosts' kubelets, which run launchers and ordinary pods | `system:node:<host>` |
//! | [`guest`], [`join`] | the node image's boot program | anonymous, then its bootstrap token |
//! | [`kubelet`], [`pods`] | the guest's kubelet | `system:node:marooned-…`, by the certificate it was issued |
//!
//! A guest is given what a machine has, its seed and its hardware, and no client. [`script`] says what goes wrong.
//! [`accounts`] makes KubeVirt's accounts.
//!
//! Of our own code, only names and the seed's type are used here: what is computed here judges what our programs compute.

mod accounts;
mod admission;
mod crd;
mod csr;
mod domains;
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
pub mod quantity;
mod retry;
pub mod script;
mod seed;
mod virt_api;
mod vmi;
mod writes;

pub use admission::Request;
pub(crate) use crd::resource;
pub use crd::{install_crd, say_version};
pub use csr::Ask;
pub use host::{FakeKubeVirt, FakeKubeVirtOptions, QUICK_TEARDOWN};
pub use log::{GuestEvent, GuestLog, StolenCredentials, refusals_of};
