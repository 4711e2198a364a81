//! The pod condition `maroonedpods.io/NodeReady`: what a waiting pod waits for.

use maroonedpods_common::api::PodReason;
use maroonedpods_common::text;

use super::{PodReport, Write};
use crate::view::PodView;

/// The write that reports `reason`, or nothing where the pod says so already. A changed message alone is not
/// worth a write: what changes while waiting would make writes without end.
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

/// The same for what is worth a write even where only the message is new: one that stands while it is waited.
pub(super) fn report_anew(pod: &PodView, reason: PodReason, message: &str) -> Option<Write> {
    let said = pod.condition.as_ref();
    let again = text::sentence(message);
    if said.is_some_and(|said| !said.ready && said.gives(reason) && said.message == again) {
        return None;
    }
    Some(write(pod, false, reason, message))
}

fn write(pod: &PodView, ready: bool, reason: PodReason, message: &str) -> Write {
    Write::PodReport(PodReport {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        ready,
        reason,
        message: text::sentence(message).into_owned(),
        transition: pod.condition.as_ref().is_none_or(|said| said.ready != ready),
    })
}
