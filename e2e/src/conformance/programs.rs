//! Kubernetes' own tests and what they run in containers, built from `hack/tools/conformance`.

use std::path::PathBuf;

use anyhow::Result;
use maroonedpods_image_build::go::{self, Module};

/// What they depend on, below `hack/tools`.
const SOURCES: [&str; 2] = ["conformance/go.mod", "conformance/go.sum"];
/// The tests.
pub(super) const SUITE: &str = "e2e.test";
/// The program of the image of the same name, in which most specs run.
pub(super) const AGNHOST: &str = "agnhost";
/// The program that tells by whom it is run.
pub(super) const NONEWPRIVS: &str = "nonewprivs";

/// Builds them if they are not there yet, and returns the folder that they are in. Blocks, for minutes the first time.
pub(super) fn build() -> Result<PathBuf> {
    let cache = go::cache_folder(&SOURCES)?;
    go::build_tools_once(Module::Conformance, AGNHOST, &cache)?;
    go::build_tests_once(Module::Conformance, "k8s.io/kubernetes/test/e2e", SUITE, &cache)?;
    Ok(cache)
}
