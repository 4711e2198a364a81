//! A container registry on the cluster's network: Debian's `docker-registry`, which is only unpacked.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use maroonedpods_image_build::oci::{Files, Image};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::api::check::eventually;
use crate::system::packages;
use crate::system::process::Processes;

/// Name of the user who may pull from the port that asks for credentials.
pub const USER: &str = "puller";
/// The user's password.
pub const PASSWORD: &str = "of-the-registry";
/// Made with bcrypt, the one kind of hash that the registry accepts.
const HASH: &str = "$2b$04$7/a8BojGDw.a49/uS4XhIedH3soyTP7t55p2P29Q7YbvUPbpheCzW";
const PROGRAM: &str = "docker-registry";
const STARTS: Duration = Duration::from_secs(60);

/// Path of the registry's program, which is downloaded with apt-get and unpacked into `folder` unless it is there. Call it
/// outside of a cluster's network. Blocks.
///
/// # Errors
/// There is no apt-get, or it fails.
pub fn program(folder: &Path) -> Result<PathBuf> {
    if let Some(installed) = packages::program(PROGRAM) {
        return Ok(installed);
    }
    let kept = folder.join(PROGRAM);
    if !kept.exists() {
        let work = TempDir::new_in(folder)?;
        packages::download("the tests' registry", &[PROGRAM], work.path())?;
        let package = fs::read_dir(work.path())?.next();
        let package = package.context("apt-get downloaded nothing")??.path();
        let unpacked = work.path().join("unpacked");
        let status = Command::new("dpkg-deb")
            .arg("--extract")
            .args([&package, &unpacked])
            .status()?;
        ensure!(
            status.success(),
            "dpkg-deb --extract {}: {status}",
            package.display()
        );
        fs::rename(unpacked.join("usr/bin").join(PROGRAM), &kept)?;
    }
    Ok(kept)
}

/// An image that prints a text of its own, and goes on running.
///
/// # Errors
/// busybox is missing.
pub fn printing(name: &str, text: &str) -> Result<Image> {
    let busybox = packages::program("busybox").context("busybox is missing: install busybox-static")?;
    let mut files = Files::default();
    files.file("/bin/busybox", 0o755, fs::read(busybox)?)?;
    files.file("/text", 0o644, text.into())?;
    let script = "/bin/busybox cat /text; exec /bin/busybox sleep 3600";
    Ok(Image {
        name: name.to_owned(),
        files,
        entrypoint: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
        user: "0:0".to_owned(),
        env: Vec::new(),
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    })
}

/// One store of images behind two ports, by plain HTTP. It ends when this is dropped.
pub struct Registry {
    /// Where everyone may pull, and push.
    pub open: String,
    /// Where only [`USER`] may.
    pub closed: String,
    _processes: Processes,
    _folder: TempDir,
}

impl Registry {
    /// Starts it on an address of the calling thread's network, and waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(program: &Path, address: Ipv4Addr) -> Result<Self> {
        let (folder, processes) = (TempDir::new()?, Processes::new()?);
        let users = folder.path().join("users");
        fs::write(&users, format!("{USER}:{HASH}\n"))?;
        let [open, closed] = [5000, 5001].map(|port| format!("{address}:{port}"));
        let asks = json!({"htpasswd": {"realm": "tests", "path": users}});
        for (name, at, auth) in [("open", &open, json!({})), ("closed", &closed, asks)] {
            let config = json!({
                "version": "0.1",
                "log": {"level": "info"},
                "storage": {"filesystem": {"rootdirectory": folder.path().join("images")}},
                "http": {"addr": at},
                "auth": auth,
            });
            let file = folder.path().join(format!("{name}.yaml"));
            fs::write(&file, config.to_string())?;
            let arguments = ["serve".to_owned(), file.display().to_string()];
            let log = folder.path().join(format!("{name}.log"));
            processes.start(name, program, &arguments, &log)?;
            eventually(&format!("the {name} registry"), STARTS, || async {
                if let Some(ended) = processes.ended()? {
                    let said = fs::read_to_string(&ended.log)?;
                    anyhow::bail!("it ended ({}): {said}", ended.status);
                }
                Ok(Some(TcpStream::connect(at).await?))
            })
            .await?;
        }
        Ok(Self {
            open,
            closed,
            _processes: processes,
            _folder: folder,
        })
    }
}
