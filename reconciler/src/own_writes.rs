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

    /// After a live view was read: forgets all but the versions of `kind`, which that view had from a cache.
    pub fn clear_but(&mut self, kind: &str) {
        // No cache is ever new enough for a version that is not a number.
        self.written
            .retain(|(of, _), version| of == kind && *version != u64::MAX);
        self.distrusted = false;
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;

    fn object<K: serde::de::DeserializeOwned>(version: &str) -> K {
        serde_json::from_value(
            json!({"metadata": {"name": "n", "resourceVersion": version}, "spec":
            {"request": "", "signerName": ""}}),
        )
        .unwrap()
    }

    #[test]
    fn a_live_view_renews_all_but_what_it_has_from_a_cache() {
        let mut own = OwnWrites::default();
        own.note(&object::<Node>("7"));
        own.note(&object::<CertificateSigningRequest>("8"));
        own.distrust();
        let behind = |own: &OwnWrites, kind: &str, version| own.is_behind(kind, "n", Some(version));
        assert!(behind(&own, "Node", 6) && behind(&own, "CertificateSigningRequest", 7));
        own.clear_but("CertificateSigningRequest");
        assert!(!own.distrusts_caches() && !behind(&own, "Node", 6));
        assert!(behind(&own, "CertificateSigningRequest", 7));
        assert!(!behind(&own, "CertificateSigningRequest", 8));
    }

    #[test]
    fn a_version_that_is_no_number_is_forgotten_by_a_live_view() {
        let mut own = OwnWrites::default();
        own.note(&object::<CertificateSigningRequest>("x"));
        assert!(own.is_behind("CertificateSigningRequest", "n", Some(9)));
        own.clear_but("CertificateSigningRequest");
        assert!(!own.is_behind("CertificateSigningRequest", "n", Some(9)));
    }
}
