//! `KubeVirt` as people install it: by virt-operator, which makes the rest of a `KubeVirt` object. It is an image of its
//! own and built only for this, since all others do without.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_image_build::command::run;
use maroonedpods_image_build::go;
use maroonedpods_image_build::oci::{Files, Image};
use serde_json::json;

use super::{Kvm, Programs, image, is_ready, programs, with_emulation};
use crate::api::apply::{api_of, apply};
use crate::api::check::becomes;
use crate::cluster::Cluster;

/// The image's name on the nodes, before a colon and the version: virt-operator reads its version there.
const IMAGE: &str = "localhost/kubevirt-operator";
/// As that of the other programs.
const USER: &str = "1001:1001";
/// Where `KubeVirt` insists on running its own programs.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Usual are 95 s; a busy machine took 135.
const DEPLOYED_LIMIT: Duration = Duration::from_secs(480);

/// What is built for an installation by virt-operator, beyond [`Programs`].
#[derive(Clone, Debug)]
pub struct Operator {
    image: String,
    archive: PathBuf,
    objects: PathBuf,
}

impl Operator {
    /// Builds what is missing. Needs Go and a C compiler. Blocks, for a minute the first time.
    ///
    /// # Errors
    /// Something cannot be built.
    pub fn build() -> Result<Self> {
        let built = programs::build_operator()?;
        let image = format!("{IMAGE}:{}", go::kubevirt_version()?);
        Ok(Self {
            archive: pack(&built, &image)?,
            image,
            objects: built.join(programs::OPERATOR_OBJECTS),
        })
    }

    /// Installs `KubeVirt` as [`super::install`] does, and waits besides until its object says that it is deployed. Returns
    /// that object.
    ///
    /// # Errors
    /// What did not come up.
    pub async fn install(&self, cluster: &Cluster, programs: &Programs, kvm: Kvm) -> Result<DynamicObject> {
        let admin = cluster.control_plane().admin().await?;
        let prepared = programs.clone();
        let operator = self.clone();
        let (mut objects, emulate) = tokio::task::spawn_blocking(move || {
            let printed =
                run(Command::new(operator.objects).args([&operator.image, image::IMAGE, &prepared.version]))?;
            let objects: Vec<DynamicObject> =
                serde_json::from_str(&printed).context("reading virt-operator's objects")?;
            anyhow::Ok((objects, prepared.emulates(kvm)?))
        })
        .await??;
        let kubevirt = with_emulation(&mut objects, emulate)?;
        cluster.import(&self.archive).await?;
        label_nodes(cluster, &admin).await?;
        apply(&admin, objects).await?;
        let api = api_of(&admin, &kubevirt).await?;
        let deployed = |kubevirt: &DynamicObject| kubevirt.data["status"]["phase"] == "Deployed";
        let name = kubevirt.name_any();
        let kubevirt = becomes(&api, &name, "deployed", DEPLOYED_LIMIT, deployed).await?;
        is_ready(&admin).await?;
        Ok(kubevirt)
    }
}

/// `KubeVirt`'s own programs run on nodes of the control plane, which none of a test's nodes is.
async fn label_nodes(cluster: &Cluster, admin: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(admin.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {CONTROL_PLANE: ""}}}));
    for node in cluster.nodes() {
        nodes.patch(node.name(), &PatchParams::default(), &label).await?;
    }
    Ok(())
}

/// The archive of the image, made of the programs in `built` and kept there.
fn pack(built: &Path, image: &str) -> Result<PathBuf> {
    let archive = built.join("image.tar");
    let _lock = go::lock(built)?;
    if archive.exists() {
        return Ok(archive);
    }
    let mut files = Files::default();
    files.folder("/tmp", 0o1777)?;
    for program in programs::OF_OPERATOR {
        files.file(
            &format!("/usr/bin/{program}"),
            0o755,
            fs::read(built.join(program))?,
        )?;
    }
    let image = Image {
        name: image.to_owned(),
        files,
        entrypoint: Vec::new(),
        user: USER.to_owned(),
        env: vec!["PATH=/usr/bin".to_owned()],
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    let unfinished = built.join("unfinished.tar");
    fs::write(&unfinished, image.archive()?.bytes)?;
    fs::rename(unfinished, &archive)?;
    Ok(archive)
}
