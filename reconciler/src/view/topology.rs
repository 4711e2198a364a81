//! Labels of hosts: a marooned Node has zone and region of the host of its VM, and none if the host has none. So every zone
//! or region that ordinary pods spread over has hosts in it. Of the host's other labels it has those that its pod selects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;

use super::Packed;
use crate::read::{Keep, Kind, View};

/// Label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Labels that each marooned Node has as its VM's host has them.
pub const LABELS: [&str; 2] = [ZONE, "topology.kubernetes.io/region"];

/// Where a host is.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Name of its Node.
    pub name: String,
    /// Its zone and region.
    pub topology: BTreeMap<String, String>,
    /// Its labels without KubeVirt's; `None` if there are too many to keep.
    pub labels: Option<Packed<BTreeMap<String, String>>>,
}

/// The most bytes that a host's labels may take, [`Packed`].
const MOST_LABELS: usize = 16 << 10;
/// In the keys of the labels that KubeVirt puts on its hosts: one for each feature of their processors, and more than all others.
pub const OF_KUBEVIRT: &str = ".kubevirt.io/";

impl Host {
    /// Zone and region of the host, and its labels with these keys.
    #[must_use]
    pub fn topology_and(&self, more: &[String]) -> BTreeMap<String, String> {
        with(&self.topology, self.labels.as_ref(), more)
    }
}

impl View for Host {
    const KIND: Kind = Kind::Hosts;
    const KEEP: Keep = Keep::Fields(&[(
        "metadata",
        Keep::Fields(&[("name", Keep::All), ("labels", Keep::All)]),
    )]);
    type Object = Node;

    fn read(node: Node) -> Option<Self> {
        Some(Self {
            name: node.metadata.name?,
            topology: of(node.metadata.labels.as_ref()),
            labels: Packed::of(&others(node.metadata.labels), MOST_LABELS),
        })
    }
}

fn others(labels: Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut labels = labels.unwrap_or_default();
    labels.retain(|key, _| !key.contains(OF_KUBEVIRT));
    labels
}

/// Zone and region, and the labels with these keys.
pub(super) fn with(
    topology: &BTreeMap<String, String>,
    labels: Option<&Packed<BTreeMap<String, String>>>,
    more: &[String],
) -> BTreeMap<String, String> {
    let mut all = topology.clone();
    if !more.is_empty() {
        let labels = labels.and_then(Packed::unpacked).unwrap_or_default();
        all.extend(labels.into_iter().filter(|(key, _)| more.contains(key)));
    }
    all
}

/// The zone and region among a Node's labels.
#[must_use]
pub fn of(labels: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let labels = labels.into_iter().flatten();
    labels
        .filter(|(key, _)| LABELS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The change from `from` to `to`: labels to set, and labels to remove (`None`).
#[must_use]
pub fn difference(
    from: &BTreeMap<String, String>,
    to: &BTreeMap<String, String>,
) -> BTreeMap<String, Option<String>> {
    let gone = from.keys().filter(|key| !to.contains_key(*key));
    let set = to.iter().filter(|(key, value)| from.get(*key) != Some(value));
    set.map(|(key, value)| (key.clone(), Some(value.clone())))
        .chain(gone.map(|key| (key.clone(), None)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn only_zone_and_region_are_taken_over() {
        let host = labels(&[
            ("topology.kubernetes.io/zone", "a"),
            ("topology.kubernetes.io/region", "r"),
            ("kubernetes.io/hostname", "host-1"),
            ("disk", "fast"),
        ]);
        assert_eq!(of(Some(&host)).len(), 2);
        assert!(of(None).is_empty());
        let packed = Packed::of(&host, 1 << 10);
        let with = |more: &[String]| with(&of(Some(&host)), packed.as_ref(), more);
        assert_eq!(with(&[]), of(Some(&host)));
        assert_eq!(with(&["disk".to_owned(), "none".to_owned()])["disk"], "fast");
        assert_eq!(with(&["disk".to_owned()]).len(), 3);
    }

    /// Hosts with KubeVirt had some 150 of its labels.
    #[test]
    fn kubevirts_labels_leave_room_for_others() {
        let features = (0..1_000).map(|n| {
            (
                format!("cpu-feature.node.kubevirt.io/feature-{n}"),
                "true".to_owned(),
            )
        });
        let all = features.chain(labels(&[("disk", "fast")])).collect();
        let node = Node {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some("host-1".to_owned()),
                labels: Some(all),
                ..Default::default()
            },
            ..Node::default()
        };
        let host = Host::read(node).unwrap();
        assert_eq!(
            host.topology_and(&["disk".to_owned()]),
            labels(&[("disk", "fast")])
        );
    }

    #[test]
    fn labels_that_the_host_lost_are_removed() {
        let before = labels(&[("zone", "a"), ("region", "r")]);
        let after = labels(&[("zone", "b")]);
        let difference = difference(&before, &after);
        assert_eq!(difference["zone"].as_deref(), Some("b"));
        assert_eq!(difference["region"], None);
        assert!(super::difference(&after, &after).is_empty());
    }
}
