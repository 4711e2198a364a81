//! `KubeVirt`'s programs, and what prints its objects, built from `hack/tools/kubevirt`.

use std::path::PathBuf;

use anyhow::Result;
use maroonedpods_image_build::go::{self, Module};

/// What they depend on, below `hack/tools`.
const SOURCES: [&str; 10] = [
    "kubevirt/go.mod",
    "kubevirt/go.sum",
    "kubevirt/objects/main.go",
    "kubevirt/absent/libnbd/go.mod",
    "kubevirt/absent/libnbd/libnbd.go",
    "kubevirt/absent/virt-template-api/go.mod",
    "kubevirt/absent/virt-template-api/core/core.go",
    "kubevirt/absent/virt-template-api/core/v1beta1/types.go",
    "kubevirt/absent/virt-template-client-go/go.mod",
    "kubevirt/absent/virt-template-client-go/virttemplate/client.go",
];
/// Those that run in containers.
pub(super) const IN_IMAGE: [&str; 9] = [
    "libvirt-hook-client",
    "virt-api",
    "virt-chroot",
    "virt-controller",
    "virt-handler",
    "virt-launcher",
    "virt-launcher-monitor",
    "virt-probe",
    "virt-tail",
];
/// Prints the objects of an installation.
pub(super) const OBJECTS: &str = "objects";

/// Prints virt-operator's installation.
pub(super) const OPERATOR_OBJECTS: &str = "operator";
/// What prints that, below `hack/tools`.
const OPERATOR_SOURCE: &str = "kubevirt/operator/main.go";
/// virt-operator, and what it installs beyond [`IN_IMAGE`].
pub(super) const OF_OPERATOR: [&str; 2] = ["virt-exportproxy", "virt-operator"];

/// Builds them if they are not there yet, and returns the folder that they are in. Blocks, for minutes the first time.
pub(super) fn build() -> Result<PathBuf> {
    let cache = go::cache_folder(&SOURCES)?;
    go::build_tools_once(Module::KubeVirt, OBJECTS, &cache)?;
    Ok(cache)
}

/// Builds [`OF_OPERATOR`] and what prints the installation, as [`build`] does, into a folder of their own.
pub(super) fn build_operator() -> Result<PathBuf> {
    let cache = go::cache_folder(&[&SOURCES[..], &[OPERATOR_SOURCE]].concat())?;
    let programs = OF_OPERATOR.map(|program| format!("kubevirt.io/kubevirt/cmd/{program}"));
    let mut packages: Vec<_> = programs.iter().map(String::as_str).collect();
    packages.push("./operator");
    let what = "building virt-operator from source, once, half a minute after KubeVirt was built";
    go::build_packages_once(Module::KubeVirt, &packages, OPERATOR_OBJECTS, what, &cache)?;
    Ok(cache)
}
