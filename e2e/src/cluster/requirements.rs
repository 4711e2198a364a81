//! What a machine needs for real nodes: rights, and programs that its distribution brings.

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow};

use super::namespaces;
use crate::system::packages::{self, program};
use crate::system::tools;

/// Where distributions put the CNI plugins.
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];
const CNI_PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];

/// Programs that are there.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) runc: PathBuf,
    /// Folder of the CNI plugins.
    pub(super) cni: PathBuf,
}

/// Why this process may not run nodes, in a few words; none when it may.
#[must_use]
pub fn missing_rights() -> Option<String> {
    let error = namespaces::are_allowed().err()?;
    Some(format!(
        "real nodes need root, with the right to make namespaces: {error:#}"
    ))
}

/// Installs what nodes need of the distribution's, with apt-get where there is one. Blocks.
///
/// # Errors
/// Something is missing, and cannot be installed.
pub fn provide_packages() -> Result<()> {
    // Tests start together: the first one installs, the others find.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME
        .lock()
        .map_err(|_| anyhow!("installing failed before"))?;
    packages::provide("the test nodes", missing_packages)
}

/// [`provide_packages`], and builds the rest that nodes need. Blocks, for minutes the first time on a machine.
pub(super) fn provide() -> Result<Programs> {
    tools::prepare_nodes()?;
    provide_packages()?;
    Ok(Programs {
        runc: program("runc").context("runc is missing")?,
        cni: cni().context("the CNI plugins are missing")?,
    })
}

/// Debian's names of the packages that bring what is not there.
fn missing_packages() -> Vec<&'static str> {
    [
        ("runc", program("runc").is_some()),
        ("iptables", program("iptables").is_some()),
        ("iproute2", program("ip").is_some()),
        ("containernetworking-plugins", cni().is_some()),
    ]
    .into_iter()
    .filter_map(|(package, there)| (!there).then_some(package))
    .collect()
}

fn cni() -> Option<PathBuf> {
    let whole = |folder: &PathBuf| CNI_PLUGINS.iter().all(|plugin| folder.join(plugin).is_file());
    CNI_FOLDERS.map(PathBuf::from).into_iter().find(whole)
}
