//! Request bytes to answer bytes: the `AdmissionReview` envelope of `admission.k8s.io/v1`.
//!
//! Whatever is wrong with a request, its answer carries the uid and a message. To an answer without the uid, the API
//! server reports a broken webhook and no message.

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use maroonedpods_common::admission::update::lost;
use maroonedpods_common::admission::{OptOut, Outcome, decide};
use maroonedpods_common::names::CLASS_LABEL;
use maroonedpods_common::text::value;
use serde::{Deserialize, Serialize};

use crate::metrics::AdmissionResult;
use crate::partial::{PartialReview, read_partially};
use crate::patch::{adding_patch, restoring_patch};
use crate::pod::{Pod, Text, object, text};
use crate::prune::prune;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// The answer to the API server, and the result that it is counted as.
#[derive(Debug)]
pub struct Answer {
    /// 200 with a review, or 400 where the request has no uid, which a review must repeat.
    pub status: StatusCode,
    /// A review as JSON, or a plain sentence.
    pub body: Vec<u8>,
    /// What the metrics count.
    pub result: AdmissionResult,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(borrow, default)]
    api_version: Option<Text<'a>>,
    #[serde(borrow, default)]
    kind: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(borrow, default)]
    uid: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    kind: Option<GroupVersionKind<'a>>,
    #[serde(borrow, default)]
    sub_resource: Option<Text<'a>>,
    #[serde(borrow, default)]
    operation: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    object: Option<Pod<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    old_object: Option<Pod<'a>>,
}

#[derive(Deserialize)]
struct GroupVersionKind<'a> {
    #[serde(borrow, default)]
    group: Option<Text<'a>>,
    #[serde(borrow, default)]
    version: Option<Text<'a>>,
    #[serde(borrow, default)]
    kind: Option<Text<'a>>,
}

/// Answers the request in `body`, which arrived whole. Never panics, whatever the bytes are.
#[must_use]
pub fn answer(body: &[u8], opt_out: OptOut) -> Answer {
    let read = prune(body);
    let review: Review<'_> = match serde_json::from_slice(&read) {
        Ok(review) => review,
        Err(error) => return unreadable(body, &error),
    };
    let Some(request) = &review.request else {
        return no_uid("the review has no request");
    };
    let uid = text(request.uid.as_ref());
    if uid.is_empty() {
        return no_uid("the review has no request.uid");
    }
    let (version, kind) = (text(review.api_version.as_ref()), text(review.kind.as_ref()));
    if (version, kind) != (API_VERSION, KIND) {
        let (version, kind) = (value(version), value(kind));
        let message = format!("this webhook speaks {API_VERSION} {KIND}, not {version:?} {kind:?}");
        return invalid(uid, StatusCode::BAD_REQUEST, &message);
    }
    decided(uid, request, opt_out)
}

/// Answers a request whose body did not arrive whole, by the uid in what did arrive.
#[must_use]
pub fn refuse(prefix: &[u8], code: StatusCode, message: &str) -> Answer {
    match read_partially(prefix).uid {
        Some(uid) => invalid(&uid, code, message),
        None => no_uid(message),
    }
}

/// Tells a scheduler that the pod which it is about to preempt is not found, whatever is in the request.
///
/// "Not found" is the one refusal after which the scheduler leaves the pod alone and waits. After any other,
/// kube-scheduler 1.33 and later tries again at once, and spends all of its requests on that.
#[must_use]
pub fn no_preemption(body: &[u8]) -> Answer {
    let message = format!(
        "a marooned pod is not preempted, because no other pod can run on its node: keep the other pod off by a \
         required node affinity, {CLASS_LABEL} DoesNotExist"
    );
    let Some(uid) = read_partially(body).uid else {
        return no_uid("the review has no request.uid");
    };
    let status = Status {
        code: StatusCode::NOT_FOUND.as_u16(),
        reason: Some("NotFound"),
        message: &message,
    };
    refused(&uid, status, AdmissionResult::PreemptionRefused)
}

fn decided(uid: &str, request: &Request<'_>, opt_out: OptOut) -> Answer {
    let kind = request.kind.as_ref();
    let gvk = kind.map(|kind| [&kind.group, &kind.version, &kind.kind].map(|field| text(field.as_ref())));
    let operation = text(request.operation.as_ref());
    let sub_resource = text(request.sub_resource.as_ref());
    let operation = match in_scope(gvk.unwrap_or_default(), operation, sub_resource) {
        Ok(operation) => operation,
        Err(result) => return allowed(uid, result, None),
    };
    let Some(pod) = &request.object else {
        return invalid(
            uid,
            StatusCode::BAD_REQUEST,
            "request.object is missing: a CREATE or UPDATE carries the pod",
        );
    };
    match operation {
        Operation::Create => created(uid, pod, opt_out),
        Operation::Update => updated(uid, pod, request.old_object.as_ref().unwrap_or(&Pod::default())),
    }
}

fn created(uid: &str, pod: &Pod<'_>, opt_out: OptOut) -> Answer {
    match decide(&pod.view(), opt_out) {
        Outcome::LeaveAlone(reason) => allowed(uid, reason.into(), None),
        Outcome::Deny(message) => {
            tracing::info!(uid = %value(uid), reason = message, "pod denied");
            denied(uid, StatusCode::FORBIDDEN, &message, AdmissionResult::Denied)
        }
        Outcome::Add(additions) => patched(uid, AdmissionResult::Patched, adding_patch(pod, &additions)),
    }
}

/// An update is never refused here: the API server and the chart's admission policies (its guards) judge the result.
fn updated(uid: &str, pod: &Pod<'_>, old: &Pod<'_>) -> Answer {
    let lost = lost(&old.placement(), &pod.placement());
    if lost.is_empty() {
        return allowed(uid, AdmissionResult::Complete, None);
    }
    patched(uid, AdmissionResult::Restored, restoring_patch(pod, &lost))
}

fn patched(uid: &str, result: AdmissionResult, patch: serde_json::Result<Patch>) -> Answer {
    match patch.and_then(|patch| serde_json::to_vec(&patch)) {
        Ok(patch) => allowed(uid, result, Some(&patch)),
        Err(error) => invalid(
            uid,
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("the patch cannot be written: {error}"),
        ),
    }
}

/// The operations on a pod that the webhook looks at.
enum Operation {
    Create,
    Update,
}

/// The operation, if the request creates or updates a pod; else as what it is allowed. The webhook configuration does
/// not send others.
fn in_scope(kind: [&str; 3], operation: &str, sub_resource: &str) -> Result<Operation, AdmissionResult> {
    if kind != ["", "v1", "Pod"] {
        return Err(AdmissionResult::ForeignKind);
    }
    if !sub_resource.is_empty() {
        return Err(AdmissionResult::Subresource);
    }
    match operation {
        "CREATE" => Ok(Operation::Create),
        "UPDATE" => Ok(Operation::Update),
        _ => Err(AdmissionResult::OtherOperation),
    }
}

/// Answers a body that [`Review`] cannot be read from: broken JSON, which is refused, or an object of another kind,
/// which is not judged here.
fn unreadable(body: &[u8], error: &serde_json::Error) -> Answer {
    let message = format!(
        "this AdmissionReview cannot be read: {}",
        value(&error.to_string())
    );
    let PartialReview {
        uid,
        kind,
        operation,
        sub_resource,
        whole,
    } = read_partially(body);
    let Some(uid) = uid else { return no_uid(&message) };
    let kind = [&kind.group, &kind.version, &kind.kind].map(String::as_str);
    match in_scope(kind, &operation, &sub_resource) {
        Err(result) if whole => allowed(&uid, result, None),
        _ => invalid(&uid, StatusCode::BAD_REQUEST, &message),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnswerReview<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
}

#[derive(Serialize)]
struct Status<'a> {
    code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: &'a str,
}

fn allowed(uid: &str, result: AdmissionResult, patch: Option<&[u8]>) -> Answer {
    let patch_type = patch.map(|_| "JSONPatch");
    let patch = patch.map(|patch| STANDARD.encode(patch));
    review(
        Response {
            uid,
            allowed: true,
            patch_type,
            patch,
            status: None,
        },
        result,
    )
}

fn denied(uid: &str, code: StatusCode, message: &str, result: AdmissionResult) -> Answer {
    let status = Status {
        code: code.as_u16(),
        reason: None,
        message,
    };
    refused(uid, status, result)
}

fn refused(uid: &str, status: Status<'_>, result: AdmissionResult) -> Answer {
    review(
        Response {
            uid,
            allowed: false,
            patch_type: None,
            patch: None,
            status: Some(status),
        },
        result,
    )
}

fn invalid(uid: &str, code: StatusCode, message: &str) -> Answer {
    tracing::warn!(uid = %value(uid), reason = message, "invalid request");
    denied(uid, code, message, AdmissionResult::Invalid)
}

fn no_uid(message: &str) -> Answer {
    tracing::warn!(reason = message, "request without a uid");
    Answer {
        status: StatusCode::BAD_REQUEST,
        body: format!("{message}\n").into_bytes(),
        result: AdmissionResult::Invalid,
    }
}

fn review(response: Response<'_>, result: AdmissionResult) -> Answer {
    match serde_json::to_vec(&AnswerReview {
        api_version: API_VERSION,
        kind: KIND,
        response,
    }) {
        Ok(body) => Answer {
            status: StatusCode::OK,
            body,
            result,
        },
        Err(error) => no_uid(&format!("the answer cannot be written: {error}")),
    }
}
