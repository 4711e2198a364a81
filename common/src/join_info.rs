//! The contract between the reconciler, which writes `/etc/marooned/join-info.yaml` into a VM's seed, and the
//! guest, which joins by it.
//!
//! `server_url`, `token`, `pod_uid` and `taint_key` are the original node image's fields; the rest is ours.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::api::JoinMode;
use crate::names;

/// Content of `join-info.yaml`. Unknown and missing fields are errors: a guest that guesses would join wrongly.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct JoinInfo {
    /// URL of the API server.
    pub server_url: String,
    /// The one-time bootstrap token.
    pub token: Token,
    /// UID of the pod that the node is for.
    pub pod_uid: String,
    /// Prefix of the identity taint.
    pub taint_key: String,
    /// Name of the Node, already made; the kubelet must not register itself.
    pub node_name: String,
    /// PEM certificates to verify the API server with.
    pub ca: String,
    /// What to start.
    pub mode: JoinMode,
    /// Address of the cluster's DNS Service, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_dns: Option<String>,
    /// Domain of the cluster's names. Left out where it is the usual one, so that node images older than this field still work.
    #[serde(
        default = "usual_cluster_domain",
        skip_serializing_if = "is_usual_cluster_domain"
    )]
    pub cluster_domain: String,
    /// The pod uses the guest's own network: every port of the guest is the pod's then.
    #[serde(default)]
    pub host_network: bool,
    /// What the kubelet must know.
    pub kubelet: KubeletSettings,
}

fn usual_cluster_domain() -> String {
    names::DEFAULT_CLUSTER_DOMAIN.to_owned()
}

fn is_usual_cluster_domain(domain: &str) -> bool {
    domain == names::DEFAULT_CLUSTER_DOMAIN
}

/// The kubelet's settings that follow from the VM's size and our network.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct KubeletSettings {
    /// Port that the kubelet serves on.
    pub port: u16,
    /// `systemReserved.cpu`, in thousandths of a CPU.
    pub reserved_cpu_milli: u64,
    /// `systemReserved.memory`, in MiB.
    pub reserved_memory_mi: u64,
    /// `evictionHard["memory.available"]`, in MiB.
    pub eviction_memory_mi: u64,
}

/// A bootstrap token, `<id>.<secret>`. Its `Debug` shows the id alone.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// Joins the two halves of a token.
    #[must_use]
    pub fn new(id: &str, secret: &str) -> Self {
        Self(format!("{id}.{secret}"))
    }

    /// The whole credential, for the one place that sends or stores it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.…)", self.0.split('.').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_secret() {
        let shown = format!("{:?}", Token::new("abcdef", "0123456789abcdef"));
        assert_eq!(shown, "Token(abcdef.…)");
    }

    /// The form that the API server takes as a bearer token: `<id>.<secret>`.
    #[test]
    fn a_token_is_both_halves() {
        assert_eq!(
            Token::new("abcdef", "0123456789abcdef").reveal(),
            "abcdef.0123456789abcdef"
        );
    }

    #[test]
    fn the_usual_domain_is_left_out_and_read_back() {
        let info = |cluster_domain: &str| JoinInfo {
            server_url: "https://192.0.2.1:6443".to_owned(),
            token: Token::new("abcdef", "0123456789abcdef"),
            pod_uid: "u".to_owned(),
            taint_key: "example.org".to_owned(),
            node_name: "n".to_owned(),
            ca: "pem".to_owned(),
            mode: JoinMode::Kubelet,
            cluster_dns: None,
            cluster_domain: cluster_domain.to_owned(),
            host_network: false,
            kubelet: KubeletSettings {
                port: 65250,
                reserved_cpu_milli: 500,
                reserved_memory_mi: 366,
                eviction_memory_mi: 50,
            },
        };
        for (domain, written) in [("cluster.local", None), ("corp.test", Some("corp.test"))] {
            let value = serde_json::to_value(info(domain)).unwrap();
            assert_eq!(
                value.get("cluster_domain").and_then(|text| text.as_str()),
                written
            );
            assert_eq!(serde_json::from_value::<JoinInfo>(value).unwrap(), info(domain));
        }
    }
}
