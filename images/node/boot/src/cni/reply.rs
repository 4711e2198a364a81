//! The results that the plugin prints, as the CNI specification wants them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::request::{Attachment, VERSIONS};
use super::veth;

/// The answer to `VERSION`.
pub(super) fn versions() -> Value {
    json!({"cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS})
}

/// The answer to `ADD`. An earlier plugin's result is left out: this plugin is the first of its list.
pub(super) fn added(attachment: &Attachment, version: &str, address: Ipv4Addr) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": veth::GUEST_LINK},
            {"name": attachment.interface, "mac": veth::pod_mac(), "sandbox": attachment.namespace},
        ],
        "ips": [{"address": format!("{address}/32"), "gateway": veth::GATEWAY, "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": veth::GATEWAY}],
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
