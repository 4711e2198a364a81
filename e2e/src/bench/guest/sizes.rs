//! How large an image is.

use std::fs;

use anyhow::Result;
use maroonedpods_image_build::node_image::Built;
use serde::Serialize;

/// In bytes. Nothing is compressed; registries do that.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sizes {
    /// What is used of the disk: its file may have room for more.
    pub disk: usize,
    /// The kernel.
    pub kernel: usize,
    /// The initrd.
    pub initrd: usize,
}

impl Sizes {
    /// Of our node image. Its file system, squashfs, has no room.
    pub fn of_ours(image: &Built) -> Result<Self> {
        let size = |path| anyhow::Ok(usize::try_from(fs::metadata(path)?.len())?);
        Ok(Self {
            disk: size(&image.disk)?,
            kernel: size(&image.kernel)?,
            initrd: size(&image.initrd)?,
        })
    }
}
