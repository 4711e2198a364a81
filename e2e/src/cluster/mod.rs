//! Real nodes beside a real control plane: containerd, kubelet and kube-proxy as plain processes, each node in
//! namespaces of its own, all of them on a network that only the test's threads share.
//!
//! ```no_run
//! use maroonedpods_e2e::cluster::{ClusterOptions, with_cluster};
//!
//! #[test]
//! fn a_node_is_ready() {
//!     with_cluster(ClusterOptions::default(), async |cluster| {
//!         println!("{}", cluster.control_plane().kubectl(&["get", "nodes"]).await.unwrap());
//!         cluster.stop().await.unwrap();
//!     })
//!     .unwrap();
//! }
//! ```
//!
//! Such a test needs root and is skipped without, see [`with_cluster`]. It touches nothing of the machine's:
//! mounts, links, rules, kernel settings; control groups are made below the caller's own and removed again.

mod cgroup;
mod config;
mod mounts;
mod namespaces;
mod network;
mod node;
mod requirements;
mod run;
mod sandbox;
mod store;
pub mod test_server;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use maroonedpods_common::names;
use tokio::task;

pub use self::node::{Node, REAL_LABEL};
pub use self::requirements::{missing_rights, provide_packages};
pub use self::run::{on_cluster, provide, with_cluster, with_shared_cluster};

use self::node::Plan;
use self::requirements::Programs;
use crate::api::check::becomes;
use crate::api::read::node_is_ready;
use crate::control_plane::{ControlPlane, ControlPlaneOptions};

/// The DNS domain of clusters with nodes: not the usual one.
pub const CLUSTER_DOMAIN: &str = "corp.test";
/// Address of the cluster's DNS Service, which pods of nodes are told. Nothing answers until
/// [`crate::install::dns::serve`].
pub const DNS_ADDRESS: &str = "10.96.0.10";
/// A node that takes longer has failed. Usual are 2 to 3 s.
const READY_LIMIT: Duration = Duration::from_secs(90);
const PROXY_USER: &str = "system:kube-proxy";

/// What differs from the usual cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many nodes; they are called `node-1` and so on.
    pub nodes: u8,
    /// Further flags of kube-controller-manager.
    pub controller_manager_flags: Vec<String>,
    /// A containerd folder with the images that nodes have from the start, as `hack/tools/containerd/preload` writes it.
    pub images: Option<PathBuf>,
}

impl Default for ClusterOptions {
    /// Two nodes.
    fn default() -> Self {
        Self {
            nodes: 2,
            controller_manager_flags: Vec::new(),
            images: None,
        }
    }
}

/// A running control plane with real nodes. Dropping it stops everything; the logs are kept when the process panicked
/// in the meantime, as a [`ControlPlane`]'s are, and are in the same folder.
pub struct Cluster {
    // Fields drop in this order.
    nodes: Vec<Arc<Node>>,
    control_plane: ControlPlane,
}

impl Cluster {
    /// Starts a cluster and waits until its nodes are ready. Call it on a runtime whose threads have a private network.
    async fn start(options: &ClusterOptions, programs: &Programs) -> Result<Self> {
        let nodes = options.nodes;
        task::spawn_blocking(move || network::ip(&network::of_control_plane(nodes))).await??;
        let control_plane = ControlPlane::start(ControlPlaneOptions {
            controller_manager_flags: options.controller_manager_flags.clone(),
            address: Some(network::CONTROL_PLANE),
            ..ControlPlaneOptions::default()
        })
        .await?;
        let mut cluster = Self {
            nodes: Vec::new(),
            control_plane,
        };
        match cluster.start_nodes(options, programs).await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.control_plane.keep_logs();
                Err(error.context("the nodes did not start"))
            }
        }
    }

    async fn start_nodes(&mut self, options: &ClusterOptions, programs: &Programs) -> Result<()> {
        let pause = sandbox::image(self.control_plane.folder())?;
        let mut starting = Vec::new();
        for number in 1..=options.nodes {
            let plan = self.plan(number, options, &pause, programs)?;
            starting.push(task::spawn_blocking(move || Node::start(&plan)));
        }
        for node in starting {
            self.nodes.push(Arc::new(node.await??));
        }
        try_join_all(self.nodes.iter().map(|node| self.is_ready(node))).await?;
        Ok(())
    }

    /// Writes what node `number` needs of the control plane into a folder of its own.
    fn plan(&self, number: u8, options: &ClusterOptions, pause: &Path, programs: &Programs) -> Result<Plan> {
        let name = format!("node-{number}");
        let folder = self.control_plane.folder().join(&name);
        fs::create_dir(&folder)?;
        let address = network::node_address(number).to_string();
        let serving = self.control_plane.authority().server(&[&name, &address])?;
        let user = format!("{}{name}", names::NODE_USER_PREFIX);
        for (file, content) in [
            ("ca.crt", self.control_plane.ca_pem()),
            ("kubelet.crt", serving.certificate),
            ("kubelet.key", serving.key),
            (
                "kubelet.kubeconfig",
                self.control_plane.user_kubeconfig(&user, names::NODES_GROUP)?,
            ),
            (
                "kube-proxy.kubeconfig",
                self.control_plane.user_kubeconfig(PROXY_USER, PROXY_USER)?,
            ),
        ] {
            fs::write(folder.join(file), content).with_context(|| format!("writing {file} of {name}"))?;
        }
        let control_plane = self
            .control_plane
            .folder()
            .file_name()
            .unwrap_or_default()
            .display();
        Ok(Plan {
            number,
            nodes: options.nodes,
            groups: format!("{control_plane}-{name}"),
            folder,
            pause: pause.to_owned(),
            images: options.images.clone(),
            programs: programs.clone(),
        })
    }

    async fn is_ready(&self, node: &Node) -> Result<()> {
        let nodes: Api<core::Node> = Api::all(self.control_plane.admin().await?);
        becomes(
            &nodes,
            node.name(),
            "a node that is ready",
            READY_LIMIT,
            node_is_ready,
        )
        .await
        .map(drop)
        .map_err(|error| match node.check() {
            Ok(()) => error,
            Err(ended) => error.context(ended),
        })
    }

    /// The control plane. Its API server listens at an address that nodes and pods reach, too.
    #[must_use]
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The nodes. Each carries the label [`REAL_LABEL`].
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(AsRef::as_ref)
    }

    /// Imports an OCI archive on every node. Pods can use the image under the name that it is annotated with, which
    /// must not be a bare one (`localhost/name:tag` will do), and with an `imagePullPolicy` other than `Always`: there
    /// is no registry.
    pub async fn import(&self, archive: &Path) -> Result<()> {
        let import = |node: &Arc<Node>| {
            let (node, archive) = (Arc::clone(node), PathBuf::from(archive));
            async move { task::spawn_blocking(move || node.import(&archive)).await? }
        };
        try_join_all(self.nodes.iter().map(import)).await.map(drop)
    }

    /// Pushes an image that was [imported](Self::import) to a registry that speaks plain HTTP, as `reference`.
    pub async fn push(&self, image: &str, reference: &str) -> Result<()> {
        let node = Arc::clone(self.nodes.first().context("a cluster has nodes")?);
        let (image, reference) = (image.to_owned(), reference.to_owned());
        task::spawn_blocking(move || node.push(&image, &reference)).await?
    }

    /// Address of the control plane. What the test's threads serve there, nodes and pods reach.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        network::CONTROL_PLANE
    }

    /// Stops everything: when this returns, processes, folder, namespaces and control groups are gone.
    pub async fn stop(self) -> Result<()> {
        Ok(task::spawn_blocking(move || drop(self)).await?)
    }
}
