//! The UID of a pod, as a type of its own: names are made of it, and no other object's UID may take its place.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The UID of a pod.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(transparent)]
#[schemars(inline)]
pub struct PodUid(String);

impl PodUid {
    /// The UID as the API has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PodUid {
    fn from(uid: &str) -> Self {
        Self(uid.to_owned())
    }
}

impl From<String> for PodUid {
    fn from(uid: String) -> Self {
        Self(uid)
    }
}

impl PartialEq<str> for PodUid {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

    #[test]
    fn a_uid_is_its_text_wherever_it_comes_from() {
        let from_json: PodUid = serde_json::from_value(json!(UID)).unwrap();
        for uid in [PodUid::from(UID), PodUid::from(UID.to_owned()), from_json] {
            assert_eq!(uid.as_str(), UID);
            assert_eq!(uid.to_string(), UID);
            assert_eq!(serde_json::to_value(&uid).unwrap(), UID);
            assert!(uid == *UID && uid != *"another");
        }
        assert_eq!(PodUid::default().as_str(), "");
    }
}
