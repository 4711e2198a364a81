//! The index by which modprobe(8) finds modules: what they depend on, and which serves what.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::host::Host;
use super::modules;
use super::tree::Tree;
use crate::command;

/// Adds the index of the modules in a root file system to it.
///
/// # Errors
/// There are no modules, or depmod(8) fails.
pub(super) fn add_index(root: &mut Tree, host: &Host, work: &Path) -> Result<()> {
    let mut only_modules = Tree::default();
    for (path, entry, content) in root.files() {
        if path.starts_with(modules::FOLDER) {
            only_modules.file(&entry.part, path, entry.mode, content.to_owned())?;
        }
    }
    let folder = tempfile::tempdir_in(work)?;
    only_modules.write(folder.path())?;
    let release = only_modules
        .iter()
        .find_map(|(path, _)| path.strip_suffix("/modules.order"))
        .context("the image has no kernel modules")?;
    // Nothing of this machine's own configuration.
    let configuration = tempfile::tempdir_in(work)?;
    command::run(
        host.command_as("kmod", "depmod")?
            .arg("--config")
            .arg(configuration.path())
            .arg("--basedir")
            .arg(folder.path())
            .arg(release.rsplit('/').next().unwrap_or(release)),
    )?;
    for entry in fs::read_dir(folder.path().join(release.trim_start_matches('/')))? {
        let entry = entry?;
        let name = entry.file_name();
        let path = format!(
            "{release}/{}",
            name.to_str()
                .context("depmod wrote a file that has no UTF-8 name")?
        );
        if entry.file_type()?.is_file() && only_modules.content(&path).is_none() {
            root.file(modules::PART, &path, 0o644, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
