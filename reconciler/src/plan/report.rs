//! The pod condition `maroonedpods.io/NodeReady`: what a waiting pod waits for.

use maroonedpods_common::api::PodReason;
use maroonedpods_common::text;

use super::{PodReport, Write};
use crate::view::PodView;

/// The write that reports `reason`, or nothing where the pod has that condition already. A changed message alone does
/// not justify a write: a message that changes while the pod waits would cause endless writes.
pub(super) fn report(
    pod: &PodView,
    ready: bool,
    reason: PodReason,
    message: impl Into<String>,
) -> Option<Write> {
    let said = pod.condition.as_ref();
    if said.is_some_and(|said| said.ready == ready && said.gives(reason)) {
        return None;
    }
    Some(write(pod, ready, reason, &message.into()))
}

/// The same, but a new message alone justifies the write. For messages that do not change while the pod waits.
pub(super) fn report_again(pod: &PodView, reason: PodReason, message: &str) -> Option<Write> {
    let said = pod.condition.as_ref();
    let again = text::sentence(message);
    if said.is_some_and(|said| !said.ready && said.gives(reason) && said.message == again) {
        return None;
    }
    Some(write(pod, false, reason, message))
}

fn write(pod: &PodView, ready: bool, reason: PodReason, message: &str) -> Write {
    Write::PodReport(PodReport {
        pod: pod.reference(),
        ready,
        reason,
        message: text::sentence(message).into_owned(),
        transition: pod.condition.as_ref().is_none_or(|said| said.ready != ready),
    })
}
