//! Finds the programs of the control plane and of nodes, and builds them from `hack/tools` where they are not
//! provided.
//!
//! Each is looked for in the folder named by `KUBEBUILDER_ASSETS`, then in our cache folder, then built into
//! that cache with Go: once per machine and per content of `hack/tools`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context, Result};
use maroonedpods_image_build::go::{self, Module};

/// What a build depends on, below `hack/tools`.
const SOURCES: [&str; 15] = [
    "go.mod",
    "go.sum",
    "clusterkit/main.go",
    "pause/main.go",
    "testserver/main.go",
    "testserver/health.go",
    "testserver/network.go",
    "testserver/scan.go",
    "helm/go.mod",
    "helm/go.sum",
    "containerd/go.mod",
    "containerd/go.sum",
    "coredns/go.mod",
    "coredns/go.sum",
    "coredns/main.go",
];

/// The parts of `clusterkit`, our multi-call build of Kubernetes: each is a symlink to it.
const CLUSTERKIT_PARTS: [Tool; 7] = [
    Tool::Etcd,
    Tool::KubeApiserver,
    Tool::KubeControllerManager,
    Tool::KubeScheduler,
    Tool::Kubelet,
    Tool::KubeProxy,
    Tool::Kubectl,
];

/// A program that the harness runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The store.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// The built-in controllers.
    KubeControllerManager,
    /// The scheduler.
    KubeScheduler,
    /// The node agent.
    Kubelet,
    /// Makes Services work on a node.
    KubeProxy,
    /// The command line client.
    Kubectl,
    /// Waits and reaps orphans: the first process of a pod's sandbox, and of a node.
    Pause,
    /// What tests run in containers.
    TestServer,
    /// Renders the chart.
    Helm,
    /// Runs a node's containers.
    Containerd,
    /// What containerd leaves with each pod.
    ContainerdShim,
    /// containerd's command line client.
    Ctr,
    /// Answers a cluster's names.
    CoreDns,
}

impl Tool {
    /// File name of the program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Kubectl => "kubectl",
            Self::Pause => "pause",
            Self::TestServer => "testserver",
            Self::Helm => "helm",
            Self::Containerd => "containerd",
            Self::ContainerdShim => "containerd-shim-runc-v2",
            Self::Ctr => "ctr",
            Self::CoreDns => "coredns",
        }
    }

    fn module(self) -> Module {
        match self {
            Self::Etcd
            | Self::KubeApiserver
            | Self::KubeControllerManager
            | Self::KubeScheduler
            | Self::Kubelet
            | Self::KubeProxy
            | Self::Kubectl
            | Self::Pause
            | Self::TestServer => Module::Kubernetes,
            Self::Helm => Module::Helm,
            Self::Containerd | Self::ContainerdShim | Self::Ctr => Module::Containerd,
            Self::CoreDns => Module::CoreDns,
        }
    }
}

/// Path of `tool`, built first if need be: that takes minutes, and says so on stderr. Blocks.
pub fn find(tool: Tool) -> Result<PathBuf> {
    if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS") {
        let path = Path::new(&assets).join(tool.name());
        if path.exists() {
            return Ok(path);
        }
    }
    let cache = go::cache_folder(&SOURCES)?;
    let path = cache.join(tool.name());
    if !path.exists() {
        let module = tool.module();
        if module == Module::Kubernetes {
            link_clusterkit(&cache)?;
        }
        go::build_tools_once(module, tool.name(), &cache)?;
    }
    Ok(path)
}

/// Links the parts of `clusterkit` to it. The links dangle until it is built, so that a part exists only when it can run.
fn link_clusterkit(cache: &Path) -> Result<()> {
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    for part in CLUSTERKIT_PARTS {
        match symlink("clusterkit", cache.join(part.name())) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Builds what is missing, so that a clock that starts afterwards does not count it. Blocks.
pub fn prepare() -> Result<()> {
    // One build makes all of Kubernetes' programs.
    find(Tool::KubeApiserver)?;
    find(Tool::Helm).map(drop)
}

/// [`prepare`], and what nodes need besides. Blocks.
pub fn prepare_nodes() -> Result<()> {
    prepare()?;
    find(Tool::Containerd).map(drop)
}
