//! The files of a file system, before it is made.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use cpio::newc;

/// Files, folders and symbolic links by their paths, which begin with a slash. All are root's.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree(BTreeMap<String, Entry>);

/// What is at a path.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) mode: u32,
    pub(super) kind: Kind,
    /// Which part of the image it belongs to, for the report of sizes.
    pub(super) part: String,
}

/// Of what kind it is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A file's content.
    File(Vec<u8>),
    Folder,
    /// Where a symbolic link leads.
    Link(String),
}

impl Tree {
    /// Adds a file. Missing parent folders come by themselves, with mode 0755.
    pub(super) fn file(&mut self, part: &str, path: &str, mode: u32, content: Vec<u8>) -> Result<()> {
        self.add(part, path, mode, Kind::File(content))
    }

    /// Adds an empty folder.
    pub(super) fn folder(&mut self, part: &str, path: &str, mode: u32) -> Result<()> {
        self.add(part, path, mode, Kind::Folder)
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, part: &str, path: &str, target: &str) -> Result<()> {
        self.add(part, path, 0o777, Kind::Link(target.to_owned()))
    }

    /// Adds all that is in the folder `from`, below `path`. Modes become 0755, and 0644 of what cannot be run.
    pub(super) fn copy(&mut self, part: &str, path: &str, from: &Path) -> Result<()> {
        self.copy_all(part, path, from, false)
    }

    /// [`Self::copy`] with symbolic links and all modes as they are, for files that others made to be so.
    pub(super) fn copy_exactly(&mut self, part: &str, path: &str, from: &Path) -> Result<()> {
        self.copy_all(part, path, from, true)
    }

    fn copy_all(&mut self, part: &str, path: &str, from: &Path, exactly: bool) -> Result<()> {
        let read = || -> io::Result<Vec<_>> { fs::read_dir(from)?.collect() };
        for entry in read().with_context(|| format!("reading {}", from.display()))? {
            let (name, from) = (entry.file_name(), entry.path());
            let inside = format!("{path}/{}", name.to_str().context("a file's name is not UTF-8")?);
            let metadata = entry.metadata()?;
            let mode = metadata.permissions().mode();
            let runs = metadata.is_dir() || mode & 0o111 != 0;
            let mode = match (exactly, runs) {
                (true, _) => mode & 0o7777,
                (false, true) => 0o755,
                (false, false) => 0o644,
            };
            if metadata.is_dir() {
                self.folder(part, &inside, mode)?;
                self.copy_all(part, &inside, &from, exactly)?;
            } else if exactly && metadata.is_symlink() {
                let target = fs::read_link(&from)?;
                let target = target.to_str().context("a link's target is not UTF-8")?;
                self.link(part, &inside, target)?;
            } else {
                let nor_link = if exactly { " nor link" } else { "" };
                ensure!(
                    metadata.is_file(),
                    "{} is neither file nor folder{nor_link}",
                    from.display()
                );
                self.file(part, &inside, mode, fs::read(from)?)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, part: &str, path: &str, mode: u32, kind: Kind) -> Result<()> {
        ensure!(
            path.starts_with('/') && !path.ends_with('/') && !path.contains("//"),
            "{path:?} is not an absolute path"
        );
        for (end, _) in path.match_indices('/').skip(1) {
            let parent = self.0.entry(path[..end].to_owned()).or_insert_with(|| Entry {
                mode: 0o755,
                kind: Kind::Folder,
                part: part.to_owned(),
            });
            ensure!(
                matches!(parent.kind, Kind::Folder),
                "{path} is not below a folder"
            );
        }
        let entry = Entry {
            mode,
            kind,
            part: part.to_owned(),
        };
        if let Some(before) = self.0.insert(path.to_owned(), entry) {
            // A folder may have come by itself before.
            if !matches!((&before.kind, &self.0[path].kind), (Kind::Folder, Kind::Folder)) {
                bail!("{path} is there already");
            }
        }
        Ok(())
    }

    /// Everything, parents first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The content of a file, if there is one at this path.
    pub(super) fn content(&self, path: &str) -> Option<&[u8]> {
        match &self.0.get(path)?.kind {
            Kind::File(content) => Some(content),
            Kind::Folder | Kind::Link(_) => None,
        }
    }

    /// All files and their contents.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &Entry, &[u8])> {
        self.iter().filter_map(|(path, entry)| match &entry.kind {
            Kind::File(content) => Some((path, entry, content.as_slice())),
            Kind::Folder | Kind::Link(_) => None,
        })
    }

    /// Writes everything into an empty folder.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        for (path, entry) in self.iter() {
            let target = folder.join(path.trim_start_matches('/'));
            let written = match &entry.kind {
                Kind::File(content) => fs::write(&target, content),
                Kind::Folder => fs::create_dir(&target),
                Kind::Link(to) => symlink(to, &target),
            };
            written.with_context(|| format!("writing {}", target.display()))?;
            if !matches!(entry.kind, Kind::Link(_)) {
                fs::set_permissions(&target, Permissions::from_mode(entry.mode))?;
            }
        }
        Ok(())
    }

    /// An archive as the kernel unpacks it for an initrd (cpio, "newc"); `modified` is every file's time, in seconds
    /// since 1970.
    pub(super) fn cpio(&self, modified: u32) -> Result<Vec<u8>> {
        const TYPES: [u32; 3] = [0o100_000, 0o040_000, 0o120_000];
        let mut archive = Vec::new();
        for (number, (path, entry)) in (1..).zip(self.iter()) {
            let [file, folder, link] = TYPES;
            let (kind, content) = match &entry.kind {
                Kind::File(content) => (file, content.as_slice()),
                Kind::Folder => (folder, [].as_slice()),
                Kind::Link(to) => (link, to.as_bytes()),
            };
            let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large"))?;
            let mut writer = newc::Builder::new(path.trim_start_matches('/'))
                .ino(number)
                .mode(kind | entry.mode)
                .mtime(modified)
                .write(&mut archive, size);
            writer.write_all(content)?;
            writer.finish()?;
        }
        newc::trailer(&mut archive)?;
        Ok(archive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.file("a", "/usr/bin/program", 0o755, b"program".to_vec())
            .unwrap();
        tree.folder("b", "/tmp", 0o1777).unwrap();
        tree.link("a", "/init", "usr/bin/program").unwrap();
        tree
    }

    #[test]
    fn parents_come_by_themselves_and_first() {
        let paths: Vec<_> = tree().iter().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(paths, ["/init", "/tmp", "/usr", "/usr/bin", "/usr/bin/program"]);
    }

    #[test]
    fn a_path_is_taken_once() {
        let mut tree = tree();
        assert!(tree.file("a", "/usr/bin/program", 0o755, Vec::new()).is_err());
        assert!(tree.file("a", "/tmp", 0o755, Vec::new()).is_err());
        assert!(tree.file("a", "/usr/bin/program/x", 0o755, Vec::new()).is_err());
        assert!(tree.file("a", "relative", 0o755, Vec::new()).is_err());
        tree.folder("b", "/usr", 0o700).unwrap();
        assert_eq!(tree.0["/usr"].mode, 0o700);
    }

    #[test]
    fn a_tree_survives_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        tree().write(folder.path()).unwrap();
        let link = fs::read_link(folder.path().join("init")).unwrap();
        assert_eq!(link, Path::new("usr/bin/program"));
        fs::remove_file(folder.path().join("init")).unwrap();
        let mut copy = Tree::default();
        copy.copy("a", "/copy", folder.path()).unwrap();
        assert_eq!(copy.content("/copy/usr/bin/program"), Some(b"program".as_slice()));
        assert_eq!(copy.0["/copy/usr/bin/program"].mode, 0o755);
    }

    #[test]
    fn an_exact_copy_has_links_and_modes() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = tree();
        tree.file("a", "/usr/bin/su", 0o4755, Vec::new()).unwrap();
        tree.write(folder.path()).unwrap();
        let mut copy = Tree::default();
        copy.copy_exactly("a", "/copy", folder.path()).unwrap();
        let mode = |path: &str| copy.0[path].mode;
        assert_eq!((mode("/copy/tmp"), mode("/copy/usr/bin/su")), (0o1777, 0o4755));
        assert!(matches!(&copy.0["/copy/init"].kind, Kind::Link(to) if to == "usr/bin/program"));
        assert_eq!(copy.content("/copy/usr/bin/program"), Some(b"program".as_slice()));
    }

    #[test]
    fn an_archive_holds_every_file_with_its_type_and_mode() {
        let archive = tree().cpio(7).unwrap();
        let mut rest = archive.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry();
            assert_eq!((entry.uid(), entry.mtime()), (0, 7));
            let (name, mode) = (entry.name().to_owned(), entry.mode());
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            seen.push((name, mode, content));
            rest = reader.finish().unwrap();
        }
        let of = |name: &str| seen.iter().find(|(path, ..)| path == name).unwrap().clone();
        assert_eq!(of("usr/bin/program").1, 0o100_755);
        assert_eq!(of("usr/bin/program").2, b"program");
        assert_eq!(of("tmp").1, 0o041_777);
        assert_eq!(of("init").2, b"usr/bin/program");
    }
}
