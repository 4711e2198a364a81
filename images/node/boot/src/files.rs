//! The files that a join info becomes: which, with what permissions, and how they get to a disk.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use maroonedpods_common::api::JoinMode;
use maroonedpods_common::join_info::JoinInfo;
use maroonedpods_common::names::JOIN_INFO_PATH;

use crate::{cni, k3s, kubelet, paths};

/// Readable for the superuser alone.
const PRIVATE: u32 = 0o600;
/// Readable for all.
const PUBLIC: u32 = 0o644;

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where.
    pub path: &'static str,
    /// Its permission bits.
    pub mode: u32,
    /// What is in it.
    pub content: String,
}

impl File {
    fn private(path: &'static str, content: String) -> Self {
        Self {
            path,
            mode: PRIVATE,
            content,
        }
    }
}

/// What a node of this join info needs before its kubelet, or its k3s agent, starts.
pub fn to_join(info: &JoinInfo) -> Result<Vec<File>> {
    match info.mode {
        JoinMode::Kubelet => Ok(vec![
            File::private(paths::CA, info.ca.clone()),
            File::private(paths::BOOTSTRAP_KUBECONFIG, kubelet::bootstrap_kubeconfig(info)?),
            File::private(paths::KUBELET_CONFIG, kubelet::configuration(info)?),
            File::private(paths::KUBELET_ENVIRONMENT, kubelet::environment(info)),
            File::private(paths::CNI_CONFIG, cni_config(info)),
            File {
                path: paths::RESOLV_CONF,
                mode: PUBLIC,
                content: kubelet::resolv_conf(info),
            },
        ]),
        JoinMode::K3s => Ok(vec![File::private(
            paths::K3S_CONFIG,
            k3s::configuration(info, k3s::Joined::NotYet)?,
        )]),
    }
}

fn cni_config(info: &JoinInfo) -> String {
    format!(
        "{}\n",
        cni::conflist(paths::UPLINK, info.kubelet.port, info.host_network)
    )
}

/// Writes files below a root, in place of any that are there, and makes the folders that they need.
pub fn write(root: &Path, files: &[File]) -> Result<()> {
    for file in files {
        let path = under(root, file.path);
        write_one(&path, file).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Takes the token off the disk, once the node has joined.
pub fn forget_token(root: &Path, info: &JoinInfo) -> Result<()> {
    remove(&under(root, JOIN_INFO_PATH))?;
    match info.mode {
        JoinMode::Kubelet => remove(&under(root, paths::BOOTSTRAP_KUBECONFIG)),
        JoinMode::K3s => {
            let configuration = k3s::configuration(info, k3s::Joined::Already)?;
            write(root, &[File::private(paths::K3S_CONFIG, configuration)])
        }
    }
}

/// Removes a file, which may be gone already.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn write_one(path: &Path, file: &File) -> Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    // The permissions of a file that is there are not changed by opening it: a new one takes its place.
    remove(path)?;
    let mut options = OpenOptions::new();
    let mut out = options.write(true).create_new(true).mode(PRIVATE).open(path)?;
    out.write_all(file.content.as_bytes())?;
    Ok(out.set_permissions(Permissions::from_mode(file.mode))?)
}

fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join_info;
    use crate::join_info::tests::GOOD;

    /// All files of a mode in one text, to be compared with one that a person has read.
    fn golden(yaml: &str) -> String {
        let files = to_join(&join_info::parse(yaml).unwrap()).unwrap();
        let part = |file: &File| format!("=== {} {:04o}\n{}", file.path, file.mode, file.content);
        files.iter().map(part).collect()
    }

    #[test]
    fn the_files_of_a_kubelet_are_these() {
        assert_eq!(golden(GOOD), include_str!("testdata/kubelet.golden"));
    }

    #[test]
    fn the_files_of_a_k3s_agent_are_these() {
        let yaml = GOOD.replace("mode: Kubelet", "mode: K3s");
        assert_eq!(golden(&yaml), include_str!("testdata/k3s.golden"));
    }

    #[test]
    fn without_a_cluster_dns_there_is_none_in_them() {
        let yaml = GOOD.replace("cluster_dns: 10.96.0.10\n", "");
        let files = golden(&yaml);
        assert!(
            !files.contains("10.96.0.10") && !files.contains("clusterDNS"),
            "{files}"
        );
    }

    #[test]
    fn a_file_takes_the_place_of_one_that_others_may_read() {
        let root = tempfile::tempdir().unwrap();
        let file = File::private("/a/b", "secret".into());
        let path = root.path().join("a/b");
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(&path, "longer than what follows").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();

        write(root.path(), &[file]).unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn no_file_has_the_token_once_the_node_has_joined() {
        for mode in ["Kubelet", "K3s"] {
            let yaml = GOOD.replace("mode: Kubelet", &format!("mode: {mode}"));
            let info = join_info::parse(&yaml).unwrap();
            let root = tempfile::tempdir().unwrap();
            let mut all = to_join(&info).unwrap();
            all.push(File::private(JOIN_INFO_PATH, yaml));
            write(root.path(), &all).unwrap();

            forget_token(root.path(), &info).unwrap();

            let left = all
                .iter()
                .filter_map(|file| fs::read_to_string(under(root.path(), file.path)).ok());
            let left: Vec<String> = left.collect();
            assert!(!left.is_empty());
            assert!(
                left.iter().all(|text| !text.contains(info.token.reveal())),
                "{mode}: {left:?}"
            );
        }
    }
}
