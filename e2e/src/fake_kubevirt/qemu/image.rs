//! The launcher's image: QEMU and what goes with it from this machine's packages, and our scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use maroonedpods_image_build::oci::{Files, Image};

use crate::system::packages::{self, program};

/// The image's name on the nodes.
pub(super) const LAUNCHER_IMAGE: &str = "localhost/virt-launcher:test";
/// Programs of the image, each with the Debian package that brings it.
const PROGRAMS: [(&str, &str); 5] = [
    ("busybox", "busybox-static"),
    ("genisoimage", "genisoimage"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];
const SCRIPTS: [(&str, &str); 3] = [
    ("network.sh", include_str!("network.sh")),
    ("disks.sh", include_str!("disks.sh")),
    ("run.sh", include_str!("run.sh")),
];
/// QEMU's emulation is a module of its own on Debian, built in elsewhere.
const TCG_MODULE: &str = "/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so";
/// Where firmware is, and where QEMU of the image looks for it.
const FIRMWARE_FOLDERS: [&str; 2] = ["/usr/share/seabios", "/usr/share/qemu"];
/// The BIOS, and what loads a kernel from it.
const FIRMWARE: [&str; 3] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"];

/// Writes the launcher's image into `folder`, as an OCI archive for [`crate::cluster::Cluster::import`]. Installs
/// what it is made from with apt-get where that is to be had, so call it outside of a cluster's network. Blocks.
///
/// # Errors
/// A program or a firmware file is missing; the error names its package.
pub fn launcher_image(folder: &Path) -> Result<PathBuf> {
    provide_launcher()?;
    let image = Image {
        name: LAUNCHER_IMAGE.to_owned(),
        files: files()?,
        entrypoint: vec!["/launcher/run.sh".to_owned()],
        user: "107:107".to_owned(),
        env: vec!["PATH=/usr/bin:/bin".to_owned()],
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    let path = folder.join("virt-launcher.tar");
    fs::write(&path, image.archive()?.bytes)?;
    Ok(path)
}

/// Installs what the launcher is made from, with apt-get. Blocks.
///
/// # Errors
/// Something is missing, and cannot be installed.
pub fn provide_launcher() -> Result<()> {
    packages::provide("the launchers of real guests", || {
        let missing = PROGRAMS.iter().filter(|(name, _)| program(name).is_none());
        missing.map(|(_, package)| *package).collect()
    })
}

fn files() -> Result<Files> {
    let mut files = Files::default();
    let mut libraries = BTreeSet::new();
    for (name, package) in PROGRAMS {
        let path = program(name).with_context(|| format!("{name} is missing: install {package}"))?;
        libraries.extend(libraries_of(&path)?);
        let folder = if name == "busybox" { "/bin" } else { "/usr/bin" };
        files.file(&format!("{folder}/{name}"), 0o755, fs::read(path)?)?;
    }
    let module = Path::new(TCG_MODULE);
    if module.exists() {
        libraries.extend(libraries_of(module)?);
        files.file(TCG_MODULE, 0o644, fs::read(module)?)?;
    }
    for library in libraries {
        let content = fs::read(&library).with_context(|| format!("reading {library}"))?;
        files.file(&library, 0o755, content)?;
    }
    for name in FIRMWARE {
        let found = FIRMWARE_FOLDERS.map(|folder| Path::new(folder).join(name));
        let path = found.iter().find(|path| path.exists());
        let path =
            path.with_context(|| format!("{name} is missing: install seabios and qemu-system-data"))?;
        files.file(&format!("/usr/share/qemu/{name}"), 0o644, fs::read(path)?)?;
    }
    for (name, text) in SCRIPTS {
        files.file(&format!("/launcher/{name}"), 0o755, text.as_bytes().to_vec())?;
    }
    Ok(files)
}

/// Paths of the shared libraries that the loader gives to a program, itself among them; none for a static one.
fn libraries_of(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .context("starting ldd")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        !text.contains("not found"),
        "{} lacks libraries:\n{text}",
        program.display()
    );
    Ok(paths(&text))
}

/// The absolute paths in ldd's output: `name => path (address)`, or `path (address)` for the loader.
fn paths(ldd: &str) -> Vec<String> {
    let word = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(str::to_owned)
    };
    ldd.lines().filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_by_their_paths() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f)\n\tlibz.so.1 => /lib/libz.so.1 (0x00007f)\n\t/lib64/ld.so.2 (0x00007f)\n";
        assert_eq!(paths(ldd), ["/lib/libz.so.1", "/lib64/ld.so.2"]);
        assert!(paths("\tnot a dynamic executable\n").is_empty());
    }
}
