//! The image of the program that the tests of real nodes run in ordinary pods (`hack/tools/testserver`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;
use maroonedpods_image_build::oci::{Files, Image};

use crate::system::tools::{self, Tool};

/// The image's name on the nodes.
pub const TEST_SERVER: &str = "localhost/testserver:1";

/// Writes the image into `folder`, as an OCI archive for [`crate::cluster::Cluster::import`]. Blocks.
///
/// # Errors
/// The program does not build.
pub fn test_server(folder: &Path) -> Result<PathBuf> {
    let mut files = Files::default();
    files.file("/testserver", 0o755, fs::read(tools::find(Tool::TestServer)?)?)?;
    let image = Image {
        name: TEST_SERVER.to_owned(),
        files,
        entrypoint: vec!["/testserver".to_owned()],
        user: "65532:65532".to_owned(),
        env: Vec::new(),
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    let path = folder.join("testserver.tar");
    fs::write(&path, image.archive()?.bytes)?;
    Ok(path)
}
