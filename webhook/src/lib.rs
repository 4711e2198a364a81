//! The mutating admission webhook: step 0 of the protocol.
//!
//! It writes constants into pods that are being created, and nothing else: it reads no other object, keeps no
//! state, and holds no credential of the API server. Bytes come in through [`http`] (bounded by `body`
//! and `maroonedpods_server`), [`review`] turns them into a verdict by `maroonedpods_common::admission`, `patch` writes it.

pub mod args;
mod body;
pub mod http;
pub mod metrics;
mod patch;
mod pod;
mod prune;
pub mod review;
mod salvage;
pub mod server;
mod tls;

pub use args::Args;
pub use server::{Error, Server, run};
pub use tls::TlsError;
