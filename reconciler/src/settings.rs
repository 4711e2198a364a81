//! A parsed `MaroonedPodsConfig`: every text in it is valid, or the error is one sentence that names the field.

use std::net::Ipv4Addr;

use jiff::SignedDuration;
use maroonedpods_common::api::{Architecture, Join, MaroonedPodsConfigSpec};
use maroonedpods_common::{PodUid, names, quantity};
use thiserror::Error;

use crate::fingerprint::fingerprint;
use crate::objects::node;
use crate::placement;
use crate::view::topology;

/// The configuration in force, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The configuration as the user wrote it.
    pub spec: MaroonedPodsConfigSpec,
    /// From a VM's creation until it runs.
    pub boot: SignedDuration,
    /// From a running VM until its Node is ready.
    pub join: SignedDuration,
    /// From the lifted gate until its kubelet has taken the pod up.
    pub start: SignedDuration,
    /// How long a finished pod keeps its VM.
    pub finished_pod_ttl: SignedDuration,
    /// Fingerprint of `spec`; a record keeps the one that it was built from.
    pub hash: String,
}

/// Why a configuration does not come into force.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// A duration that cannot be parsed, or is negative.
    #[error("spec.deadlines.{field}: {value:?} is not a duration such as 90s, 5m or 1h30m")]
    Duration {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A quantity that cannot be read.
    #[error("spec.resourceOverhead.{field}: {message}")]
    Quantity {
        /// Name of the field.
        field: &'static str,
        /// The parser's message.
        message: String,
    },
    /// A server URL that is not https: no guest could verify the server.
    #[error("spec.join.serverURL: {0:?} is not an https URL")]
    ServerUrl(String),
    /// A server that guests cannot reach: they have only an IPv4 address.
    #[error(
        "spec.join.serverURL: {0:?} is an IPv6 address, but guests have IPv4 addresses only: name one, or a host"
    )]
    Ipv6Server(String),
    /// Not an IPv4 address, so guests cannot reach the name server.
    #[error("spec.join.clusterDNS: {0:?} is not an IPv4 address such as 10.96.0.10")]
    ClusterDns(String),
    /// Not a domain name.
    #[error("spec.join.clusterDomain: {0:?} is not a DNS name such as cluster.local")]
    ClusterDomain(String),
    /// No image to boot from.
    #[error("spec.nodeImage is empty: name the container image of the node's disk")]
    NodeImage,
    /// A label of hosts and of marooned Nodes: which of its two values the Node has cannot be known.
    #[error("spec.placement.nodeLabels: {0:?} is a label of hosts: remove it there or from hostLabels")]
    Both(String),
    /// A label that a marooned Node has from elsewhere, or must not have.
    #[error(
        "spec.placement.{field}: {key:?} is a label that each marooned node has already, or must not have: remove it"
    )]
    Label {
        /// Name of the field.
        field: &'static str,
        /// The label's key.
        key: String,
    },
}

impl Settings {
    /// Parses a configuration. The CRD's CEL rules refuse most bad ones earlier; this check is the final one, and the
    /// only one for a configuration read from a file.
    ///
    /// # Errors
    /// The first field with an invalid value.
    pub fn parse(spec: MaroonedPodsConfigSpec) -> Result<Self, SettingsError> {
        if spec.node_image.is_empty() {
            return Err(SettingsError::NodeImage);
        }
        check_join(&spec.join)?;
        check_labels("hostLabels", &spec.placement.host_labels)?;
        check_labels("nodeLabels", spec.placement.node_labels.keys())?;
        let mut promised = spec.placement.node_labels.keys();
        if let Some(key) = promised.find(|key| placement::is_of_host(key, &spec.placement.host_labels)) {
            return Err(SettingsError::Both(key.clone()));
        }
        let quantity_error = |field| {
            move |error: quantity::ParseQuantityError| SettingsError::Quantity {
                field,
                message: error.to_string(),
            }
        };
        quantity::milli(&spec.resource_overhead.cpu).map_err(quantity_error("cpu"))?;
        quantity::units(&spec.resource_overhead.memory).map_err(quantity_error("memory"))?;
        Ok(Self {
            boot: duration("boot", &spec.deadlines.boot)?,
            join: duration("join", &spec.deadlines.join)?,
            start: duration("start", &spec.deadlines.start)?,
            finished_pod_ttl: duration("finishedPodTTL", &spec.deadlines.finished_pod_ttl)?,
            // Serializing plain data to a string cannot fail; an empty text would still give a usable, if odd, hash.
            hash: fingerprint(&serde_json::to_string(&spec).unwrap_or_default()),
            spec,
        })
    }
}

fn check_join(join: &Join) -> Result<(), SettingsError> {
    let Some(server) = join.server_url.strip_prefix("https://") else {
        return Err(SettingsError::ServerUrl(join.server_url.clone()));
    };
    if server.starts_with('[') {
        return Err(SettingsError::Ipv6Server(join.server_url.clone()));
    }
    if let Some(dns) = &join.cluster_dns
        && dns.parse::<Ipv4Addr>().is_err()
    {
        return Err(SettingsError::ClusterDns(dns.clone()));
    }
    if names::is_dns_subdomain(&join.cluster_domain) {
        Ok(())
    } else {
        Err(SettingsError::ClusterDomain(join.cluster_domain.clone()))
    }
}

/// Keys of labels that the reconciler writes, or that would make a Node another's domain ([`crate::objects::node::new`]).
fn check_labels<'a>(
    field: &'static str,
    keys: impl IntoIterator<Item = &'a String>,
) -> Result<(), SettingsError> {
    let any = PodUid::from("");
    let own = node::own_labels(&any, Architecture::default());
    let is_ours = |key: &str| {
        key.contains("maroonedpods.")
            || key == names::HOSTNAME_LABEL
            || own.iter().any(|(own, _)| *own == key)
    };
    let from_host = |key: &str| topology::LABELS.contains(&key) || key.contains(topology::OF_KUBEVIRT);
    match keys.into_iter().find(|key| is_ours(key) || from_host(key)) {
        None => Ok(()),
        Some(key) => Err(SettingsError::Label {
            field,
            key: key.clone(),
        }),
    }
}

fn duration(field: &'static str, value: &str) -> Result<SignedDuration, SettingsError> {
    match value.parse::<SignedDuration>() {
        Ok(parsed) if !parsed.is_negative() => Ok(parsed),
        _ => Err(SettingsError::Duration {
            field,
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn spec() -> MaroonedPodsConfigSpec {
        serde_json::from_value(json!({
            "nodeImage": "registry.example/marooned-node@sha256:0000",
            "join": {"serverURL": "https://10.96.0.1"},
        }))
        .unwrap()
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let settings = Settings::parse(spec()).unwrap();
        assert_eq!(settings.boot, SignedDuration::from_mins(5));
        assert_eq!(settings.join, SignedDuration::from_mins(5));
        assert_eq!(settings.finished_pod_ttl, SignedDuration::from_secs(60));
        assert_eq!(settings.spec.max_attempts, 3);
        assert_eq!(settings.spec.taint_key, "maroonedpods.io");
        assert_eq!(settings.spec.join.cluster_domain, "cluster.local");
        assert_eq!(settings.spec.limits.vms_per_namespace, None);
        assert_eq!(settings.spec.base_vm_resources.ephemeral_storage_mi, 10_240);
        assert_eq!(settings.spec.resource_overhead.ephemeral_storage_percent, 25);
    }

    #[test]
    fn each_bad_field_is_named() {
        type Edit = fn(&mut MaroonedPodsConfigSpec);
        let cases: [(Edit, &str); 13] = [
            (
                |s| {
                    s.placement
                        .host_labels
                        .push("cpu-model.node.kubevirt.io/EPYC".to_owned());
                },
                "spec.placement.hostLabels",
            ),
            (
                |s| s.placement.host_labels.push("kubernetes.io/hostname".to_owned()),
                "spec.placement.hostLabels",
            ),
            (
                |s| {
                    s.placement
                        .node_labels
                        .extend([("kubernetes.io/os".to_owned(), String::new())]);
                },
                "spec.placement.nodeLabels",
            ),
            (
                |s| {
                    s.placement
                        .host_labels
                        .push("topology.kubernetes.io/zone".to_owned());
                },
                "spec.placement.hostLabels",
            ),
            (|s| s.node_image.clear(), "spec.nodeImage"),
            (
                |s| "http://x".clone_into(&mut s.join.server_url),
                "spec.join.serverURL",
            ),
            (
                |s| "https://[fd00::1]:6443".clone_into(&mut s.join.server_url),
                "spec.join.serverURL",
            ),
            (
                |s| s.join.cluster_dns = Some("fd00::a".to_owned()),
                "spec.join.clusterDNS",
            ),
            (
                |s| s.join.cluster_dns = Some("dns.example".to_owned()),
                "spec.join.clusterDNS",
            ),
            (
                |s| "corp..test".clone_into(&mut s.join.cluster_domain),
                "spec.join.clusterDomain",
            ),
            (
                |s| "soon".clone_into(&mut s.deadlines.boot),
                "spec.deadlines.boot",
            ),
            (|s| "-5s".clone_into(&mut s.deadlines.join), "spec.deadlines.join"),
            (
                |s| "many".clone_into(&mut s.resource_overhead.cpu.0),
                "spec.resourceOverhead.cpu",
            ),
        ];
        for (edit, field) in cases {
            let mut spec = spec();
            edit(&mut spec);
            let message = Settings::parse(spec).unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        }
    }

    #[test]
    fn the_hash_follows_the_content() {
        let first = Settings::parse(spec()).unwrap();
        let mut changed = spec();
        changed.max_attempts = 1;
        assert_eq!(first.hash, Settings::parse(spec()).unwrap().hash);
        assert_ne!(first.hash, Settings::parse(changed).unwrap().hash);
    }
}
