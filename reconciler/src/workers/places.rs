//! The pods that wait until their namespace may have one more VM (`limits.vmsPerNamespace`).
//!
//! No wake-up is lost: a pod enters before its worker counts the VMs, so it is woken for a place that becomes free
//! after that count. And no place stays unused: a pod that was woken and stops waiting wakes the next one, whether it
//! took the place, cannot use it, or is gone.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use maroonedpods_common::PodUid;

/// A pod that may have to wait for a place. The oldest comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiter {
    /// When the pod was created.
    pub created: Option<Timestamp>,
    /// Its UID.
    pub uid: PodUid,
}

/// The waiting pods, by namespace.
#[derive(Debug, Default)]
pub struct Places(HashMap<String, BTreeSet<Waiter>>);

impl Places {
    /// Registers the pod to be woken when a place becomes free.
    pub fn enter(&mut self, namespace: &str, waiter: &Waiter) {
        if let Some(waiting) = self.0.get_mut(namespace) {
            waiting.insert(waiter.clone());
        } else {
            self.0
                .insert(namespace.to_owned(), BTreeSet::from([waiter.clone()]));
        }
    }

    /// Removes a pod that does not wait, or not any more. Returns whether it was registered.
    pub fn leave(&mut self, namespace: &str, waiter: &Waiter) -> bool {
        let Some(waiting) = self.0.get_mut(namespace) else {
            return false;
        };
        let waited = waiting.remove(waiter);
        if waiting.is_empty() {
            self.0.remove(namespace);
        }
        waited
    }

    /// UID of the pod whose turn it is.
    #[must_use]
    pub fn first(&self, namespace: &str) -> Option<&PodUid> {
        self.0.get(namespace)?.first().map(|waiter| &waiter.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(created: i64, uid: &str) -> Waiter {
        Waiter {
            created: Some(Timestamp::from_second(created).unwrap()),
            uid: uid.into(),
        }
    }

    #[test]
    fn the_oldest_of_a_namespace_is_first() {
        let mut places = Places::default();
        places.enter("a", &waiter(2, "younger"));
        places.enter("a", &waiter(1, "older"));
        places.enter("a", &waiter(1, "older"));
        places.enter("b", &waiter(0, "elsewhere"));
        assert_eq!(places.first("a").map(PodUid::as_str), Some("older"));
        assert!(places.leave("a", &waiter(1, "older")));
        assert!(!places.leave("a", &waiter(1, "older")));
        assert_eq!(places.first("a").map(PodUid::as_str), Some("younger"));
        assert!(places.leave("a", &waiter(2, "younger")));
        assert_eq!(
            (
                places.first("a").map(PodUid::as_str),
                places.first("b").map(PodUid::as_str)
            ),
            (None, Some("elsewhere"))
        );
        assert!(places.leave("b", &waiter(0, "elsewhere")) && places.0.is_empty());
    }
}
