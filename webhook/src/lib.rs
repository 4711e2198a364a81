//! The mutating admission webhook: step 0 of the protocol. It writes constants into pods that are being created, and
//! gives updates back what they lack of those: it reads no other object, keeps no state, holds no credential.
//!
//! Start with [`review`], request bytes to answer bytes, which decides by `maroonedpods_common::admission`; [`http`] and
//! `body` receive the bytes within bounds, `pod` reads the pod, `patch` writes the answer's patch, [`server`] runs it all.

pub mod args;
mod body;
pub mod http;
pub mod metrics;
mod partial;
mod patch;
mod pod;
mod prune;
pub mod review;
pub mod server;
mod tls;

pub use args::Args;
pub use server::{Error, Server, run};
pub use tls::TlsError;
