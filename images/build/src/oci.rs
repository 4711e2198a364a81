//! Container images without a daemon, a registry or a base: an OCI image layout in one tar file, as
//! `ctr image import`, `podman load` and `skopeo` read it.
//!
//! Reproducible: the same [`Image`] gives the same bytes. Nothing is compressed, so no compressor's version counts.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// How archives name a file's capabilities (GNU tar's `--xattrs`).
const CAPABILITY: &str = "SCHILY.xattr.security.capability";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What an image is made of: one layer and how to run it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Full reference, such as `maroonedpods-webhook:0.1.0`.
    pub name: String,
    /// Its files.
    pub files: Files,
    /// What is run: the program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Numeric `uid:gid`, so that Kubernetes can tell that it is not root.
    pub user: String,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Labels, such as `org.opencontainers.image.version`.
    pub labels: BTreeMap<String, String>,
    /// When it was made, and the modification time of every file in it.
    pub created: Timestamp,
}

/// A tree of files owned by root. Missing parent folders come by themselves, with mode 0755.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<String, File>);

#[derive(Clone, Debug)]
struct File {
    mode: u32,
    kind: Kind,
    /// Linux capabilities that the program gets, a bit for each.
    capabilities: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    File(Vec<u8>),
    Folder,
    /// A symbolic link, and where it leads.
    Link(PathBuf),
}

/// A finished image.
#[derive(Debug)]
pub struct Archive {
    /// The tar file.
    pub bytes: Vec<u8>,
    /// Digest of the manifest, `sha256:…`: what `image@digest` names.
    pub digest: String,
}

impl Files {
    /// Adds a file; `path` is absolute.
    ///
    /// # Errors
    /// The path is not absolute, not plain, or taken.
    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) -> Result<()> {
        self.add(path, File::new(mode, Kind::File(content)))
    }

    /// Adds a folder; `path` is absolute.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.add(path, File::new(mode, Kind::Folder))
    }

    /// Adds all that is in `folder` with its modes: files, folders and symbolic links.
    ///
    /// # Errors
    /// As [`Self::file`], or something cannot be read or is of another kind.
    pub fn tree(&mut self, folder: &Path) -> Result<()> {
        self.below(folder, "")
    }

    fn below(&mut self, folder: &Path, path: &str) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name
                .to_str()
                .with_context(|| format!("{} is not UTF-8", entry.path().display()))?;
            let inside = format!("{path}/{name}");
            let metadata = entry.metadata()?;
            let kind = if metadata.is_dir() {
                Kind::Folder
            } else if metadata.is_symlink() {
                Kind::Link(fs::read_link(entry.path())?)
            } else if metadata.is_file() {
                Kind::File(fs::read(entry.path())?)
            } else {
                bail!("{} is no file, folder or link", entry.path().display());
            };
            let is_folder = kind == Kind::Folder;
            self.add(&inside, File::new(metadata.permissions().mode() & 0o7777, kind))?;
            if is_folder {
                self.below(&entry.path(), &inside)?;
            }
        }
        Ok(())
    }

    /// Gives a file of the tree Linux capabilities (capabilities(7)), effective and permitted, a bit for each.
    ///
    /// # Errors
    /// There is no such file.
    pub fn capabilities(&mut self, path: &str, capabilities: u32) -> Result<()> {
        let file = self.0.get_mut(path.trim_start_matches('/'));
        let file = file.with_context(|| format!("{path} is not in the image"))?;
        file.capabilities = capabilities;
        Ok(())
    }

    fn add(&mut self, path: &str, file: File) -> Result<()> {
        let path = path
            .strip_prefix('/')
            .with_context(|| format!("{path:?} must begin with a slash"))?;
        ensure!(
            path.split('/').all(|part| !matches!(part, "" | "." | "..")),
            "/{path} has an empty, . or .. part"
        );
        for (end, _) in path.match_indices('/') {
            let parent = self.0.entry(path[..end].to_owned());
            let parent = parent.or_insert_with(|| File::new(0o755, Kind::Folder));
            ensure!(
                parent.kind == Kind::Folder,
                "/{path} is below a file, /{}",
                &path[..end]
            );
        }
        if self.0.insert(path.to_owned(), file).is_some() {
            bail!("/{path} is there already");
        }
        Ok(())
    }

    fn tar(&self, modified: u64) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        // A parent sorts before what is in it.
        for (path, file) in &self.0 {
            file.append(&mut tar, path, modified)?;
        }
        Ok(tar.into_inner()?)
    }
}

impl File {
    fn new(mode: u32, kind: Kind) -> Self {
        Self {
            mode,
            kind,
            capabilities: 0,
        }
    }

    fn append(&self, tar: &mut Builder<Vec<u8>>, path: &str, modified: u64) -> Result<()> {
        if self.capabilities != 0 {
            tar.append_pax_extensions([(CAPABILITY, file_capability(self.capabilities).as_slice())])?;
        }
        let mut header = Header::new_ustar();
        header.set_mode(self.mode);
        header.set_mtime(modified);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        let appended = match &self.kind {
            Kind::File(content) => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(u64::try_from(content.len())?);
                tar.append_data(&mut header, path, content.as_slice())
            }
            Kind::Folder => {
                header.set_entry_type(EntryType::Directory);
                tar.append_data(&mut header, path, io::empty())
            }
            Kind::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, path, target)
            }
        };
        appended.with_context(|| format!("adding {path} to the archive"))
    }
}

/// The attribute `security.capability` of Linux (`vfs_cap_data` of its second revision), effective and permitted.
fn file_capability(permitted: u32) -> [u8; 20] {
    let mut attribute = [0; 20];
    attribute[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
    attribute[4..8].copy_from_slice(&permitted.to_le_bytes());
    attribute
}

impl Image {
    /// Makes the archive, of an image for amd64 Linux.
    ///
    /// # Errors
    /// A path is too long for a tar header, or the image was created before 1970.
    pub fn archive(&self) -> Result<Archive> {
        self.archive_for("amd64")
    }

    /// [`Self::archive`], with the arguments that the program gets where a pod gives none.
    ///
    /// # Errors
    /// As for [`Self::archive`].
    pub fn archive_with(&self, arguments: &[&str]) -> Result<Archive> {
        self.archive_of("amd64", arguments)
    }

    /// [`Self::archive`] for another architecture, by Go's name of it.
    ///
    /// # Errors
    /// As for [`Self::archive`].
    pub fn archive_for(&self, architecture: &str) -> Result<Archive> {
        self.archive_of(architecture, &[])
    }

    fn archive_of(&self, architecture: &str, arguments: &[&str]) -> Result<Archive> {
        let created = u64::try_from(self.created.as_second()).context("an image made before 1970")?;
        let mut blobs = Blobs::default();
        let layer = blobs.add(LAYER, self.files.tar(created)?);
        let mut config = json!({
            "created": self.created,
            "architecture": architecture,
            "os": "linux",
            "config": {
                "User": self.user,
                "Entrypoint": self.entrypoint,
                "Env": self.env,
                "Labels": self.labels,
            },
            // Of the layer uncompressed, as it is anyway.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        if !arguments.is_empty() {
            config["config"]["Cmd"] = json!(arguments);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blobs.add(CONFIG, serde_json::to_vec(&config)?),
            "layers": [layer],
        });
        let mut manifest = blobs.add(MANIFEST, serde_json::to_vec(&manifest)?);
        let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
        // containerd names an imported image by the first, other programs by the second.
        manifest["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name,
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
        let layout = json!({"imageLayoutVersion": "1.0.0"});

        let mut tar = Builder::new(Vec::new());
        let mut add = |path: &str, content: Vec<u8>| {
            File::new(0o644, Kind::File(content)).append(&mut tar, path, created)
        };
        add("oci-layout", serde_json::to_vec(&layout)?)?;
        add("index.json", serde_json::to_vec(&index)?)?;
        for (digest, blob) in blobs.0 {
            add(&format!("blobs/sha256/{digest}"), blob)?;
        }
        Ok(Archive {
            bytes: tar.into_inner()?,
            digest,
        })
    }
}

/// Contents by their SHA-256.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Keeps the content and describes it.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = format!("{:x}", Sha256::digest(&content));
        let descriptor = json!({
            "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len(),
        });
        self.0.insert(digest, content);
        descriptor
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    type Tree = BTreeMap<String, (Header, Vec<u8>)>;

    fn image() -> Image {
        let mut files = Files::default();
        files.file("/bin/program", 0o755, b"program".to_vec()).unwrap();
        files.file("/usr/share/sbom.json", 0o644, b"{}".to_vec()).unwrap();
        files.folder("/tmp", 0o1777).unwrap();
        Image {
            name: "program:1".to_owned(),
            files,
            entrypoint: vec!["/bin/program".to_owned()],
            user: "65532:65532".to_owned(),
            env: vec!["PATH=/bin".to_owned()],
            labels: ["a", "b"].map(|key| (key.to_owned(), "label".to_owned())).into(),
            created: "2026-01-02T03:04:05Z".parse().unwrap(),
        }
    }

    fn untar(bytes: &[u8]) -> Tree {
        let mut archive = tar::Archive::new(bytes);
        let entry = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            (path, (entry.header().clone(), content))
        };
        archive.entries().unwrap().map(entry).collect()
    }

    /// The content that a descriptor names, after its size and digest are found to be true.
    fn blob<'a>(files: &'a Tree, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let digest = digest.strip_prefix("sha256:").unwrap();
        let content = &files[&format!("blobs/sha256/{digest}")].1;
        assert_eq!(digest, format!("{:x}", Sha256::digest(content)));
        assert_eq!(descriptor["size"], content.len());
        content
    }

    fn document(content: &[u8]) -> Value {
        serde_json::from_slice(content).unwrap()
    }

    #[test]
    fn every_digest_leads_to_its_content() {
        let archive = image().archive().unwrap();
        let files = untar(&archive.bytes);
        assert_eq!(
            document(&files["oci-layout"].1),
            json!({"imageLayoutVersion": "1.0.0"})
        );
        let index = document(&files["index.json"].1);
        let [manifest] = index["manifests"].as_array().unwrap().as_slice() else {
            panic!("{index}")
        };
        assert_eq!(manifest["digest"], archive.digest.as_str());
        assert_eq!(
            manifest["annotations"],
            json!({"io.containerd.image.name": "program:1", "org.opencontainers.image.ref.name": "program:1"})
        );

        let manifest = document(blob(&files, manifest));
        let [layer] = manifest["layers"].as_array().unwrap().as_slice() else {
            panic!("{manifest}")
        };
        let config = document(blob(&files, &manifest["config"]));
        assert_eq!(
            config,
            json!({
                "created": "2026-01-02T03:04:05Z",
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "User": "65532:65532",
                    "Entrypoint": ["/bin/program"],
                    "Env": ["PATH=/bin"],
                    "Labels": {"a": "label", "b": "label"},
                },
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            })
        );
        // Nothing but what the index leads to.
        assert_eq!(files.len(), 2 + 3);

        let layer = untar(blob(&files, layer));
        let modes: Vec<_> = layer
            .iter()
            .map(|(path, (header, _))| (path.trim_end_matches('/'), header.mode().unwrap()))
            .collect();
        assert_eq!(
            modes,
            [
                ("bin", 0o755),
                ("bin/program", 0o755),
                ("tmp", 0o1777),
                ("usr", 0o755),
                ("usr/share", 0o755),
                ("usr/share/sbom.json", 0o644),
            ]
        );
        assert_eq!(layer["bin/program"].1, b"program");
        for (header, _) in layer.values().chain(files.values()) {
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(header.mtime().unwrap(), 1_767_323_045);
        }
    }

    #[test]
    fn arguments_are_in_the_configuration_alone() {
        let archive = image().archive_with(&["pause"]).unwrap();
        let files = untar(&archive.bytes);
        let index = document(&files["index.json"].1);
        let manifest = document(blob(&files, &index["manifests"][0]));
        let config = document(blob(&files, &manifest["config"]));
        assert_eq!(config["config"]["Cmd"], json!(["pause"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/program"]));
        assert_ne!(archive.digest, image().archive().unwrap().digest);
    }

    #[test]
    fn the_same_image_gives_the_same_bytes() {
        let first = image().archive().unwrap();
        let second = image().archive().unwrap();
        assert_eq!(first.digest, second.digest);
        assert!(first.bytes == second.bytes);

        let mut other = image();
        other.user = "0:0".to_owned();
        assert_ne!(other.archive().unwrap().digest, first.digest);
    }

    #[test]
    fn a_folder_is_taken_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("usr/program");
        fs::create_dir(folder.path().join("usr")).unwrap();
        fs::write(&program, b"program").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("usr/program", folder.path().join("link")).unwrap();
        let mut files = Files::default();
        files.tree(folder.path()).unwrap();
        files.capabilities("/usr/program", 1 << 10).unwrap();
        assert!(files.capabilities("/usr/other", 1).is_err());

        let bytes = files.tar(0).unwrap();
        let layer = untar(&bytes);
        let (header, content) = &layer["usr/program"];
        assert_eq!(
            (header.mode().unwrap(), content.as_slice()),
            (0o750, b"program".as_slice())
        );
        assert_eq!(header.uid().unwrap(), 0);
        let (header, _) = &layer["link"];
        assert_eq!(header.entry_type(), EntryType::Symlink);
        assert_eq!(header.link_name().unwrap().unwrap(), Path::new("usr/program"));

        // cap_net_bind_service, as setcap(8) writes it.
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut attributes = archive.entries().unwrap().filter_map(|entry| {
            let mut entry = entry.unwrap();
            let extensions = entry.pax_extensions().unwrap()?;
            Some(
                extensions
                    .map(|one| one.unwrap().value_bytes().to_vec())
                    .collect::<Vec<_>>(),
            )
        });
        let expected = [[1, 0, 0, 2, 0, 4, 0, 0].as_slice(), &[0; 12]].concat();
        assert_eq!(attributes.next().unwrap(), [expected]);
        assert_eq!(attributes.next(), None);
    }

    #[test]
    fn odd_paths_are_refused() {
        let mut files = Files::default();
        files.file("/bin/program", 0o755, Vec::new()).unwrap();
        for (path, reason) in [
            ("bin/other", "must begin with a slash"),
            ("/", "empty"),
            ("/bin/", "empty"),
            ("/bin/../etc", ".."),
            ("/bin/program/x", "below a file"),
            ("/bin/program", "there already"),
        ] {
            let error = files.file(path, 0o644, Vec::new()).unwrap_err().to_string();
            assert!(error.contains(reason), "{path}: {error}");
        }
    }
}
