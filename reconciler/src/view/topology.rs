//! Zone and region: a marooned Node has those of the host of its VM, and none if the host has none. So every zone or
//! region that ordinary pods spread over has hosts in it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;

use crate::read::{Keep, Kind, View};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Where a host is.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Name of its Node.
    pub name: String,
    /// Its zone and region.
    pub topology: BTreeMap<String, String>,
}

impl View for Host {
    const KIND: Kind = Kind::Hosts;
    const KEEP: Keep = Keep::Fields(&[(
        "metadata",
        Keep::Fields(&[
            ("name", Keep::All),
            (
                "labels",
                Keep::Fields(&[(LABELS[0], Keep::All), (LABELS[1], Keep::All)]),
            ),
        ]),
    )]);
    type Object = Node;

    fn read(node: Node) -> Option<Self> {
        Some(Self {
            name: node.metadata.name?,
            topology: of(node.metadata.labels.as_ref()),
        })
    }
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
