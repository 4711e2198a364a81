//! Reading one's own writes: which versions a worker has written, so that an older cache is not believed.

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

    /// Whether the cached version is older than what was written by this name, or there is none though it was written.
    #[must_use]
    pub fn is_behind(&self, kind: &str, name: &str, cached: Option<u64>) -> bool {
        let written = self.written.get(&(kind.to_owned(), name.to_owned()));
        written.is_some_and(|written| cached.is_none_or(|cached| cached < *written))
    }

    /// A precondition failed: the caches are not to be believed until a live view was read.
    pub fn distrust(&mut self) {
        self.distrusted = true;
    }

    /// Whether the caches are distrusted altogether.
    #[must_use]
    pub fn distrusts_caches(&self) -> bool {
        self.distrusted
    }

    /// Forgets everything: a live view was read.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn insert<K: ResourceExt>(&mut self, kind: &str, written: &K) {
        let version = version(written).unwrap_or(u64::MAX);
        self.written
            .insert((kind.to_owned(), written.name_any()), version);
    }
}

/// Versions are integers that grow (KEP-5504). Where one is not, caches are never new enough.
fn version<K: ResourceExt>(object: &K) -> Option<u64> {
    object.resource_version().and_then(|version| version.parse().ok())
}
