//! Reads what it can of a body that cannot be parsed as a review: the request's uid, and what the request is about.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

/// The fields that could be read. A field is empty where it was not found or was of the wrong type.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PartialReview {
    /// `request.uid`, never empty.
    pub uid: Option<String>,
    /// `request.kind`.
    pub kind: GroupVersionKind,
    /// `request.operation`.
    pub operation: String,
    /// `request.subResource`.
    pub sub_resource: String,
    /// The body is one JSON object from end to end.
    pub whole: bool,
}

/// metav1.GroupVersionKind.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GroupVersionKind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

/// Reads up to the first byte that is not JSON, and keeps the fields that came before it. Skipped values take no stack,
/// however deeply they nest.
pub fn read_partially(body: &[u8]) -> PartialReview {
    let mut found = PartialReview::default();
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = Envelope(&mut found)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    found.whole = read.is_ok();
    found
}

struct Envelope<'s>(&'s mut PartialReview);

impl<'de> DeserializeSeed<'de> for Envelope<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Envelope<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an AdmissionReview")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "request" {
                map.next_value_seed(Request(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Request<'s>(&'s mut PartialReview);

impl<'de> DeserializeSeed<'de> for Request<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Request<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an AdmissionRequest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "uid" => self.0.uid = lenient::<String, A>(&mut map)?.filter(|uid| !uid.is_empty()),
                "kind" => self.0.kind = lenient::<_, A>(&mut map)?.unwrap_or_default(),
                "operation" => self.0.operation = lenient::<_, A>(&mut map)?.unwrap_or_default(),
                "subResource" => self.0.sub_resource = lenient::<_, A>(&mut map)?.unwrap_or_default(),
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// The next value, `None` if it is of another type: a field of the wrong type must not end the search.
fn lenient<'de, T: de::DeserializeOwned, A: MapAccess<'de>>(map: &mut A) -> Result<Option<T>, A::Error> {
    let raw: &RawValue = map.next_value()?;
    Ok(serde_json::from_str(raw.get()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(body: &str) -> Option<String> {
        read_partially(body.as_bytes()).uid
    }

    #[test]
    fn the_uid_is_found_before_the_damage() {
        for body in [
            r#"{"request": {"uid": "u"}}"#,
            r#"{"request": {"uid": "u", "object": {"spec"#,
            r#"{"kind": 5, "request": {"kind": [], "operation": {}, "uid": "u", "object": tru"#,
            r#"{"request": {"uid": "u"}} trailing"#,
            r#"{"request": {"uid": "u"}, "request": 5}"#,
        ] {
            assert_eq!(uid(body).as_deref(), Some("u"), "{body}");
        }
    }

    #[test]
    fn no_uid_is_made_up() {
        for body in [
            "",
            "null",
            "[]",
            "{",
            r#"{"request": nul"#,
            r#"{"request": {"uid": 5}}"#,
            r#"{"request": {"uid": ""}}"#,
            r#"{"request": {"object": {"uid": "u"}}}"#,
            r#"{"uid": "u"}"#,
        ] {
            assert_eq!(uid(body), None, "{body}");
        }
    }

    #[test]
    fn what_the_request_is_about_is_read() {
        let body = r#"{"request": {"uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "UPDATE", "subResource": "status", "object": {"spec"#;
        let expected = PartialReview {
            uid: Some("u".to_owned()),
            kind: GroupVersionKind {
                group: String::new(),
                version: "v1".to_owned(),
                kind: "Pod".to_owned(),
            },
            operation: "UPDATE".to_owned(),
            sub_resource: "status".to_owned(),
            whole: false,
        };
        assert_eq!(read_partially(body.as_bytes()), expected);
    }

    #[test]
    fn only_a_complete_object_is_whole() {
        let body = r#"{"request": {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}}"#;
        let found = read_partially(body.as_bytes());
        assert!(found.whole);
        assert_eq!(
            (found.kind.group.as_str(), found.kind.kind.as_str()),
            ("apps", "Deployment")
        );
        assert!(!read_partially(&body.as_bytes()[..body.len() - 1]).whole);
        assert!(!read_partially(b"{} {}").whole);
    }
}
