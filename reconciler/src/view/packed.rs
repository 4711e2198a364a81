//! Values that others write, kept as text.
//!
//! The memory for such values must be bounded, but a map or a list of short texts takes up to forty times the memory
//! of its text: each piece has its own allocation, and a set with one piece has room for eleven. A packed value takes
//! the memory of its text, however many pieces it has, so a bound on the text is a bound on the memory. The price is
//! parsing the text at each use.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value, as JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed<T> {
    json: Box<str>,
    value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Packed<T> {
    /// Packs a value; `None` if that takes more than `most` bytes.
    #[must_use]
    pub fn of(value: &T, most: usize) -> Option<Self> {
        let json = serde_json::to_string(value).ok()?;
        (json.len() <= most).then(|| Self {
            json: json.into(),
            value: PhantomData,
        })
    }

    /// Unpacks the value; never `None` for a type that reads what it writes.
    #[must_use]
    pub fn unpacked(&self) -> Option<T> {
        serde_json::from_str(&self.json).ok()
    }

    /// The value, as JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Bytes of memory that it takes besides its own size.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.json.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_packed_value_unpacks_unchanged_and_is_within_its_bound(
            labels in prop::collection::btree_map("[ -~é]{0,6}", "[ -~é]{0,6}", 0..60),
            most in 0..2_000_usize,
        ) {
            if let Some(packed) = Packed::of(&labels, most) {
                prop_assert!(packed.bytes() <= most);
                prop_assert_eq!(packed.unpacked(), Some(labels));
            } else {
                let text: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
                prop_assert!(2 * text + 6 * labels.len() + 2 > most, "it would have fitted");
            }
        }
    }

    #[test]
    fn many_short_pieces_take_no_more_memory_than_their_text() {
        let labels: BTreeMap<_, _> = (0..1_024).map(|n| (format!("{n:03x}"), String::new())).collect();
        assert_eq!(Packed::of(&labels, 10 << 10).unwrap().bytes(), 1_024 * 9 + 1);
        assert_eq!(Packed::of(&labels, 9 << 10), None);
    }
}
