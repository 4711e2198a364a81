//! This machine: its processes, folders, programs, packages, and keys made on it.

pub mod debian;
pub mod logs;
pub mod packages;
pub mod pki;
pub mod process;
pub mod skipped;
pub(crate) mod stores;
pub mod tools;
pub(crate) mod work_folder;
