//! How the node image is built.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::arch::Arch;
use super::cross;
use crate::Profile;
use crate::apt::Apt;
use crate::cargo::Workspace;

/// How to build the image.
#[derive(Clone, Debug)]
pub struct Options {
    /// The version of our programs where there is none.
    pub tag: Option<String>,
    /// What it is for.
    pub arch: Arch,
    /// How the boot program is compiled.
    pub profile: Profile,
    /// A static kubelet in place of the one that `hack/tools` pins.
    pub kubelet: Option<PathBuf>,
    /// Debian package sources in place of the machine's own.
    pub sources: Option<PathBuf>,
    /// OCI archives of further images, of one layer each, that pods find without a registry.
    pub preload: Vec<PathBuf>,
    /// Whether to fetch Debian's lists of packages although there are some already.
    pub update: bool,
}

impl Options {
    /// What tests run: an image for this machine, quickly compiled.
    pub fn for_tests() -> Result<Self> {
        Ok(Self {
            tag: None,
            arch: Arch::of_this_machine()?,
            profile: Profile::Test,
            kubelet: None,
            sources: None,
            preload: Vec::new(),
            update: false,
        })
    }

    pub(super) fn apt(&self, work: &Path, arch: Arch) -> Result<Apt> {
        let folder = work.join(format!("apt-{}", arch.name()));
        Apt::new(&folder, arch.name(), self.sources.as_deref(), self.update)
    }

    /// Gives the workspace a Rust for the image's architecture, `packages`', where that is not this machine's. Returns
    /// the packages of this machine's.
    pub(super) fn prepare(&self, workspace: &mut Workspace, packages: &Apt, work: &Path) -> Result<Apt> {
        let machine = Arch::of_this_machine()?;
        if machine == self.arch {
            return Ok(packages.clone());
        }
        let for_machine = self.apt(work, machine)?;
        workspace.rust = Some(cross::rust(&for_machine, packages, self.arch, work)?);
        Ok(for_machine)
    }
}
