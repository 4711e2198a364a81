//! Images that nodes have from the start. They are unpacked once on a machine, into a containerd folder, of which each node
//! gets a copy: nothing changes files of an image, so that copies are hard links.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use maroonedpods_image_build::command::run;

/// containerd's databases, which each node changes.
const DATABASES: [&str; 2] = [
    "io.containerd.metadata.v1.bolt/meta.db",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
];

/// Gives a node its copy of a containerd folder: `folder`, which must not be there yet. Blocks.
pub(super) fn share(images: &Path, folder: &Path) -> Result<()> {
    let beside = folder.parent().context("a node's folder is in another")?;
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--no-target-directory"]);
    // Folders of two file systems have no files in common.
    if fs::metadata(images)?.dev() == fs::metadata(beside)?.dev() {
        copy.arg("--link");
    }
    run(copy.args([images, folder]))?;
    for database in DATABASES {
        let own = folder.join(database);
        fs::remove_file(&own)?;
        fs::copy(images.join(database), &own).with_context(|| format!("copying {database}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_what_does_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let (images, own) = (folder.path().join("images"), folder.path().join("own"));
        for file in DATABASES.into_iter().chain(["blobs/one"]) {
            let path = images.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        share(&images, &own).unwrap();
        let same = |file: &str| {
            let inode = |root: &Path| fs::metadata(root.join(file)).unwrap().ino();
            assert_eq!(fs::read_to_string(own.join(file)).unwrap(), file);
            inode(&images) == inode(&own)
        };
        assert!(same("blobs/one"));
        assert!(!same(DATABASES[0]) && !same(DATABASES[1]));
    }
}
