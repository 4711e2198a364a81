//! Codes of failures. Below 100 they are the CNI specification's.

pub(super) const VERSION: u32 = 1;
pub(super) const ENVIRONMENT: u32 = 4;
pub(super) const IO: u32 = 5;
pub(super) const DECODE: u32 = 6;
pub(super) const CONFIG: u32 = 7;
pub(super) const TRY_LATER: u32 = 11;
pub(super) const NOT_READY: u32 = 50;
pub(super) const FAILED: u32 = 100;
pub(super) const REFUSED: u32 = 101;
pub(super) const BROKEN: u32 = 102;
