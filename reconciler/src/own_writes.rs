//! Reading one's own writes: the versions that a worker has written, so that it does not act on an older cache.

use std::collections::HashMap;

use kube::core::{DynamicObject, Resource, ResourceExt};

/// The newest version of each object that a worker has written.
#[derive(Debug, Default)]
pub struct OwnWrites {
    written: HashMap<(String, String), u64>,
    distrusted: bool,
}

impl OwnWrites {
    /// Notes the answer to a write.
    pub fn note<K: Resource<DynamicType = ()>>(&mut self, written: &K) {
        self.insert(&K::kind(&()), written);
    }

    /// Notes the answer to a write of an object without a Rust type.
    pub fn note_dynamic(&mut self, written: &DynamicObject) {
        let kind = written
            .types
            .as_ref()
            .map_or("", |types| types.kind.as_str())
            .to_owned();
        self.insert(&kind, written);
    }

    /// Whether the cached version is older than the one written under this name, or the cache lacks an object that
    /// was written.
    #[must_use]
    pub fn is_behind(&self, kind: &str, name: &str, cached: Option<u64>) -> bool {
        let written = self.written.get(&(kind.to_owned(), name.to_owned()));
        written.is_some_and(|written| cached.is_none_or(|cached| cached < *written))
    }

    /// A precondition failed: distrusts all caches until a live view was read.
    pub fn distrust(&mut self) {
        self.distrusted = true;
    }

    /// Whether the caches are distrusted altogether.
    #[must_use]
    pub fn distrusts_caches(&self) -> bool {
        self.distrusted
    }

    /// Forgets everything, after a live view was read.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn insert<K: ResourceExt>(&mut self, kind: &str, written: &K) {
        let version = version(written).unwrap_or(u64::MAX);
        self.written
            .insert((kind.to_owned(), written.name_any()), version);
    }
}

/// Versions are integers that grow (KEP-5504). Where one is not an integer, no cache counts as new enough.
fn version<K: ResourceExt>(object: &K) -> Option<u64> {
    object.resource_version().and_then(|version| version.parse().ok())
}
