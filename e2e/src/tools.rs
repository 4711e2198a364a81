//! Finds the programs of the control plane and of nodes, and builds them from `hack/tools` when nobody else provides
//! them.
//!
//! Each is looked for in the folder named by `KUBEBUILDER_ASSETS`, then in our cache folder, then built into
//! that cache with Go: once per machine and per content of `hack/tools`.

mod go;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use self::go::Module;

/// What a build depends on, below `hack/tools`.
const SOURCES: [&str; 10] = [
    "go.mod",
    "go.sum",
    "clusterkit/main.go",
    "pause/main.go",
    "testserver/main.go",
    "testserver/network.go",
    "helm/go.mod",
    "helm/go.sum",
    "containerd/go.mod",
    "containerd/go.sum",
];

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
    let sources = source_folder();
    let cache = cache_folder(&sources, &SOURCES)?;
    let path = cache.join(tool.name());
    if !path.exists() {
        go::build_once(tool, &sources, &cache)?;
    }
    Ok(path)
}

/// A Go program of the node image, built for any architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeTool {
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
    pub(crate) fn name(self) -> &'static str {
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
pub(crate) fn find_for_node(tool: NodeTool, arch: &str) -> Result<PathBuf> {
    let sources = source_folder();
    let cache = cache_folder(&sources, tool.sources())?.join(arch);
    let path = cache.join(tool.name());
    if !path.exists() {
        let (module, package) = tool.package();
        go::build_for_once(module, &[package], tool.name(), arch, &sources, &cache)?;
    }
    Ok(path)
}

/// Path of a static kubelet for `arch` (Go's name of it) of the minor version before the control plane's, built first if
/// need be. Blocks, for minutes the first time.
///
/// # Errors
/// It does not build.
pub fn older_kubelet(arch: &str) -> Result<PathBuf> {
    find_for_node(NodeTool::OlderKubelet, arch)
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

/// The Kubernetes version that `hack/tools/go.mod` pins, such as `v1.36.3`.
pub fn pinned_kubernetes_version() -> Result<String> {
    kubernetes_version(Module::Kubernetes)
}

/// The version of [`older_kubelet`].
pub fn older_kubelet_version() -> Result<String> {
    kubernetes_version(Module::OlderKubernetes)
}

fn kubernetes_version(module: Module) -> Result<String> {
    let file = module.file();
    let text = fs::read_to_string(source_folder().join(file))?;
    go::kubernetes_line(&text)
        .map(str::to_owned)
        .with_context(|| format!("hack/tools/{file} names no version of k8s.io/kubernetes"))
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/tools")
}

/// The folder for what is built from `files`: another one for other contents.
fn cache_folder(sources: &Path, files: &[&str]) -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => env::home_dir()
            .context("set XDG_CACHE_HOME or HOME: the control plane is built there")?
            .join(".cache"),
    };
    let mut hash = Sha256::new();
    for source in files {
        let path = sources.join(source);
        hash.update(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    let digest = format!("{:x}", hash.finalize());
    Ok(base.join("maroonedpods").join(format!("tools-{}", &digest[..12])))
}

/// Says something on stderr at once. `eprintln!` would do, but for the test runner, which withholds what a test prints.
pub(crate) fn say(line: &str) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

/// The last `count` lines of a log, for an error message.
#[must_use]
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
