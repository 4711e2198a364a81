//! The archive of the image of pods' sandboxes, for test nodes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use maroonedpods_image_build::sandbox;

use crate::system::tools::{self, Tool};

/// Writes the image's archive into `folder`.
pub(super) fn image(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("pause.tar");
    let archive = sandbox::archive(fs::read(tools::find(Tool::Pause)?)?, "amd64")?;
    fs::write(&path, archive.bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
