//! The node image's bill of materials.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::arch::Arch;
use super::parts::Parts;
use super::programs;
use crate::apt::Package;
use crate::cargo::Workspace;
use crate::command;
use crate::sbom::{self, Part};

/// The bill of the image with this disk (CycloneDX JSON).
pub(super) fn document(
    workspace: &Workspace,
    arch: Arch,
    parts: &Parts,
    disk: &[u8],
    timestamp: Timestamp,
) -> Result<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let image = Part {
        name: "marooned-node".to_owned(),
        purl: format!("pkg:oci/marooned-node@{version}"),
        version,
    };
    let boot = sbom::document(
        &workspace.dependencies(programs::BOOT_PACKAGE, arch.rust_target())?,
        &workspace.linked()?,
        &format!("{:x}", Sha256::digest(&parts.boot)),
        timestamp,
    )?;
    let foreign = debian(&parts.packages).into_iter().chain(go(&parts.go)?);
    let sha256 = format!("{:x}", Sha256::digest(disk));
    Ok(serde_json::to_vec_pretty(&sbom::of_image(
        image,
        foreign,
        vec![boot],
        &sha256,
        timestamp,
    ))?)
}

/// Debian's packages.
fn debian(packages: &[Package]) -> Vec<Part> {
    packages
        .iter()
        .map(|package| Part {
            name: package.name.clone(),
            version: package.version.clone(),
            purl: format!(
                "pkg:deb/debian/{}@{}?arch={}",
                package.name,
                package.version.replace(':', "%3A").replace('+', "%2B"),
                package.arch
            ),
        })
        .collect()
}

/// The Go modules in programs, as the programs tell.
fn go(programs: &[PathBuf]) -> Result<Vec<Part>> {
    let told = command::run(Command::new("go").args(["version", "-m"]).args(programs))?;
    let parts = modules(&told).into_iter().map(|(name, version)| Part {
        purl: format!("pkg:golang/{name}@{}", version.replace('+', "%2B")),
        name,
        version,
    });
    Ok(parts.collect())
}

/// Modules and their versions in what `go version -m` prints; Go's own library is the module `stdlib`.
fn modules(told: &str) -> BTreeSet<(String, String)> {
    let mut modules = Vec::new();
    for line in told.lines() {
        if let Some((_, version)) = line.split_once(": go")
            && !line.starts_with('\t')
        {
            modules.push(("stdlib".to_owned(), version.to_owned()));
            continue;
        }
        let mut columns = line.trim_start().split('\t');
        let (Some(kind), Some(name), Some(version)) = (columns.next(), columns.next(), columns.next()) else {
            continue;
        };
        if kind == "=>" {
            // In place of the one before.
            modules.pop();
        }
        // Our own module of tools has no version.
        if matches!(kind, "dep" | "=>" | "mod") && version != "(devel)" {
            modules.push((name.to_owned(), version.to_owned()));
        }
    }
    modules.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_with_their_replacements() {
        let told = "/x/kubelet: go1.26.8\n\tpath\tx/kubelet\n\tmod\tx\t(devel)\t\n\tdep\tk8s.io/api\tv0.36.3\th1:a=\n\
                    \tdep\tk8s.io/old\tv1.0.0\n\t=>\tk8s.io/new\tv2.0.0\th1:b=\n\tbuild\tGOOS=linux\n";
        let pair = |(name, version): (&str, &str)| (name.to_owned(), version.to_owned());
        let expected = [
            ("k8s.io/api", "v0.36.3"),
            ("k8s.io/new", "v2.0.0"),
            ("stdlib", "1.26.8"),
        ];
        assert_eq!(modules(told), expected.map(pair).into());
    }

    #[test]
    fn an_epoch_is_escaped_in_a_package_url() {
        let package = Package {
            name: "libgmp10".to_owned(),
            version: "2:6.2.1+dfsg1".to_owned(),
            arch: "amd64".to_owned(),
            root: PathBuf::new(),
        };
        assert_eq!(
            debian(&[package])[0].purl,
            "pkg:deb/debian/libgmp10@2%3A6.2.1%2Bdfsg1?arch=amd64"
        );
    }
}
