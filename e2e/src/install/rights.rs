//! What the chart's roles allow, and whether a request that the API server answered needed it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use kube::ResourceExt;
use kube::api::DynamicObject;
use maroonedpods_common::names;
use serde::de::DeserializeOwned;

use crate::api::apply::kind;
use crate::control_plane::audit::AuditEvent;
use crate::install::SYSTEM_NAMESPACE;

/// Who holds a right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A service account, by its user name.
    Account(String),
    /// Guests with a bootstrap token.
    Guests,
}

/// One thing that one holder may do: the smallest part of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Who.
    pub holder: Holder,
    /// Such as `get`.
    pub verb: String,
    /// API group, empty for the core group.
    pub group: String,
    /// Resource and subresource, such as `pods/status`.
    pub resource: String,
    /// The one namespace it is for; everywhere if absent.
    pub namespace: Option<String>,
    /// The one object it is for; every one if absent.
    pub name: Option<String>,
}

impl Right {
    /// Whether this right allowed the request.
    #[must_use]
    pub fn allowed(&self, event: &AuditEvent) -> bool {
        let resource = if event.subresource.is_empty() {
            event.resource.clone()
        } else {
            format!("{}/{}", event.resource, event.subresource)
        };
        !event.denied
            && self.holder.is(&event.user)
            && (&self.verb, &self.group, &self.resource) == (&event.verb, &event.group, &resource)
            && self
                .namespace
                .as_ref()
                .is_none_or(|only| *only == event.namespace)
            && self.name.as_ref().is_none_or(|only| *only == event.name)
    }

    /// Whether some request needed the right.
    #[must_use]
    pub fn used(&self, log: &[AuditEvent]) -> bool {
        // Never asked for by a request: the API server looks at it when a CSR is approved.
        if self.verb == "approve" && self.resource == "signers" {
            let approval = Self {
                verb: "patch".to_owned(),
                resource: "certificatesigningrequests/approval".to_owned(),
                name: None,
                ..self.clone()
            };
            return approval.used(log);
        }
        if self.verb == "impersonate" {
            let as_it = |event: &AuditEvent| {
                self.name
                    .as_ref()
                    .is_some_and(|name| event.impersonated.contains(name))
            };
            return log
                .iter()
                .any(|event| self.holder.is(&event.user) && as_it(event));
        }
        log.iter().any(|event| self.allowed(event))
    }
}

/// Checks that each right was needed by a request in the log.
///
/// # Errors
/// Names those that were not: [`crate::api::check::eventually`] may ask again, for the server writes an event shortly
/// after its answer.
pub fn all_used(rights: &[Right], log: &[AuditEvent]) -> Result<Option<()>> {
    let idle: Vec<_> = rights
        .iter()
        .filter(|right| !right.used(log))
        .map(ToString::to_string)
        .collect();
    ensure!(idle.is_empty(), "granted and never used:\n{}", idle.join("\n"));
    Ok(Some(()))
}

/// What the server denied to service accounts of the release's namespace.
#[must_use]
pub fn denied(log: &[AuditEvent]) -> Vec<String> {
    let ours = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:");
    log.iter()
        .filter(|event| event.denied && event.user.starts_with(&ours))
        .map(|event| format!("{event:?}"))
        .collect()
}

impl Holder {
    fn of(subject: &Subject) -> Result<Self> {
        match (subject.kind.as_str(), &subject.namespace) {
            ("ServiceAccount", Some(namespace)) => Ok(Self::Account(format!(
                "system:serviceaccount:{namespace}:{}",
                subject.name
            ))),
            ("Group", None) if subject.name == names::BOOTSTRAP_GROUP => Ok(Self::Guests),
            _ => bail!("a role is bound to {} {}", subject.kind, subject.name),
        }
    }

    /// Whether the user of a request is this holder.
    #[must_use]
    pub fn is(&self, user: &str) -> bool {
        match self {
            Self::Account(account) => account == user,
            Self::Guests => user.starts_with(names::BOOTSTRAP_USER_PREFIX),
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holder = match &self.holder {
            Holder::Account(account) => account,
            Holder::Guests => names::BOOTSTRAP_GROUP,
        };
        write!(f, "{holder}: {} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in {namespace}")?;
        }
        if let Some(name) = &self.name {
            write!(f, " named {name}")?;
        }
        Ok(())
    }
}

/// Every right that the roles and bindings among `objects` grant. An error if a binding names a role that is not
/// among them, or a subject that is not ours, or if a rule has a wildcard.
pub fn granted(objects: &[DynamicObject]) -> Result<Vec<Right>> {
    let mut roles = BTreeMap::new();
    for role in all::<ClusterRole>(objects)? {
        roles.insert(
            ("ClusterRole", None, role.name_any()),
            role.rules.unwrap_or_default(),
        );
    }
    for role in all::<Role>(objects)? {
        roles.insert(
            ("Role", role.namespace(), role.name_any()),
            role.rules.unwrap_or_default(),
        );
    }
    let rules = |to: &RoleRef, namespace: Option<String>| match to.kind.as_str() {
        "ClusterRole" => roles.get(&("ClusterRole", None, to.name.clone())),
        _ => roles.get(&("Role", namespace, to.name.clone())),
    };
    let mut rights = Vec::new();
    let mut add = |subjects: Option<Vec<Subject>>, to: &RoleRef, namespace: Option<String>| {
        let rules = rules(to, namespace.clone()).with_context(|| format!("no role {}", to.name))?;
        for subject in subjects.iter().flatten() {
            let holder = Holder::of(subject)?;
            for rule in rules {
                rights.extend(parts(&holder, rule, namespace.as_ref())?);
            }
        }
        anyhow::Ok(())
    };
    for binding in all::<ClusterRoleBinding>(objects)? {
        add(binding.subjects, &binding.role_ref, None)?;
    }
    for binding in all::<RoleBinding>(objects)? {
        let namespace = binding.namespace();
        add(binding.subjects, &binding.role_ref, namespace)?;
    }
    Ok(rights)
}

fn all<K: DeserializeOwned + k8s_openapi::Resource>(objects: &[DynamicObject]) -> Result<Vec<K>> {
    objects
        .iter()
        .filter(|object| kind(object) == K::KIND)
        .map(|object| Ok(serde_json::from_value(serde_json::to_value(object)?)?))
        .collect()
}

fn parts(holder: &Holder, rule: &PolicyRule, namespace: Option<&String>) -> Result<Vec<Right>> {
    let one_or_all = |names: &Option<Vec<String>>| match names {
        Some(names) if !names.is_empty() => names.iter().cloned().map(Some).collect(),
        _ => vec![None],
    };
    let mut rights = Vec::new();
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                let wild = [group, resource, verb].into_iter().any(|part| part.contains('*'));
                ensure!(!wild, "a wildcard in a rule: {verb} {resource}.{group}");
                rights.extend(one_or_all(&rule.resource_names).into_iter().map(|name| Right {
                    holder: holder.clone(),
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: resource.clone(),
                    namespace: namespace.cloned(),
                    name,
                }));
            }
        }
    }
    Ok(rights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn objects(rule: &Value) -> Vec<DynamicObject> {
        let api = "rbac.authorization.k8s.io/v1";
        let subject = json!({"kind": "ServiceAccount", "name": "a", "namespace": "sys"});
        [
            json!({"apiVersion": api, "kind": "Role", "metadata": {"name": "r", "namespace": "n"}, "rules": [rule]}),
            json!({
                "apiVersion": api, "kind": "RoleBinding", "metadata": {"name": "b", "namespace": "n"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                "subjects": [subject],
            }),
        ]
        .map(|object| serde_json::from_value(object).unwrap())
        .into()
    }

    fn event(verb: &str, namespace: &str, name: &str) -> AuditEvent {
        AuditEvent {
            user: "system:serviceaccount:sys:a".to_owned(),
            verb: verb.to_owned(),
            impersonated: Vec::new(),
            group: String::new(),
            resource: "pods".to_owned(),
            subresource: "status".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            code: 200,
            denied: false,
            field_manager: String::new(),
            body: serde_json::Value::Null,
            dry_run: false,
            policy_failures: String::new(),
            user_agent: String::new(),
            received: jiff::Timestamp::UNIX_EPOCH,
            completed: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_rule_falls_apart_and_its_parts_know_their_requests() {
        let rule = json!({"apiGroups": [""], "resources": ["pods/status"], "verbs": ["get", "patch"], "resourceNames": ["x"]});
        let rights = granted(&objects(&rule)).unwrap();
        let shown: Vec<_> = rights.iter().map(ToString::to_string).collect();
        let by = "system:serviceaccount:sys:a";
        assert_eq!(
            shown,
            ["get", "patch"].map(|verb| format!("{by}: {verb} pods/status in n named x"))
        );
        assert!(rights[0].allowed(&event("get", "n", "x")));
        for other in [
            event("list", "n", "x"),
            event("get", "m", "x"),
            event("get", "n", "y"),
        ] {
            assert!(!rights[0].allowed(&other));
        }
        let denied = AuditEvent {
            denied: true,
            ..event("get", "n", "x")
        };
        assert!(!rights[0].allowed(&denied));
    }

    #[test]
    fn wildcards_are_refused() {
        let rule = json!({"apiGroups": [""], "resources": ["*"], "verbs": ["get"]});
        assert!(granted(&objects(&rule)).is_err());
    }
}
