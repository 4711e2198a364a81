//! What was observed of a pod with a record, as the steps of the plan read it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use maroonedpods_common::api::{MaroonedNode, MaroonedNodeStatus};
use maroonedpods_common::text;

use super::Write;
use crate::view::{ObjectRef, Observed};

/// `span` after `at`, at most the end of time: guests and users write times into objects, and a sum that overflows
/// panics.
pub(super) fn after(at: Timestamp, span: SignedDuration) -> Timestamp {
    at.saturating_add(span).unwrap_or(Timestamp::MAX)
}

/// A view with a record, as the steps below read it.
pub(super) struct Context<'a> {
    pub(super) observed: &'a Observed,
    pub(super) record: Arc<MaroonedNode>,
    pub(super) status: MaroonedNodeStatus,
    pub(super) now: Timestamp,
}

impl Context<'_> {
    /// When what is of this age has reached `allowed`.
    pub(super) fn due(&self, age: SignedDuration, allowed: SignedDuration) -> Timestamp {
        after(self.now, allowed.saturating_sub(age).max(SignedDuration::ZERO))
    }

    pub(super) fn record_uid(&self) -> &str {
        self.record.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn record_ref(&self) -> ObjectRef {
        ObjectRef::without_namespace(
            self.record.metadata.name.as_deref().unwrap_or_default(),
            self.record_uid(),
        )
    }

    pub(super) fn attempt(&self) -> u32 {
        self.status.attempts.max(1)
    }

    /// The write that makes `status` the record's, or nothing where it is that already.
    pub(super) fn record_status(&self, mut status: MaroonedNodeStatus) -> Option<Write> {
        status.message = text::sentence(&status.message).into_owned();
        (status != self.status).then(|| Write::RecordStatus {
            name: self.record.metadata.name.clone().unwrap_or_default(),
            resource_version: self.record.metadata.resource_version.clone().unwrap_or_default(),
            status: Box::new(status),
        })
    }
}
