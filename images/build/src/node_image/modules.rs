//! Which kernel modules the image holds, and in what order they are loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lzma_rust2::XzReader;

use super::elf;

/// Where modules are in the guest, in a folder named after the kernel's release.
pub(super) const FOLDER: &str = "/lib/modules";
/// Which of them the boot program loads: paths below [`FOLDER`], in order, a line each.
pub(super) const ORDER: &str = "/lib/modules/order";
/// The part of the image that they are, for the report of sizes.
pub(super) const PART: &str = "kernel modules";

/// Where a module is loaded from, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The initrd: what it takes to mount the root file system.
    Initrd,
    /// The root file system, by the boot program.
    Root,
    /// The root file system, by the kernel (through modprobe) or a pod, when something needs it.
    Demand,
}

/// What `images/node/modules` lists for a stage, in its order: names of modules, and folders of them, which end with a slash.
///
/// # Errors
/// A line has not the three columns: stage, module, reason.
pub(super) fn listed(text: &str, stage: Stage) -> Result<Vec<&str>> {
    let mut names = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut words = line.split_whitespace();
        let (Some(of), Some(name), Some(_reason)) = (words.next(), words.next(), words.next()) else {
            bail!("{line:?} should be a stage, a module and the reason");
        };
        let of = match of {
            "initrd" => Stage::Initrd,
            "root" => Stage::Root,
            "demand" => Stage::Demand,
            other => bail!("{line:?} should begin with initrd, root or demand, not {other}"),
        };
        if of == stage {
            names.push(name);
        }
    }
    Ok(names)
}

/// The modules of one kernel.
pub(super) struct Modules {
    folder: PathBuf,
    files: BTreeMap<String, PathBuf>,
    /// What this kernel has built in: other architectures' have other things as modules.
    built_in: BTreeSet<String>,
}

impl Modules {
    /// Finds them below the folder of a kernel package that has one folder, named after the kernel's release.
    pub(super) fn find(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut built_in = BTreeSet::new();
        let mut unread = vec![folder.to_owned()];
        while let Some(folder) = unread.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    unread.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                } else if entry.file_name() == "modules.builtin" {
                    built_in.extend(
                        fs::read_to_string(path)?
                            .lines()
                            .filter_map(|line| module_name(line.as_ref())),
                    );
                }
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            files,
            built_in,
        })
    }

    /// The path of a file below the folder of modules, as the guest has it: modules are not compressed there.
    pub(super) fn path_in_guest(&self, file: &Path) -> Result<String> {
        let path = file.strip_prefix(&self.folder)?.to_str();
        let path = path.context("a module's path is not UTF-8")?;
        Ok(path.strip_suffix(".xz").unwrap_or(path).to_owned())
    }

    /// What depmod(8) reads besides modules: what is built in, and which of two modules for one thing comes first.
    pub(super) fn lists(&self) -> Result<Vec<PathBuf>> {
        let names = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];
        let releases: io::Result<Vec<_>> = fs::read_dir(&self.folder)?.collect();
        let releases = releases.with_context(|| format!("reading {}", self.folder.display()))?;
        Ok(releases
            .iter()
            .flat_map(|release| names.map(|name| release.path().join(name)))
            .collect())
    }

    /// The names of the modules that a list names: each itself, or all in a folder of the kernel's.
    ///
    /// # Errors
    /// There is nothing in a folder.
    pub(super) fn named<'a>(&'a self, listed: &[&'a str]) -> Result<Vec<&'a str>> {
        let mut names = Vec::new();
        for entry in listed {
            if !entry.ends_with('/') {
                names.push(*entry);
                continue;
            }
            let before = names.len();
            for (name, file) in &self.files {
                let path = self.path_in_guest(file)?;
                let below = path.split_once("/kernel/").map(|(_release, path)| path);
                if below.is_some_and(|path| path.starts_with(entry)) {
                    names.push(name.as_str());
                }
            }
            ensure!(
                names.len() > before,
                "the kernel package has no modules in {entry}"
            );
        }
        Ok(names)
    }

    /// The files of the named modules, as far as they are not built in, and of all that they depend on, each after
    /// what it depends on.
    pub(super) fn closure(&self, names: &[&str]) -> Result<Vec<&Path>> {
        let names: Vec<_> = names
            .iter()
            .copied()
            .filter(|&name| !self.built_in.contains(name))
            .collect();
        let order = order(&names, &|name| {
            let path = self.path(name)?;
            let content = content(path)?;
            let info = elf::section(&content, ".modinfo")
                .with_context(|| format!("reading {}", path.display()))?
                .unwrap_or_default();
            Ok(depends(info))
        })?;
        order.iter().map(|name| self.path(name)).collect()
    }

    fn path(&self, name: &str) -> Result<&Path> {
        let path = self.files.get(name);
        let path = path.with_context(|| format!("the kernel package has no module {name}"))?;
        Ok(path)
    }
}

/// The kernel's name of a module file: it makes no difference between `-` and `_`. Debian 13 compresses modules.
pub(super) fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// A module as the kernel loads it.
pub(super) fn content(path: &Path) -> Result<Vec<u8>> {
    let stored = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(stored);
    }
    let mut content = Vec::new();
    XzReader::new(stored.as_slice(), true)
        .read_to_end(&mut content)
        .with_context(|| format!("decompressing {}", path.display()))?;
    Ok(content)
}

/// What a module depends on, as its section `.modinfo` says.
pub(super) fn depends(modinfo: &[u8]) -> Vec<String> {
    let fields = modinfo.split(|&byte| byte == 0);
    fields
        .filter_map(|field| str::from_utf8(field).ok()?.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// Depth first: what a module depends on stands before it, and nothing twice.
fn order(names: &[&str], depends: &impl Fn(&str) -> Result<Vec<String>>) -> Result<Vec<String>> {
    fn visit(
        name: &str,
        depends: &impl Fn(&str) -> Result<Vec<String>>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        if !order.iter().any(|before| before == name) {
            for needed in depends(name)? {
                visit(&needed, depends, order)?;
            }
            order.push(name.to_owned());
        }
        Ok(())
    }
    let mut order = Vec::new();
    for name in names {
        visit(name, depends, &mut order)?;
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# why\n\ninitrd virtio_blk the disks\nroot veth the link\nroot overlay snapshots\n\
                        demand net/sctp/ pods that speak it\n";

    #[test]
    fn the_list_is_by_stage_and_in_order() {
        assert_eq!(listed(LIST, Stage::Initrd).unwrap(), ["virtio_blk"]);
        assert_eq!(listed(LIST, Stage::Root).unwrap(), ["veth", "overlay"]);
        assert_eq!(listed(LIST, Stage::Demand).unwrap(), ["net/sctp/"]);
    }

    #[test]
    fn every_module_has_a_reason() {
        for line in ["root veth", "boot veth the link"] {
            assert!(listed(line, Stage::Root).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_module_comes_after_what_it_depends_on() {
        let depends = |name: &str| {
            Ok(match name {
                "virtio_net" => vec!["net_failover".to_owned(), "virtio".to_owned()],
                "net_failover" => vec!["failover".to_owned()],
                "virtio_blk" => vec!["virtio".to_owned()],
                _ => vec![],
            })
        };
        assert_eq!(
            order(&["virtio_blk", "virtio_net", "failover"], &depends).unwrap(),
            ["virtio", "virtio_blk", "failover", "net_failover", "virtio_net"]
        );
    }

    #[test]
    fn a_folder_stands_for_all_modules_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("6.1.0-amd64/kernel/net");
        fs::create_dir_all(modules.join("sctp")).unwrap();
        for file in ["sctp/sctp.ko", "sctp/sctp_diag.ko.xz", "tls.ko"] {
            fs::write(modules.join(file), "").unwrap();
        }
        let found = Modules::find(folder.path()).unwrap();
        assert_eq!(
            found.named(&["tls", "net/sctp/"]).unwrap(),
            ["tls", "sctp", "sctp_diag"]
        );
        assert_eq!(
            found
                .path_in_guest(&modules.join("sctp/sctp_diag.ko.xz"))
                .unwrap(),
            "6.1.0-amd64/kernel/net/sctp/sctp_diag.ko"
        );
        let error = found.named(&["net/dccp/"]).unwrap_err().to_string();
        assert!(error.contains("no modules in net/dccp/"), "{error}");
    }

    #[test]
    fn what_is_built_in_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("modules.builtin"),
            "kernel/drivers/acpi/button.ko\n",
        )
        .unwrap();
        let modules = Modules::find(folder.path()).unwrap();
        assert!(modules.closure(&["button"]).unwrap().is_empty());
        let error = modules.closure(&["evdev"]).unwrap_err().to_string();
        assert!(error.contains("no module evdev"), "{error}");
    }

    #[test]
    fn compressed_modules_are_decompressed() {
        const MODULE: &[u8] = b"a kernel module";
        // By `xz --check=crc32`, as kernel packages have them.
        const COMPRESSED: [u8; 68] = [
            0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x00, 0x21, 0x01,
            0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x0e, 0x61, 0x20, 0x6b, 0x65, 0x72,
            0x6e, 0x65, 0x6c, 0x20, 0x6d, 0x6f, 0x64, 0x75, 0x6c, 0x65, 0x00, 0x00, 0x28, 0x8b, 0x32, 0x32,
            0x00, 0x01, 0x23, 0x0f, 0xdb, 0xdf, 0x90, 0x0e, 0x90, 0x42, 0x99, 0x0d, 0x01, 0x00, 0x00, 0x00,
            0x00, 0x01, 0x59, 0x5a,
        ];
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        assert_eq!(content(&write("a.ko", MODULE)).unwrap(), MODULE);
        let compressed = write("b-c.ko.xz", &COMPRESSED);
        assert_eq!(content(&compressed).unwrap(), MODULE);
        assert_eq!(module_name(&compressed).as_deref(), Some("b_c"));
        assert!(content(&write("broken.ko.xz", &COMPRESSED[..40])).is_err());
    }

    #[test]
    fn dependencies_are_read_as_the_kernel_writes_them() {
        let info = b"license=GPL\0depends=nf-conntrack,nf_tables\0name=nft_ct\0";
        assert_eq!(depends(info), ["nf_conntrack", "nf_tables"]);
        assert_eq!(depends(b"depends=\0"), Vec::<String>::new());
        assert_eq!(
            module_name(Path::new("/x/virtio-rng.ko")).as_deref(),
            Some("virtio_rng")
        );
        assert_eq!(module_name(Path::new("/x/modules.order")), None);
    }
}
