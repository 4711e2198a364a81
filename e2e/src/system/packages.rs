//! Programs that a machine's distribution brings: finds them, and installs them where apt-get is.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};
use maroonedpods_image_build::command::{last_lines, say};

/// Where programs for the administrator are, which an ordinary PATH does not name.
const ADMIN_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Path of a program, in `PATH` or where administrators' programs are.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMIN_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// Sees to it that `missing`, Debian's names of the packages that are not there, is empty; `users` is who needs
/// them, in words. Says so before it installs. Blocks.
///
/// # Errors
/// There is no apt-get, it fails, or the packages do not bring what they should.
pub(crate) fn provide(users: &str, missing: impl Fn() -> Vec<&'static str>) -> Result<()> {
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    install(users, &packages)?;
    let still = missing();
    ensure!(
        still.is_empty(),
        "apt-get installed {still:?}, but what they should bring is not where it is looked for"
    );
    Ok(())
}

fn install(users: &str, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if program("apt-get").is_none() {
        bail!(
            "for {users}, this machine lacks what Debian calls: {names}. Install them, or run without root to leave the tests of real nodes out"
        );
    }
    say(&format!("installing with apt-get, for {users}: {names}"));
    let arguments = ["install", "--yes", "--no-install-recommends"];
    with_list(|| apt_get(Path::new("/"), &arguments, packages))
}

/// Downloads Debian packages into a folder, without installing them. Blocks.
///
/// # Errors
/// There is no apt-get, or it fails.
pub fn download(users: &str, packages: &[&str], folder: &Path) -> Result<()> {
    let names = packages.join(" ");
    ensure!(
        program("apt-get").is_some(),
        "{users} is made from Debian's packages {names}, which are downloaded with apt-get: this machine has none"
    );
    say(&format!("downloading with apt-get, for {users}: {names}"));
    with_list(|| apt_get(folder, &["download"], packages))
}

/// A fresh machine has no list of packages, or an old one: then `work` is done again with a new one.
fn with_list(work: impl Fn() -> Result<()>) -> Result<()> {
    if work().is_ok() {
        return Ok(());
    }
    apt_get(Path::new("/"), &["update"], &[])?;
    work()
}

fn apt_get(folder: &Path, arguments: &[&str], packages: &[&str]) -> Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let status = Command::new("apt-get")
        // Another process may be installing.
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .args(packages)
        .current_dir(folder)
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
