//! How our programs write, as the API server saw it: the field manager and the precondition of each write.

use serde_json::Value;

use crate::control_plane::audit::AuditEvent;
use crate::install::SYSTEM_NAMESPACE;

/// The field manager and user agent of every program of ours.
pub const MANAGER: &str = "maroonedpods-reconciler";

/// Requests of the release's accounts that do not name their program, and writes without a precondition, which succeed
/// whatever has become of the object; one line each.
#[must_use]
pub fn careless(log: &[AuditEvent]) -> Vec<String> {
    let ours = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:");
    let by_us = log.iter().filter(|event| event.user.starts_with(&ours));
    by_us
        .filter_map(|event| flaw(event).map(|flaw| format!("{flaw}: {event:?}")))
        .collect()
}

fn flaw(event: &AuditEvent) -> Option<&'static str> {
    if !event.user_agent.starts_with(&format!("{MANAGER}/")) {
        return Some("another User-Agent");
    }
    if !event.is_write() {
        return None;
    }
    if event.verb != "delete" && event.field_manager != MANAGER {
        return Some("another field manager");
    }
    (!is_conditional(event)).then_some("no precondition")
}

/// A create needs the name to be free. A server-side apply of a whole object means the same whenever it comes.
fn is_conditional(event: &AuditEvent) -> bool {
    let body = &event.body;
    let names = |object: &Value, field: &str| object[field].as_str().is_some_and(|text| !text.is_empty());
    match (event.verb.as_str(), event.resource.as_str()) {
        ("create", _) if event.subresource == "eviction" => {
            names(&body["deleteOptions"]["preconditions"], "uid")
        }
        ("create", _) | ("patch", "customresourcedefinitions") => true,
        ("delete", _) => names(&body["preconditions"], "uid"),
        ("update", _) => names(&body["metadata"], "resourceVersion"),
        ("patch", _) => match body.as_array() {
            Some(operations) => operations.iter().any(|operation| {
                let (operation_name, path) = (operation["op"].as_str(), operation["path"].as_str());
                // The API server answers 409 to an update of an object at another version than the stored one.
                matches!(
                    (operation_name, path),
                    (Some("test"), Some("/metadata/uid" | "/metadata/resourceVersion"))
                        | (Some("replace"), Some("/metadata/resourceVersion"))
                ) && operation["value"].as_str().is_some_and(|text| !text.is_empty())
            }),
            None => ["uid", "resourceVersion"]
                .iter()
                .any(|field| names(&body["metadata"], field)),
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn event(verb: &str, subresource: &str, body: Value) -> AuditEvent {
        AuditEvent {
            user: format!("system:serviceaccount:{SYSTEM_NAMESPACE}:any"),
            verb: verb.to_owned(),
            group: String::new(),
            resource: "pods".to_owned(),
            subresource: subresource.to_owned(),
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            code: 200,
            denied: false,
            impersonated: Vec::new(),
            user_agent: format!("{MANAGER}/1"),
            field_manager: MANAGER.to_owned(),
            body,
            dry_run: false,
            policy_failures: String::new(),
            received: Timestamp::UNIX_EPOCH,
            completed: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn each_verb_has_its_precondition() {
        let cases = [
            ("create", "", json!(null), true),
            ("create", "eviction", json!({"metadata": {"name": "p"}}), false),
            (
                "create",
                "eviction",
                json!({"deleteOptions": {"preconditions": {"uid": "u"}}}),
                true,
            ),
            ("delete", "", json!({"propagationPolicy": "Background"}), false),
            ("delete", "", json!({"preconditions": {"uid": "u"}}), true),
            ("update", "", json!({"metadata": {"resourceVersion": ""}}), false),
            ("update", "", json!({"metadata": {"resourceVersion": "7"}}), true),
            ("patch", "", json!({"status": {}}), false),
            ("patch", "status", json!({"metadata": {"uid": "u"}}), true),
            (
                "patch",
                "",
                json!([{"op": "test", "path": "/spec", "value": 1}]),
                false,
            ),
            (
                "patch",
                "status",
                json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}]),
                true,
            ),
            (
                "patch",
                "status",
                json!([{"op": "replace", "path": "/metadata/uid", "value": "u"}]),
                false,
            ),
            (
                "patch",
                "status",
                json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": ""}]),
                false,
            ),
            (
                "patch",
                "",
                json!([{"op": "test", "path": "/metadata/uid", "value": "u"}]),
                true,
            ),
            ("deletecollection", "", json!({}), false),
        ];
        for (verb, subresource, body, holds) in cases {
            let said = careless(&[event(verb, subresource, body)]);
            assert_eq!(said.is_empty(), holds, "{said:?}");
        }
    }

    #[test]
    fn every_request_says_who_makes_it() {
        let nameless = AuditEvent {
            user_agent: String::new(),
            ..event("get", "", json!(null))
        };
        let unmanaged = AuditEvent {
            field_manager: String::new(),
            ..event("create", "", json!(null))
        };
        let foreign = AuditEvent {
            user: "admin".to_owned(),
            ..nameless.clone()
        };
        assert_eq!(careless(&[nameless, unmanaged, foreign]).len(), 2);
    }
}
