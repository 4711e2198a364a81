//! Lists of which only a sum is kept.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// What a list comes to, item by item; null counts as an empty one.
pub(super) fn fold<'de, D, T, S>(deserializer: D, add: impl Fn(&mut S, T)) -> Result<S, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    S: Default,
{
    struct Each<T, S, F> {
        add: F,
        of: PhantomData<(T, S)>,
    }

    impl<'de, T: Deserialize<'de>, S: Default, F: Fn(&mut S, T)> Visitor<'de> for Each<T, S, F> {
        type Value = S;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list or null")
        }

        fn visit_unit<E>(self) -> Result<S, E> {
            Ok(S::default())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<S, A::Error> {
            let mut sum = S::default();
            while let Some(item) = list.next_element()? {
                (self.add)(&mut sum, item);
            }
            Ok(sum)
        }
    }

    deserializer.deserialize_any(Each { add, of: PhantomData })
}
