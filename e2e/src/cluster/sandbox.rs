//! The image that every pod's sandbox is made of: it holds the pod's namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::config::SANDBOX_IMAGE;
use crate::oci::{Archive, Files, Image};
use crate::tools::{self, Tool};

/// Writes the image's archive into `folder`.
pub(super) fn image(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("pause.tar");
    let archive = archive(fs::read(tools::find(Tool::Pause)?)?, "amd64")?;
    fs::write(&path, archive.bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// The image, named [`SANDBOX_IMAGE`], around a `pause` for `architecture`.
pub(crate) fn archive(pause: Vec<u8>, architecture: &str) -> Result<Archive> {
    let mut files = Files::default();
    files.file("/pause", 0o755, pause)?;
    let image = Image {
        name: SANDBOX_IMAGE.to_owned(),
        files,
        entrypoint: vec!["/pause".to_owned()],
        user: "65535:65535".to_owned(),
        env: Vec::new(),
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    image.archive_for(architecture)
}
