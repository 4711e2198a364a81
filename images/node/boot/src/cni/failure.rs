//! The failures that the plugin prints, as the CNI specification wants them.

use anyhow::Error;
use serde_json::{Value, json};

use super::code;

/// Why a command failed. The runtime puts the message on the pod, where `kubectl describe` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u32,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// One that the specification has no code for.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that it can be named where a function is wanted"
    )]
    pub(super) fn of(error: Error) -> Self {
        Self::new(code::FAILED, format!("{error:#}"))
    }

    /// One that goes away by itself.
    pub(super) fn later(error: &Error) -> Self {
        Self::new(code::TRY_LATER, format!("{error:#}"))
    }

    pub(super) fn json(&self, version: &str) -> Value {
        json!({"cniVersion": version, "code": self.code, "msg": self.message})
    }
}
