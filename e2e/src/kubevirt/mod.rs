//! The real `KubeVirt` on real nodes: virt-api, virt-controller, virt-handler and launchers with libvirt and QEMU.
//!
//! There is no virt-operator unless a test asks for it: what it would make is printed by its own code and applied here,
//! which takes a third of the time. All goes with the cluster.
//!
//! | file | holds |
//! |---|---|
//! | [`programs`] | the programs, built from source |
//! | [`image`] | the image of all of them, with Debian's libvirt and QEMU |
//! | [`operator`] | the installation by virt-operator, for one test |
//! | [`emulation`] | whether guests have to be emulated here |
//! | [`vm`] | a guest's VM, as a person at the machine sees it |

mod emulation;
mod image;
mod operator;
mod programs;
mod vm;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_image_build::command::run;
use maroonedpods_image_build::go;
use serde::Deserialize;
use serde_json::json;

use crate::api::apply::{api_of, apply, create, kind};
use crate::api::check::{becomes, eventually};
use crate::cluster::{Cluster, REAL_LABEL};

pub use self::emulation::Kvm;
pub use self::operator::Operator;
pub(crate) use self::vm::CONSOLE;
pub use self::vm::RealVm;

/// The namespace of `KubeVirt`'s programs.
pub const NAMESPACE: &str = "kubevirt";
/// virt-handler's label on nodes that can run VMs.
const SCHEDULABLE: &str = "kubevirt.io/schedulable";
/// Usual are 15 s; a busy machine took 60.
const READY_LIMIT: Duration = Duration::from_secs(240);

/// What is built once on a machine: the image of all programs, and what prints the objects.
#[derive(Clone, Debug)]
pub struct Programs {
    images: PathBuf,
    objects: PathBuf,
    version: String,
}

/// What is applied to a cluster, in this order.
#[derive(Deserialize)]
struct Objects {
    definitions: Vec<DynamicObject>,
    parts: Vec<DynamicObject>,
}

impl Programs {
    /// Builds what is missing. Needs root, Go, a C compiler and Debian's apt, which fetches packages and installs none.
    /// Blocks, for many minutes the first time.
    ///
    /// # Errors
    /// Something is missing or cannot be built.
    pub fn build() -> Result<Self> {
        let programs = programs::build()?;
        Ok(Self {
            images: image::build(&programs)?,
            objects: programs.join(programs::OBJECTS),
            version: go::kubevirt_version()?,
        })
    }

    /// `KubeVirt`'s version, such as `v1.9.0`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What the nodes of the cluster must begin with ([`crate::cluster::ClusterOptions::images`]).
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.images.clone()
    }

    /// What [`install`] creates after the kinds, the namespace and the `KubeVirt` object.
    ///
    /// # Errors
    /// They cannot be printed.
    pub fn parts(&self) -> Result<Vec<DynamicObject>> {
        Ok(self.objects()?.parts)
    }

    fn objects(&self) -> Result<Objects> {
        let printed = run(Command::new(&self.objects).args([image::IMAGE, &self.version]))?;
        serde_json::from_str(&printed).context("reading KubeVirt's objects")
    }

    /// Whether guests have to be emulated. Blocks.
    fn emulates(&self, kvm: Kvm) -> Result<bool> {
        emulation::needed(kvm, &image::root(&self.images))
    }
}

/// Installs `KubeVirt` on the cluster's real nodes, which have [`Programs::images`], and waits until they can run VMs.
///
/// # Errors
/// What did not come up.
pub async fn install(cluster: &Cluster, programs: &Programs, kvm: Kvm) -> Result<()> {
    let admin = cluster.control_plane().admin().await?;
    let prepared = programs.clone();
    let (mut objects, emulate) =
        tokio::task::spawn_blocking(move || anyhow::Ok((prepared.objects()?, prepared.emulates(kvm)?)))
            .await??;
    let kubevirt = with_emulation(&mut objects.definitions, emulate)?;
    apply(&admin, objects.definitions).await?;
    // Its programs read it when they start.
    let status = Patch::Merge(json!({"status": kubevirt.data["status"]}));
    api_of(&admin, &kubevirt)
        .await?
        .patch_status(&kubevirt.name_any(), &PatchParams::default(), &status)
        .await?;
    create(&admin, &objects.parts).await?;
    is_ready(&admin).await
}

/// Writes into the `KubeVirt` object among `objects` whether guests have to be emulated, and returns it.
fn with_emulation(objects: &mut [DynamicObject], emulate: bool) -> Result<DynamicObject> {
    let kubevirt = objects.iter_mut().find(|object| kind(object) == "KubeVirt");
    let kubevirt = kubevirt.context("no KubeVirt object was printed")?;
    kubevirt.data["spec"]["configuration"]["developerConfiguration"]["useEmulation"] = json!(emulate);
    Ok(kubevirt.clone())
}

/// Waits until all of `KubeVirt`'s programs run, and each real node can run VMs.
async fn is_ready(admin: &Client) -> Result<()> {
    let daemons = Api::<DaemonSet>::namespaced(admin.clone(), NAMESPACE);
    let handlers = becomes(
        &daemons,
        "virt-handler",
        "virt-handler on all nodes",
        READY_LIMIT,
        |set| {
            let status = set.status.as_ref();
            status.is_some_and(|status| {
                status.desired_number_scheduled > 0 && status.number_ready == status.desired_number_scheduled
            })
        },
    );
    let deployments = Api::<Deployment>::namespaced(admin.clone(), NAMESPACE);
    let runs = async |name| {
        becomes(
            &deployments,
            name,
            "a Deployment that is available",
            READY_LIMIT,
            |deployment| {
                let status = deployment.status.as_ref();
                status
                    .and_then(|status| status.available_replicas)
                    .unwrap_or_default()
                    > 0
            },
        )
        .await
    };
    tokio::try_join!(handlers, runs("virt-api"), runs("virt-controller"))?;
    let nodes = Api::<Node>::all(admin.clone());
    let real = ListParams::default().labels(&format!("{REAL_LABEL}=true"));
    eventually("every node to run VMs", READY_LIMIT, || async {
        let nodes = nodes.list(&real).await?;
        let not_yet: Vec<_> = nodes
            .iter()
            .filter(|node| node.labels().get(SCHEDULABLE).is_none_or(|value| value != "true"))
            .map(ResourceExt::name_any)
            .collect();
        ensure!(not_yet.is_empty(), "virt-handler has not labelled {not_yet:?}");
        Ok(Some(()))
    })
    .await
}
