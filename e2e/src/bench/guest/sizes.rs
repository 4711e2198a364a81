//! How large an image is.

use std::fs;

use anyhow::Result;
use maroonedpods_image_build::node_image::Built;
use serde::Serialize;

/// In bytes. Nothing of an archive is compressed; registries do that.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sizes {
    /// The OCI archive: what a host node stores.
    pub archive: usize,
    /// The disk in it.
    pub disk: usize,
    /// The kernel in it.
    pub kernel: usize,
    /// The initrd in it.
    pub initrd: usize,
}

impl Sizes {
    /// Of these files, without their archive.
    #[must_use]
    pub fn of(disk: &[u8], kernel: &[u8], initrd: &[u8]) -> Self {
        Self {
            archive: 0,
            disk: disk.len(),
            kernel: kernel.len(),
            initrd: initrd.len(),
        }
    }

    /// Of our node image.
    pub fn of_ours(image: &Built) -> Result<Self> {
        let size = |path| anyhow::Ok(usize::try_from(fs::metadata(path)?.len())?);
        Ok(Self {
            archive: size(&image.archive)?,
            disk: size(&image.disk)?,
            kernel: size(&image.kernel)?,
            initrd: size(&image.initrd)?,
        })
    }
}
