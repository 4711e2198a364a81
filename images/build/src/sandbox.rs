//! The image that every pod's sandbox is made of: it holds the pod's namespaces.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::Timestamp;

use crate::oci::{Archive, Files, Image};

/// Its name, on test nodes and in guests.
pub const SANDBOX_IMAGE: &str = "localhost/pause:1";

/// The image, named [`SANDBOX_IMAGE`], around a `pause` for `architecture`.
pub fn archive(pause: Vec<u8>, architecture: &str) -> Result<Archive> {
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
