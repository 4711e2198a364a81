//! What a machine needs for real nodes: rights, and programs that its distribution brings.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::namespaces;
use crate::tools::{self, last_lines, say};

/// Where programs for the administrator are, which an ordinary PATH does not name.
const ADMIN_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
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
pub(super) fn missing_rights() -> Option<String> {
    let error = namespaces::are_allowed().err()?;
    Some(format!(
        "real nodes need root, with the right to make namespaces: {error:#}"
    ))
}

/// Sees to it that everything that nodes need is here: builds, and installs with apt-get where that is to be had.
/// Blocks, for minutes the first time on a machine.
pub(super) fn provide() -> Result<Programs> {
    // Tests start together: the first one installs, the others find.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME
        .lock()
        .map_err(|_| anyhow!("installing failed before"))?;
    tools::prepare_nodes()?;
    let packages = missing_packages();
    if !packages.is_empty() {
        install(&packages)?;
        let still = missing_packages();
        ensure!(
            still.is_empty(),
            "apt-get installed {still:?}, but what they should bring is not where it is looked for"
        );
    }
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

fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if program("apt-get").is_none() {
        bail!(
            "real nodes need runc, iptables, ip and the CNI plugins; of these, this machine lacks what Debian calls: {names}. Install them, or run without root to leave the tests of real nodes out"
        );
    }
    say(&format!("installing with apt-get, for the test nodes: {names}"));
    if apt_get(&["install", "--yes", "--no-install-recommends"], packages).is_ok() {
        return Ok(());
    }
    // A fresh machine has no list of packages, or an old one.
    apt_get(&["update"], &[])?;
    apt_get(&["install", "--yes", "--no-install-recommends"], packages)
}

fn apt_get(arguments: &[&str], packages: &[&str]) -> Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let status = Command::new("apt-get")
        // Somebody else may be installing.
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(log.reopen()?)
        .stderr(log.reopen()?)
        .status()?;
    ensure!(
        status.success(),
        "apt-get {} {} failed ({status}):\n{}",
        arguments.join(" "),
        packages.join(" "),
        last_lines(log.path(), 10)
    );
    Ok(())
}

fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMIN_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

fn cni() -> Option<PathBuf> {
    let whole = |folder: &PathBuf| CNI_PLUGINS.iter().all(|plugin| folder.join(plugin).is_file());
    CNI_FOLDERS.map(PathBuf::from).into_iter().find(whole)
}
