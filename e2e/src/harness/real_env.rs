//! Marooned pods in real virtual machines: real nodes, the real `KubeVirt`, the released chart with our images as
//! containers, guests that boot our node image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use kube::Client;
use maroonedpods_common::names;
use maroonedpods_image_build::command::say;
use maroonedpods_image_build::node_image;
use maroonedpods_image_build::oci::{Files, Image};
use maroonedpods_image_build::program_images::{Images, images};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{CLUSTER_DOMAIN, Cluster, ClusterOptions, REAL_LABEL};
use crate::harness::test_env::wait_for_default_account;
use crate::install::dns;
use crate::install::{RELEASE, SYSTEM_NAMESPACE, chart, helm};
use crate::kubevirt::{self, Kvm};
use crate::system::packages;
use crate::system::tools::{self, Tool};
use crate::system::work_folder::Janitor;

/// The image that pods run in guests and on host nodes: busybox, and `/testserver`. Guests have it preloaded.
pub const TOOLBOX: &str = "localhost/toolbox:1";
/// An emulated guest is a node after 10 s on an idle machine, and several at once share two processors.
pub const RUNS: Duration = Duration::from_secs(240);

/// Archives of all images. They are made before there is a cluster: from its network nothing can be downloaded.
pub struct Archives {
    ours: Images,
    kubevirt: kubevirt::Programs,
    toolbox: PathBuf,
    node: node_image::Built,
    // Removes the folder even when this process is killed.
    _janitor: Janitor,
    _folder: TempDir,
}

impl Archives {
    /// Makes them, with this static kubelet for guests or the pinned one. Blocks, for many minutes the first time.
    ///
    /// # Errors
    /// Something is missing or cannot be built.
    pub fn make(kubelet: Option<PathBuf>) -> Result<Self> {
        Self::preloading(kubelet, None)
    }

    /// Makes them for guests that have these images preloaded, OCI archives, in place of [`TOOLBOX`]. Blocks as
    /// [`Self::make`].
    ///
    /// # Errors
    /// Something is missing or cannot be built.
    pub fn with_images(archives: &[PathBuf]) -> Result<Self> {
        Self::preloading(None, Some(archives))
    }

    fn preloading(kubelet: Option<PathBuf>, preloaded: Option<&[PathBuf]>) -> Result<Self> {
        let folder = TempDir::new()?;
        let janitor = Janitor::new(r#"rm -rf "$1""#, &[folder.path().to_owned()])?;
        provide_tools()?;
        // They have nothing to compile in common, and each has parts that keep one processor busy.
        let (kubernetes, others) = thread::scope(|scope| {
            let kubernetes = scope.spawn(tools::prepare_nodes);
            let others = kubevirt::Programs::build().and_then(|kubevirt| {
                say("building our images");
                Ok((kubevirt, images()?))
            });
            (kubernetes.join(), others)
        });
        kubernetes.map_err(|_| anyhow!("building Kubernetes ended in a panic"))??;
        let (kubevirt, ours) = others?;
        let toolbox = toolbox(folder.path())?;
        say("building the node image");
        let node = node_image::build(&node_image::Options {
            tag: Some("test".to_owned()),
            kubelet,
            preload: preloaded.map_or_else(|| vec![toolbox.clone()], <[_]>::to_vec),
            ..node_image::Options::for_tests()?
        })?;
        Ok(Self {
            ours,
            kubevirt,
            toolbox,
            node,
            _janitor: janitor,
            _folder: folder,
        })
    }

    /// `KubeVirt`.
    #[must_use]
    pub fn kubevirt(&self) -> &kubevirt::Programs {
        &self.kubevirt
    }

    /// What a cluster must be like: its nodes have `KubeVirt`'s image.
    #[must_use]
    pub fn cluster(&self) -> ClusterOptions {
        ClusterOptions {
            images: Some(self.kubevirt.images()),
            ..ClusterOptions::default()
        }
    }

    /// Digests of our images.
    #[must_use]
    pub fn digests(&self) -> [&str; 3] {
        [
            &self.ours.webhook.digest,
            &self.ours.reconciler.digest,
            &self.node.digest,
        ]
    }

    /// The node image.
    #[must_use]
    pub fn node(&self) -> &node_image::Built {
        &self.node
    }

    /// The archive of [`TOOLBOX`].
    #[must_use]
    pub fn toolbox(&self) -> &Path {
        &self.toolbox
    }
}

fn toolbox(folder: &Path) -> Result<PathBuf> {
    let busybox = packages::program("busybox").context("busybox is missing: install busybox-static")?;
    let mut files = Files::default();
    files.file("/bin/busybox", 0o755, fs::read(busybox)?)?;
    files.file("/testserver", 0o755, fs::read(tools::find(Tool::TestServer)?)?)?;
    let image = Image {
        name: TOOLBOX.to_owned(),
        files,
        entrypoint: vec!["/bin/busybox".to_owned(), "sh".to_owned()],
        user: "0:0".to_owned(),
        env: vec!["PATH=/bin:/sbin:/usr/bin:/usr/sbin".to_owned()],
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    let path = folder.join("toolbox.tar");
    fs::write(&path, image.archive()?.bytes)?;
    Ok(path)
}

/// Installs what [`Archives`] are made of besides, with apt-get where that is to be had. Blocks.
///
/// # Errors
/// Something is missing, and cannot be installed.
pub fn provide_tools() -> Result<()> {
    packages::provide("the images of real guests", || {
        let missing = [
            ("busybox", "busybox-static"),
            ("gcc", "gcc"),
            ("gcc", "libc6-dev"),
        ]
        .into_iter();
        let missing = missing.filter(|(name, _)| packages::program(name).is_none());
        missing.map(|(_, package)| package).collect()
    })
}

/// A release on a cluster with `KubeVirt`.
pub struct RealEnv<'a> {
    cluster: &'a Cluster,
    /// A client that may do everything.
    pub admin: Client,
}

impl<'a> RealEnv<'a> {
    /// Imports the images on a cluster that is as [`Archives::cluster`] says, installs `KubeVirt`, and the chart with helm.
    /// `more` is laid over these environments' configuration; a null takes a field out of it.
    ///
    /// # Errors
    /// helm's own message, or what did not come up.
    pub async fn install(cluster: &'a Cluster, archives: &Archives, kvm: Kvm, more: &Value) -> Result<Self> {
        kubevirt::install(cluster, &archives.kubevirt, kvm).await?;
        Self::install_on_kubevirt(cluster, archives, more).await
    }

    /// [`Self::install`] on a cluster that has `KubeVirt` already.
    ///
    /// # Errors
    /// helm's own message, or what did not come up.
    pub async fn install_on_kubevirt(
        cluster: &'a Cluster,
        archives: &Archives,
        more: &Value,
    ) -> Result<Self> {
        let Archives {
            ours, toolbox, node, ..
        } = archives;
        for archive in [
            &ours.webhook.archive,
            &ours.reconciler.archive,
            toolbox,
            &node.archive,
        ] {
            cluster.import(archive).await?;
        }
        let admin = cluster.control_plane().admin().await?;
        dns::make_service(&admin).await?;
        let values = cluster.control_plane().folder().join("values.json");
        fs::write(&values, values_of(cluster, node, more).to_string())?;
        let kubeconfig = cluster.control_plane().kubeconfig().display().to_string();
        let (chart, values) = (chart().display().to_string(), values.display().to_string());
        let arguments = [
            "install",
            RELEASE,
            &chart,
            "--values",
            &values,
            "--create-namespace",
            "--wait",
            "--timeout",
            "4m",
            "--kubeconfig",
            &kubeconfig,
        ];
        helm(&arguments).await?;
        wait_for_default_account(&admin, names::VM_NAMESPACE).await?;
        Ok(Self { cluster, admin })
    }

    /// The cluster that it is on.
    #[must_use]
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// What administrators would look at when a pod does not come up: objects, events, our programs' logs, and the guests'
    /// consoles.
    pub async fn state(&self) -> String {
        let ours = ["--selector", "app.kubernetes.io/name=maroonedpods", "--prefix"];
        let launchers = [
            "--selector",
            "kubevirt.io=virt-launcher",
            "--all-containers",
            "--prefix",
            "--tail=60",
        ];
        let mut seen = String::new();
        for arguments in [
            ["get", "pods,nodes,vmi,mn", "--all-namespaces", "--output", "wide"].as_slice(),
            &["get", "events", "--all-namespaces"],
            &[["logs", "--namespace", SYSTEM_NAMESPACE].as_slice(), &ours].concat(),
            &[
                ["logs", "--namespace", names::VM_NAMESPACE].as_slice(),
                &launchers,
            ]
            .concat(),
        ] {
            let shown = self.cluster.control_plane().kubectl(arguments).await;
            seen += &shown.unwrap_or_else(|error| format!("{error:#}\n"));
        }
        seen
    }
}

fn values_of(cluster: &Cluster, node: &node_image::Built, more: &Value) -> Value {
    let on_real_nodes = json!({"nodeSelector": {REAL_LABEL: "true"}});
    let mut config = json!({
        "nodeImage": node.name,
        "enableKernelBoot": true,
        "baseVMResources": {"cpu": 1, "memoryMi": 512},
        "join": {"serverURL": cluster.control_plane().server_url(), "clusterDomain": CLUSTER_DOMAIN},
        "deadlines": {"boot": "3m", "join": "5m", "finishedPodTTL": "5s"},
    });
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
        config.retain(|_, value| !value.is_null());
    }
    json!({
        "image": {"registry": "localhost", "pullPolicy": "Never"},
        "webhook": on_real_nodes,
        "reconciler": on_real_nodes,
        "config": config,
    })
}
