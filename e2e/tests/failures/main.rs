//! What goes wrong with a VM, its guest, its host, or through a person's mistake, and what becomes of the pod.

#![allow(clippy::unwrap_used)]

mod host;
mod kubevirt;
mod people;
mod setup;
mod vm;
