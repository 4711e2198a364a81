//! File systems of Debian's packages, for images and for containers of tests. apt fetches packages and installs none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use maroonedpods_image_build::apt::Apt;
use maroonedpods_image_build::command::run;

/// What decides, besides the packages, what comes of them: part of the recipe of whatever is kept.
pub(crate) const RECIPE: &str = include_str!("debian.rs");
/// What no container needs of a package.
const LEFT_OUT: [&str; 7] = [
    "./usr/share/bash-completion",
    "./usr/share/doc",
    "./usr/share/info",
    "./usr/share/lintian",
    "./usr/share/locale",
    "./usr/share/man",
    "./usr/lib/systemd",
];

/// Makes the folders of an empty file system that Debian's packages are unpacked into: all of them below `/usr`.
///
/// # Errors
/// One cannot be made.
pub fn lay_out(root: &Path) -> Result<()> {
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(folder))?;
        symlink(format!("usr/{folder}"), root.join(folder))?;
    }
    Ok(())
}

/// Unpacks packages and what they depend on below `root`, but for documentation and `left_out` (paths that begin with `./`).
/// No script of theirs runs. Blocks.
///
/// # Errors
/// apt cannot fetch them, or tar fails.
pub fn unpack(apt: &Apt, packages: &[&str], left_out: &[&str], root: &Path) -> Result<()> {
    for package in apt.with_dependencies(packages)? {
        unpack_one(&package.root, left_out, root).with_context(|| format!("unpacking {}", package.name))?;
    }
    Ok(())
}

/// Writes the loader's cache. Needs root. Blocks.
///
/// # Errors
/// The packages do not bring ldconfig (Debian: libc-bin), or it fails.
pub fn find_libraries(root: &Path) -> Result<()> {
    run(Command::new("chroot").arg(root).arg("/sbin/ldconfig")).map(drop)
}

fn unpack_one(package: &Path, left_out: &[&str], root: &Path) -> Result<()> {
    let mut packed = Command::new("tar")
        .args(["--create", "--directory"])
        .arg(package)
        .args(
            LEFT_OUT
                .iter()
                .chain(left_out)
                .map(|path| format!("--exclude={path}")),
        )
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .context("starting tar")?;
    let from = packed.stdout.take().context("tar has no output")?;
    let unpacked = Command::new("tar")
        .args([
            "--extract",
            "--keep-directory-symlink",
            "--no-same-owner",
            "--directory",
        ])
        .arg(root)
        .stdin(from)
        .status()?;
    ensure!(packed.wait()?.success() && unpacked.success(), "tar failed");
    Ok(())
}
