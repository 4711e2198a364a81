//! Builds what is shipped as images: the webhook's and the reconciler's container images, and the node image. No container
//! runtime, no root and no registry are needed.
//!
//! The programs of `hack/image` and `hack/node-image` are here, apart from the test harness, so that a user who wants an
//! image does not compile a harness.

pub mod apt;
mod cargo;
pub mod command;
pub mod go;
pub mod node_image;
pub mod node_tools;
pub mod oci;
pub mod program_images;
pub mod sandbox;
mod sbom;

pub use self::cargo::Profile;
