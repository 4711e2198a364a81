//! A Secret as a pod sees it: a folder that the kubelet keeps up to date, some time after the Secret itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const POLL: Duration = Duration::from_millis(50);

/// A mounted Secret. Dropping it stops the updates and removes the folder.
pub struct SecretVolume {
    folder: TempDir,
    following: JoinHandle<()>,
}

impl SecretVolume {
    /// Waits for the Secret, as a pod does that mounts it, and follows it from then on. Each change arrives `lag`
    /// after it was seen; of several within that time only the last one may.
    pub async fn mount(secrets: Api<Secret>, name: &str, lag: Duration) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut payload = Payload {
            folder: folder.path().to_owned(),
            content: BTreeMap::new(),
            swaps: 0,
        };
        let name = name.to_owned();
        while payload.swaps == 0 {
            payload.update(&secrets, &name).await?;
            sleep(POLL).await;
        }
        let following = tokio::spawn(async move {
            loop {
                sleep(POLL + lag).await;
                // The kubelet, too, tries again later and keeps what it has.
                let _: Result<()> = payload.update(&secrets, &name).await;
            }
        });
        Ok(Self { folder, following })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SecretVolume {
    fn drop(&mut self) {
        self.following.abort();
    }
}

struct Payload {
    folder: PathBuf,
    content: BTreeMap<String, ByteString>,
    swaps: u32,
}

impl Payload {
    async fn update(&mut self, secrets: &Api<Secret>, name: &str) -> Result<()> {
        // A Secret that is gone stays in the folder of a pod that runs.
        if let Some(secret) = secrets.get_opt(name).await? {
            let content = secret.data.unwrap_or_default();
            if self.swaps == 0 || content != self.content {
                self.swap(&content)?;
                self.content = content;
            }
        }
        Ok(())
    }

    /// As `pkg/volume/util/atomic_writer.go` does it: a new folder, then `..data` swapped to it by a rename, then
    /// the old folder removed. The files that pods open are links through `..data`.
    fn swap(&mut self, content: &BTreeMap<String, ByteString>) -> Result<()> {
        self.swaps += 1;
        let data = self.folder.join("..data");
        let old = fs::read_link(&data).ok();
        let new = format!("..2026_01_01_00_00_00.{}", self.swaps);
        fs::create_dir(self.folder.join(&new))?;
        for (file, ByteString(bytes)) in content {
            fs::write(self.folder.join(&new).join(file), bytes)?;
            let link = self.folder.join(file);
            if fs::symlink_metadata(&link).is_err() {
                symlink(Path::new("..data").join(file), &link)?;
            }
        }
        let swap = self.folder.join("..data_tmp");
        symlink(&new, &swap)?;
        fs::rename(&swap, &data)?;
        if let Some(old) = old {
            fs::remove_dir_all(self.folder.join(old))?;
        }
        for file in self.content.keys().filter(|file| !content.contains_key(*file)) {
            fs::remove_file(self.folder.join(file))?;
        }
        Ok(())
    }
}
