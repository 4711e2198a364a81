//! The API server's audit log: every request with its user, as the server saw it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// The policy: every request once, when its response is complete. A watch therefore shows up when it ends. Bodies are
/// kept where they hold what our own writes demand.
pub(crate) const POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Request, userGroups: ["system:serviceaccounts:maroonedpods-system"], verbs: [delete, update, patch]}
- level: Request
  userGroups: ["system:serviceaccounts:maroonedpods-system"]
  verbs: [create]
  resources: [{group: "", resources: [pods/eviction]}]
- {level: Metadata}
"#;

/// Annotation in which the API server notes what its authorizers decided.
const DECISION: &str = "authorization.k8s.io/decision";
/// Annotation in which the API server notes what admission policies that audit would have refused.
const POLICY_FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Name of the user who made the request.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`; an HTTP verb in lower
    /// case for a path that is not a resource.
    pub verb: String,
    /// User and groups that the request was made as, where it impersonates another user.
    pub impersonated: Vec<String>,
    /// API group, empty for the core group.
    pub group: String,
    /// Resource, such as `pods`; empty for a path that is not a resource.
    pub resource: String,
    /// Subresource, such as `status`; empty for the object itself.
    pub subresource: String,
    /// Namespace; empty for what has none.
    pub namespace: String,
    /// Name; empty for lists. A create with `generateName` has the name that it was given.
    pub name: String,
    /// HTTP status.
    pub code: u16,
    /// No role of the user's allows the request. (Admission, too, answers with 403.)
    pub denied: bool,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// The field manager that the request names; empty where it names none.
    pub field_manager: String,
    /// The body, of requests whose bodies are kept; else null.
    pub body: Value,
    /// Whether the request was a dry run (`dryRun=All`).
    pub dry_run: bool,
    /// What admission policies with the action Audit say of the request, as JSON; empty where they say nothing.
    pub policy_failures: String,
    /// When the server received the request.
    pub received: Timestamp,
    /// When the response was complete.
    pub completed: Timestamp,
}

impl AuditEvent {
    /// Whether the request asked for a change of a stored object. (Reviews and dry runs store nothing.)
    #[must_use]
    pub fn is_write(&self) -> bool {
        let changes = matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        );
        changes
            && !self.group.starts_with("authorization.")
            && !self.group.starts_with("authentication.")
            && self.subresource != "token"
            && !self.dry_run
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    user: User,
    #[serde(default)]
    impersonated_user: User,
    verb: String,
    #[serde(rename = "requestURI", default)]
    request_uri: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    request_object: Value,
    #[serde(default)]
    response_status: ResponseStatus,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    user_agent: String,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
    groups: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

/// Reads the log written so far. The server appends an event shortly *after* its client has the answer, so a test
/// that looks for one waits for it.
pub(crate) fn read(log: &Path) -> Result<Vec<AuditEvent>> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    parse(&text)
}

fn parse(log: &str) -> Result<Vec<AuditEvent>> {
    // What follows the last line break is still being written.
    let complete = log.rfind('\n').map_or("", |end| &log[..end]);
    complete.lines().map(event).collect()
}

fn event(line: &str) -> Result<AuditEvent> {
    let line: Line = serde_json::from_str(line).with_context(|| format!("an audit event reads {line}"))?;
    let impersonated = line.impersonated_user;
    let names = [impersonated.username].into_iter().chain(impersonated.groups);
    Ok(AuditEvent {
        user: line.user.username,
        verb: line.verb,
        impersonated: names.filter(|name| !name.is_empty()).collect(),
        group: line.object_ref.api_group,
        resource: line.object_ref.resource,
        subresource: line.object_ref.subresource,
        namespace: line.object_ref.namespace,
        name: line.object_ref.name,
        code: line.response_status.code,
        denied: line
            .annotations
            .get(DECISION)
            .is_some_and(|decision| decision == "forbid"),
        user_agent: line.user_agent,
        field_manager: query(&line.request_uri, "fieldManager").to_owned(),
        body: line.request_object,
        dry_run: line.request_uri.contains("dryRun=All"),
        policy_failures: line.annotations.get(POLICY_FAILURES).cloned().unwrap_or_default(),
        received: line.request_received_timestamp,
        completed: line.stage_timestamp,
    })
}

/// The value of a parameter of the query, as written there; empty where it is not.
fn query<'u>(uri: &'u str, parameter: &str) -> &'u str {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    let mut values = query.split('&').filter_map(|pair| pair.split_once('='));
    values
        .find(|(key, _)| *key == parameter)
        .map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: &str = concat!(
        r#"{"kind":"Event","level":"Metadata","stage":"ResponseComplete","verb":"create","#,
        r#""user":{"username":"admin","groups":["system:masters"]},"userAgent":"test/1","#,
        r#""objectRef":{"resource":"pods","namespace":"default","name":"web","apiVersion":"v1"},"#,
        r#""responseStatus":{"metadata":{},"code":201},"requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z","#,
        r#""stageTimestamp":"2026-01-01T00:00:00.000002Z"}"#,
    );

    #[test]
    fn an_unfinished_line_waits_for_its_rest() {
        let events = parse(&format!("{CREATE}\n{}", &CREATE[..40])).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(
            (
                events[0].resource.as_str(),
                events[0].name.as_str(),
                events[0].code
            ),
            ("pods", "web", 201)
        );
        assert!(!events[0].denied && events[0].is_write() && events[0].received < events[0].completed);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn a_denied_request_is_told_from_one_that_admission_refuses() {
        let noted = |decision: &str| {
            let annotations = format!(r#""annotations":{{"{DECISION}":"{decision}"}},"user""#);
            let line = CREATE
                .replace("201", "403")
                .replacen(r#""user""#, &annotations, 1);
            parse(&format!("{line}\n")).unwrap().remove(0).denied
        };
        assert!(noted("forbid") && !noted("allow"));
    }

    #[test]
    fn a_request_in_anothers_name_says_both() {
        let other = r#""impersonatedUser":{"username":"u","groups":["g"]},"user""#;
        let line = CREATE.replacen(r#""user""#, other, 1);
        let event = parse(&format!("{line}\n")).unwrap().remove(0);
        assert_eq!(
            (event.user.as_str(), event.impersonated),
            ("admin", vec!["u".to_owned(), "g".to_owned()])
        );
        assert_eq!(parse(&format!("{CREATE}\n")).unwrap()[0].impersonated, [""; 0]);
    }

    #[test]
    fn a_spoilt_line_is_an_error() {
        assert!(parse("{}\n").is_err());
    }

    #[test]
    fn reviews_token_requests_and_dry_runs_store_nothing() {
        let create = parse(&format!("{CREATE}\n")).unwrap().remove(0);
        let review = AuditEvent {
            group: "authorization.k8s.io".to_owned(),
            ..create.clone()
        };
        let token = AuditEvent {
            subresource: "token".to_owned(),
            ..create.clone()
        };
        let tried = AuditEvent {
            dry_run: true,
            ..create.clone()
        };
        let read = AuditEvent {
            verb: "get".to_owned(),
            ..create
        };
        assert!(!review.is_write() && !token.is_write() && !tried.is_write() && !read.is_write());
        let uri = r#""requestURI":"/api/v1/namespaces/default/pods?&dryRun=All","verb""#;
        let tried = CREATE.replace(r#""verb""#, uri);
        assert!(parse(&format!("{tried}\n")).unwrap()[0].dry_run);
    }

    #[test]
    fn a_writer_is_known_by_its_field_manager_and_what_it_demands_by_the_body() {
        let line = CREATE.replace(
            r#""verb""#,
            r#""requestURI":"/api/v1/pods?&fieldManager=us&force=true","requestObject":{"a":1},"verb""#,
        );
        let event = parse(&format!("{line}\n")).unwrap().remove(0);
        assert_eq!(
            (event.field_manager.as_str(), &event.body["a"]),
            ("us", &Value::from(1))
        );
        let bare = parse(&format!("{CREATE}\n")).unwrap().remove(0);
        assert!(bare.field_manager.is_empty() && bare.body.is_null());
    }
}
