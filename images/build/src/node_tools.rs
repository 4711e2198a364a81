//! The Go programs of the node image, built from `hack/tools`.

use std::path::PathBuf;

use anyhow::Result;

use crate::go::{self, Module};

/// What the programs of the node image depend on, below `hack/tools`.
const NODE_SOURCES: [&str; 7] = [
    "go.mod",
    "go.sum",
    "kubelet/main.go",
    "pause/main.go",
    "containerd/go.mod",
    "containerd/go.sum",
    "containerd/preload/main.go",
];

/// What an older kubelet depends on, below `hack/tools`.
const OLDER_SOURCES: [&str; 3] = ["older.mod", "older.sum", "kubelet/main.go"];

/// A Go program of the node image, built for any architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeTool {
    /// The node agent alone.
    Kubelet,
    /// See [`older_kubelet`].
    OlderKubelet,
    /// The first process of a pod's sandbox.
    Pause,
    /// Runs the guest's containers.
    Containerd,
    /// What containerd leaves with each pod.
    ContainerdShim,
    /// Fills a containerd folder with an image; runs while the image is made.
    Preload,
}

impl NodeTool {
    /// File name of the program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubelet | Self::OlderKubelet => "kubelet",
            Self::Pause => "pause",
            Self::Containerd => "containerd",
            Self::ContainerdShim => "containerd-shim-runc-v2",
            Self::Preload => "preload",
        }
    }

    /// What it depends on, below `hack/tools`.
    fn sources(self) -> &'static [&'static str] {
        match self {
            Self::OlderKubelet => &OLDER_SOURCES,
            _ => &NODE_SOURCES,
        }
    }

    fn package(self) -> (Module, &'static str) {
        match self {
            Self::Kubelet => (Module::Kubernetes, "./kubelet"),
            Self::OlderKubelet => (Module::OlderKubernetes, "./kubelet"),
            Self::Pause => (Module::Kubernetes, "./pause"),
            Self::Containerd => (
                Module::Containerd,
                "github.com/containerd/containerd/v2/cmd/containerd",
            ),
            Self::ContainerdShim => (
                Module::Containerd,
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
            Self::Preload => (Module::Containerd, "./preload"),
        }
    }
}

/// Path of a static `tool` for `arch` (Go's name of it), built first if need be. Never the machine's: the image is
/// made of what `hack/tools` pins. Blocks, for minutes the first time.
pub fn find(tool: NodeTool, arch: &str) -> Result<PathBuf> {
    let cache = go::cache_folder(tool.sources())?.join(arch);
    let path = cache.join(tool.name());
    if !path.exists() {
        let (module, package) = tool.package();
        go::build_for_once(module, package, tool.name(), arch, &cache)?;
    }
    Ok(path)
}

/// Path of a static kubelet for `arch` (Go's name of it) of the minor version before the control plane's, built first if
/// need be. Blocks, for minutes the first time.
///
/// # Errors
/// It does not build.
pub fn older_kubelet(arch: &str) -> Result<PathBuf> {
    find(NodeTool::OlderKubelet, arch)
}

/// The Kubernetes version that `hack/tools/go.mod` pins, such as `v1.36.3`.
pub fn pinned_kubernetes_version() -> Result<String> {
    go::kubernetes_version(Module::Kubernetes)
}

/// The version of [`older_kubelet`].
pub fn older_kubelet_version() -> Result<String> {
    go::kubernetes_version(Module::OlderKubernetes)
}
