//! Which parts of an object are read. The rest is skipped during parsing: it takes no memory, and however odd, deep
//! or large it is, it cannot make the object unreadable.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

/// Which parts of a JSON value are kept.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    /// The whole value.
    All,
    /// A time. The API server accepts some that our types cannot hold; such a time counts as absent.
    Time,
    /// A time that must not look absent: one that our types cannot hold counts as the latest possible time.
    Deadline,
    /// Only these fields of an object.
    Fields(&'static [(&'static str, Keep)]),
    /// All fields of an object, with rules for the named ones: `None` skips the field.
    But(&'static [(&'static str, Option<Keep>)]),
    /// Every element of a list, by this rule.
    Each(&'static Keep),
}

/// A whole object, except the record of who wrote which field: only the API server needs that, and any author can
/// fill it.
pub const WHOLE: Keep = Keep::But(&[(
    "metadata",
    Some(Keep::But(&[
        ("managedFields", None),
        ("creationTimestamp", Some(Keep::Time)),
        ("deletionTimestamp", Some(Keep::Deadline)),
    ])),
)]);

impl Keep {
    /// The kept parts of this text.
    ///
    /// # Errors
    /// The text is not JSON, or a kept part is nested deeper than any Kubernetes type.
    pub fn sieve(&self, json: &str) -> Result<Value, serde_json::Error> {
        let mut text = serde_json::Deserializer::from_str(json);
        let value = self.deserialize(&mut text)?;
        text.end()?;
        Ok(value)
    }

    /// The rule for a field; `None` skips it.
    fn of_field(&self, name: &str) -> Option<Self> {
        match self {
            Self::Fields(kept) => kept
                .iter()
                .find(|(field, _)| *field == name)
                .map(|(_, keep)| *keep),
            Self::But(fields) => fields
                .iter()
                .find(|(field, _)| *field == name)
                .map_or(Some(Self::All), |(_, keep)| *keep),
            Self::All | Self::Time | Self::Deadline | Self::Each(_) => None,
        }
    }
}

fn time(value: Value, unreadable: Value) -> Value {
    match value.as_str().map(str::parse::<Timestamp>) {
        Some(Err(_)) => unreadable,
        _ => value,
    }
}

impl<'de> DeserializeSeed<'de> for Keep {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Value, D::Error> {
        match self {
            Self::All => Value::deserialize(text),
            Self::Time => Value::deserialize(text).map(|value| time(value, Value::Null)),
            Self::Deadline => Value::deserialize(text).map(|value| time(value, json!(Timestamp::MAX))),
            Self::Fields(_) | Self::But(_) | Self::Each(_) => text.deserialize_any(Kept(self)),
        }
    }
}

/// Values of an unexpected shape pass unchanged: the code that knows the type refuses them.
struct Kept(Keep);

impl<'de> Visitor<'de> for Kept {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if let Some(keep) = self.0.of_field(&name) {
                kept.insert(name, fields.next_value_seed(keep)?);
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        if let Keep::Each(keep) = self.0 {
            while let Some(element) = elements.next_element_seed(*keep)? {
                kept.push(element);
            }
        } else {
            while elements.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(Value::Array(kept))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Keep = Keep::Fields(&[
        (
            "metadata",
            Keep::Fields(&[
                ("name", Keep::All),
                ("creationTimestamp", Keep::Time),
                ("deletionTimestamp", Keep::Deadline),
            ]),
        ),
        ("items", Keep::Each(&Keep::Fields(&[("name", Keep::All)]))),
    ]);
    const TOO_LATE: &str = "9999-12-31T23:59:59Z";

    #[test]
    fn only_what_is_named_is_kept() {
        let json = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": 1,
            "items": [{"name": "c", "env": [1, 2]}, {"name": "d"}, 7]});
        assert_eq!(
            POD.sieve(&json.to_string()).unwrap(),
            json!({"metadata": {"name": "p"}, "items": [{"name": "c"}, {"name": "d"}, 7]})
        );
    }

    #[test]
    fn times_that_our_types_cannot_hold_are_absent_and_deadlines_far_away() {
        let json =
            json!({"metadata": {"name": "p", "creationTimestamp": TOO_LATE, "deletionTimestamp": TOO_LATE}});
        let kept = POD.sieve(&json.to_string()).unwrap();
        assert_eq!(kept["metadata"]["creationTimestamp"], Value::Null);
        let deadline = kept["metadata"]["deletionTimestamp"].as_str().unwrap();
        assert_eq!(deadline.parse::<Timestamp>().unwrap(), Timestamp::MAX);
    }

    #[test]
    fn skipped_parts_may_be_of_any_depth() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let json = format!(r#"{{"metadata": {{"name": "p", "managedFields": {deep}}}, "spec": {{"a": 1}}}}"#);
        assert_eq!(POD.sieve(&json).unwrap(), json!({"metadata": {"name": "p"}}));
        assert_eq!(
            WHOLE.sieve(&json).unwrap(),
            json!({"metadata": {"name": "p"}, "spec": {"a": 1}})
        );
    }
}
