//! The reconciler: one fresh virtual machine per marooned pod, from record to release.

pub mod csr;
pub mod lease;
