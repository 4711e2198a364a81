//! What cloud-init does with a `NoCloud` seed, as far as a node image needs it: files.

use anyhow::{Context, Result, ensure};
use maroonedpods_common::join_info::JoinInfo;
use maroonedpods_common::names::JOIN_INFO_PATH;
use serde::Deserialize;

#[derive(Deserialize)]
struct CloudConfig {
    write_files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    path: String,
    content: String,
    permissions: String,
}

/// The join info in a seed's user data, read as strictly as the guest's boot program must.
pub(super) fn join_info(user_data: &str) -> Result<JoinInfo> {
    let yaml = user_data
        .strip_prefix("#cloud-config\n")
        .context("user data is not a #cloud-config")?;
    let config: CloudConfig = serde_yaml_ng::from_str(yaml).context("user data is not a cloud-config")?;
    let file = config
        .write_files
        .into_iter()
        .find(|file| file.path == JOIN_INFO_PATH);
    let file = file.with_context(|| format!("user data writes no {JOIN_INFO_PATH}"))?;
    ensure!(
        file.permissions == "0600",
        "{JOIN_INFO_PATH} holds a token and is readable for others"
    );
    serde_yaml_ng::from_str(&file.content).with_context(|| format!("{JOIN_INFO_PATH} cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#cloud-config\nwrite_files:\n- path: /etc/marooned/join-info.yaml\n  permissions: '0600'\n  \
        content: |\n    server_url: https://192.0.2.1\n    token: abcdef.0123456789abcdef\n    pod_uid: u\n    \
        taint_key: maroonedpods.io\n    node_name: marooned-u\n    ca: c\n    mode: Kubelet\n    kubelet: \
        {port: 1, reserved_cpu_milli: 2, reserved_memory_mi: 3, eviction_memory_mi: 4}\n";

    #[test]
    fn a_seed_is_read_strictly() {
        assert_eq!(join_info(GOOD).unwrap().node_name, "marooned-u");
        let error = join_info(&GOOD.replace("taint_key", "taintKey")).unwrap_err();
        assert!(
            format!("{error:#}").contains("unknown field `taintKey`"),
            "{error:#}"
        );
    }

    #[test]
    fn what_is_no_seed_is_refused_with_a_reason() {
        for (user_data, reason) in [
            ("hello", "not a #cloud-config"),
            ("#cloud-config\nwrite_files: []\n", "writes no"),
            (
                "#cloud-config\nwrite_files: [{path: /etc/marooned/join-info.yaml, permissions: '0644', content: ''}]\n",
                "readable for others",
            ),
        ] {
            let error = join_info(user_data).unwrap_err();
            assert!(format!("{error:#}").contains(reason), "{error:#}");
        }
    }
}
