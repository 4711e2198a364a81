//! The configuration of a k3s agent.

use std::fmt::Write;

use anyhow::{Result, ensure};
use maroonedpods_common::join_info::JoinInfo;
use maroonedpods_common::names;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Whether the agent has its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The agent has it, and needs the token no more.
    Already,
    /// The agent needs the token to ask for it.
    NotYet,
}

/// The agent's configuration.
///
/// # Errors
/// The join info has several certificates: of such a bundle k3s takes one, and we cannot say which.
pub fn configuration(info: &JoinInfo, joined: Joined) -> Result<String> {
    let settings = &info.kubelet;
    let identity = names::identity_taint(&info.taint_key);
    let mut configuration = json!({
        "server": info.server_url,
        "node-name": info.node_name,
        "node-label": [format!("{}={}", names::POD_UID_LABEL, info.pod_uid)],
        "node-taint": [format!("{identity}={}:NoSchedule", info.pod_uid)],
        "kubelet-arg": [
            // The Node is there already, with this label and this taint, made by the reconciler.
            "register-node=false".to_owned(),
            format!("port={}", settings.port),
            format!(
                "system-reserved=cpu={}m,memory={}Mi",
                settings.reserved_cpu_milli, settings.reserved_memory_mi
            ),
            format!(
                "eviction-hard=memory.available<{}Mi,nodefs.available<5%,imagefs.available<5%",
                settings.eviction_memory_mi
            ),
        ],
    });
    if joined == Joined::NotYet {
        configuration["token"] = json!(token(info)?);
    }
    Ok(serde_yaml_ng::to_string(&configuration)?)
}

/// k3s' secure form of a token. It names the server's certificate: with the short form, an agent believes any server.
fn token(info: &JoinInfo) -> Result<String> {
    let certificates = pem::parse_many(&info.ca)?;
    ensure!(
        certificates.len() == 1,
        "join-info.yaml cannot be used: ca has {} certificates, but mode K3s needs one, the server's own CA",
        certificates.len()
    );
    let mut token = "K10".to_owned();
    for byte in Sha256::digest(&info.ca) {
        write!(token, "{byte:02x}")?;
    }
    write!(token, "::{}", info.token.reveal())?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join_info;
    use crate::join_info::tests::GOOD;

    #[test]
    fn an_agent_that_has_joined_keeps_no_token() {
        let info = join_info::parse(GOOD).unwrap();
        let joining = configuration(&info, Joined::NotYet).unwrap();
        let joined = configuration(&info, Joined::Already).unwrap();
        assert!(joining.contains(info.token.reveal()));
        assert!(
            !joined.contains("token") && !joined.contains(info.token.reveal()),
            "{joined}"
        );
    }

    #[test]
    fn a_bundle_of_certificates_is_refused() {
        let mut info = join_info::parse(GOOD).unwrap();
        info.ca = info.ca.repeat(2);
        let error = configuration(&info, Joined::NotYet).unwrap_err();
        assert!(error.to_string().contains("ca has 2 certificates"), "{error}");
    }
}
