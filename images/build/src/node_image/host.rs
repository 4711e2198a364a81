//! Programs that run here to make an image, from Debian packages of this machine's architecture that are unpacked and not
//! installed: each is run by the loader and with the libraries of these packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::arch::Arch;
use crate::apt::Package;

/// The programs.
pub(super) struct Host {
    packages: Vec<Package>,
    arch: Arch,
}

impl Host {
    /// Those of `packages`, which are of this machine's architecture and bring all libraries along.
    pub(super) fn new(packages: Vec<Package>) -> Result<Self> {
        Ok(Self {
            packages,
            arch: Arch::of_this_machine()?,
        })
    }

    /// A command that runs the program `name`. Nothing of it is inherited but the working folder.
    pub(super) fn command(&self, name: &str) -> Result<Command> {
        self.command_as(name, name)
    }

    /// As [`Self::command`], for a program that is several: `called` says which.
    pub(super) fn command_as(&self, name: &str, called: &str) -> Result<Command> {
        let multiarch = self.arch.multiarch();
        // Debian moves them from the one to the other.
        let program = self.find(&[format!("usr/bin/{name}"), format!("bin/{name}")])?;
        let libraries: Vec<_> = self
            .packages
            .iter()
            .flat_map(|package| ["lib", "usr/lib"].map(|lib| package.root.join(lib).join(multiarch)))
            .filter(|folder| folder.is_dir())
            .map(|folder| folder.display().to_string())
            .collect();
        let loader = library(&self.packages, self.arch, self.arch.loader())
            .context("no package brings the loader of programs")?;
        let mut command = Command::new(loader);
        command
            .arg("--library-path")
            .arg(libraries.join(":"))
            .args(["--argv0", called])
            .arg(program)
            .env_clear()
            .stdin(Stdio::null());
        Ok(command)
    }

    fn find(&self, paths: &[String; 2]) -> Result<PathBuf> {
        self.packages
            .iter()
            .flat_map(|package| paths.iter().map(|path| package.root.join(path)))
            .find(|path| fs::metadata(path).is_ok())
            .with_context(|| format!("no package brings {}", paths[0]))
    }
}

/// Where a shared library is among unpacked packages, with symbolic links followed.
pub(super) fn library(packages: &[Package], arch: Arch, name: &str) -> Option<PathBuf> {
    packages
        .iter()
        .flat_map(|package| {
            ["lib", "usr/lib"].map(|lib| package.root.join(lib).join(arch.multiarch()).join(name))
        })
        .find(|path| path.is_file())
}

/// The unpacked file `path` of a package.
pub(super) fn file(package: &Package, path: &str) -> Result<Vec<u8>> {
    let path: &Path = &package.root.join(path);
    fs::read(path).with_context(|| format!("{} has no {}", package.name, path.display()))
}
