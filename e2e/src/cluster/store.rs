//! Images that nodes have from the start. They are unpacked once on a machine, into a containerd folder, of which each node
//! gets a copy: nothing changes files of an image, so that copies are hard links.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use maroonedpods_image_build::command::{run, say};
use maroonedpods_image_build::go;
use maroonedpods_image_build::node_tools::{self, NodeTool};
use sha2::{Digest, Sha256};

/// containerd's databases, which each node changes.
const DATABASES: [&str; 2] = [
    "io.containerd.metadata.v1.bolt/meta.db",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
];

/// A containerd folder that holds these archives' images, made beside them if it is not there yet; none for no archives.
/// Blocks.
///
/// # Errors
/// An archive cannot be read, or holds more than one image of one layer.
pub(super) fn prepare(archives: &[PathBuf]) -> Result<Option<PathBuf>> {
    let Some(first) = archives.first() else {
        return Ok(None);
    };
    let mut hash = Sha256::new();
    for archive in archives {
        let opened = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
        io::copy(&mut &opened, &mut hash)?;
    }
    let beside = first.parent().context("an archive is in a folder")?;
    let prepared = beside.join(format!("unpacked-{}", &format!("{:x}", hash.finalize())[..12]));
    let preload = node_tools::find(NodeTool::Preload, "amd64")?;
    let _lock = go::lock(beside)?;
    if !prepared.exists() {
        say("unpacking images for all nodes of this machine, once");
        let unfinished = tempfile::tempdir_in(beside)?;
        run(Command::new(preload).arg(unfinished.path()).args(archives))?;
        fs::rename(unfinished.keep(), &prepared)?;
    }
    Ok(Some(prepared))
}

/// Gives a node its copy, `folder`, which must not be there yet. Blocks.
pub(super) fn share(prepared: &Path, folder: &Path) -> Result<()> {
    let copy = |how: &str| {
        run(Command::new("cp")
            .args(["--archive", how, "--no-target-directory"])
            .args([prepared, folder]))
    };
    // Folders of two file systems have no files in common.
    if copy("--link").is_err() {
        fs::remove_dir_all(folder)?;
        copy("--sparse=auto")?;
    }
    for database in DATABASES {
        let own = folder.join(database);
        fs::remove_file(&own)?;
        fs::copy(prepared.join(database), &own).with_context(|| format!("copying {database}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_shares_what_does_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let (prepared, own) = (folder.path().join("prepared"), folder.path().join("own"));
        for file in DATABASES.into_iter().chain(["blobs/one"]) {
            let path = prepared.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        share(&prepared, &own).unwrap();
        let same = |file: &str| {
            let inode = |root: &Path| fs::metadata(root.join(file)).unwrap().ino();
            assert_eq!(fs::read_to_string(own.join(file)).unwrap(), file);
            inode(&prepared) == inode(&own)
        };
        assert!(same("blobs/one"));
        assert!(!same(DATABASES[0]) && !same(DATABASES[1]));
    }
}
