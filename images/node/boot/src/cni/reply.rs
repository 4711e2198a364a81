//! What the plugin prints: results and failures, as the CNI specification wants them.

use std::net::Ipv4Addr;

use anyhow::Error;
use serde_json::{Value, json};

use super::request::{Attachment, VERSIONS};
use super::wires;

/// Codes of failures. Below 100 they are the specification's.
pub(super) mod code {
    pub(in crate::cni) const VERSION: u32 = 1;
    pub(in crate::cni) const ENVIRONMENT: u32 = 4;
    pub(in crate::cni) const IO: u32 = 5;
    pub(in crate::cni) const DECODE: u32 = 6;
    pub(in crate::cni) const CONFIG: u32 = 7;
    pub(in crate::cni) const TRY_LATER: u32 = 11;
    pub(in crate::cni) const NOT_READY: u32 = 50;
    pub(in crate::cni) const FAILED: u32 = 100;
    pub(in crate::cni) const REFUSED: u32 = 101;
    pub(in crate::cni) const BROKEN: u32 = 102;
}

/// Why a command failed. The runtime puts the message on the pod, where `kubectl describe` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u32,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// One that the specification has no code for.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that it can be named where a function is wanted"
    )]
    pub(super) fn of(error: Error) -> Self {
        Self::new(code::FAILED, format!("{error:#}"))
    }

    /// One that goes away by itself.
    pub(super) fn later(error: &Error) -> Self {
        Self::new(code::TRY_LATER, format!("{error:#}"))
    }

    pub(super) fn json(&self, version: &str) -> Value {
        json!({"cniVersion": version, "code": self.code, "msg": self.message})
    }
}

/// The answer to `VERSION`.
pub(super) fn versions() -> Value {
    json!({"cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS})
}

/// The answer to `ADD`. An earlier plugin's result is left out: this plugin is the first of its list.
pub(super) fn added(attachment: &Attachment, version: &str, address: Ipv4Addr) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": wires::GUEST_LINK},
            {"name": attachment.interface, "mac": wires::pod_mac(), "sandbox": attachment.namespace},
        ],
        "ips": [{"address": format!("{address}/32"), "gateway": wires::GATEWAY, "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": wires::GATEWAY}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_names_the_pods_address_and_link() {
        let attachment = Attachment {
            container: "c1".to_owned(),
            interface: "eth0".to_owned(),
            namespace: "/run/netns/x".to_owned(),
        };
        let expected: Value = serde_json::from_str(include_str!("../testdata/added.json")).unwrap();
        assert_eq!(
            added(&attachment, "1.1.0", Ipv4Addr::new(10, 244, 1, 17)),
            expected
        );
    }
}
