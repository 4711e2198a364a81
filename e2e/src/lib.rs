//! A real control plane for tests and for the demo, and the helpers to speak with it.

pub mod audit;
pub mod bench;
pub mod check;
pub mod cluster;
mod components;
pub mod demo;
pub mod drafts;
mod folder;
pub mod images;
pub mod in_force;
pub mod install;
mod kubeconfig;
pub mod line;
pub mod load;
pub mod logs;
pub mod oci;
pub mod pki;
pub mod plane;
pub mod pods;
pub mod process;
pub mod rights;
pub mod secret_volume;
pub mod tenant;
pub mod tools;
pub mod vmhost;
pub mod webhooks;
pub mod world;
