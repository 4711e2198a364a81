//! A real control plane for tests and for the demo, and the helpers to speak with it.

pub mod audit;
pub mod bench;
pub mod check;
mod components;
pub mod demo;
pub mod drafts;
mod folder;
pub mod install;
mod kubeconfig;
pub mod line;
pub mod logs;
pub mod pki;
pub mod plane;
pub mod pods;
pub mod process;
pub mod tenant;
pub mod tools;
pub mod vmhost;
pub mod world;
