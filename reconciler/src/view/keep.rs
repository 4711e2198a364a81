//! Which parts of pods, Nodes and VMIs are read. A field that a view shows must be listed here.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::DynamicObject;
use maroonedpods_common::admission;

use super::{NodeView, PodView, VmiView};
use crate::read::{Keep, Kind, Mark, View};

/// The metadata that views read.
const METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("generateName", Keep::All),
    ("namespace", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("creationTimestamp", Keep::Time),
    ("deletionTimestamp", Keep::Deadline),
    ("deletionGracePeriodSeconds", Keep::All),
    ("finalizers", Keep::All),
    ("labels", Keep::All),
    (
        "annotations",
        Keep::Fields(&[(admission::MIRROR_ANNOTATION, Keep::All)]),
    ),
    ("ownerReferences", Keep::All),
]);

/// The parts of conditions that views read.
const CONDITIONS: Keep = Keep::Each(&Keep::Fields(&[
    ("type", Keep::All),
    ("status", Keep::All),
    ("reason", Keep::All),
    ("message", Keep::All),
    ("lastTransitionTime", Keep::Time),
]));

/// The parts of a container that its size depends on.
const CONTAINERS: Keep = Keep::Each(&Keep::Fields(&[
    ("name", Keep::All),
    ("restartPolicy", Keep::All),
    ("resources", RESOURCES),
    (
        "securityContext",
        Keep::Fields(&[("appArmorProfile", TYPE), ("seccompProfile", TYPE)]),
    ),
]));

/// The type of a security profile.
const TYPE: Keep = Keep::Fields(&[("type", Keep::All)]);

/// The type of a volume, and what identifies its claim. What makes up most of the others is left out.
const VOLUMES: Keep = Keep::Each(&Keep::But(&[
    ("configMap", None),
    ("downwardAPI", None),
    ("projected", None),
    ("secret", None),
    ("ephemeral", Some(Keep::Fields(&[]))),
]));

/// The parts of a container's status that show whether it has ever run.
const RUNS: Keep = Keep::Each(&Keep::Fields(&[
    ("restartCount", Keep::All),
    (
        "state",
        Keep::Fields(&[("running", Keep::Fields(&[])), ("terminated", Keep::Fields(&[]))]),
    ),
]));

const RESOURCES: Keep = Keep::Fields(&[("requests", Keep::All), ("limits", Keep::All)]);

impl View for PodView {
    const KIND: Kind = Kind::Pods;
    const KEEP: Keep = Keep::Fields(&[
        ("metadata", METADATA),
        (
            "spec",
            Keep::Fields(&[
                ("nodeName", Keep::All),
                ("nodeSelector", Keep::All),
                ("affinity", Keep::All),
                ("topologySpreadConstraints", Keep::All),
                (
                    "resourceClaims",
                    Keep::Each(&Keep::Fields(&[("name", Keep::All)])),
                ),
                ("volumes", VOLUMES),
                ("priorityClassName", Keep::All),
                ("tolerations", Keep::All),
                ("schedulingGates", Keep::All),
                ("schedulerName", Keep::All),
                ("hostNetwork", Keep::All),
                ("hostUsers", Keep::All),
                ("os", Keep::All),
                ("runtimeClassName", Keep::All),
                (
                    "securityContext",
                    Keep::Fields(&[
                        ("appArmorProfile", TYPE),
                        ("seccompProfile", TYPE),
                        ("sysctls", Keep::All),
                    ]),
                ),
                ("overhead", Keep::All),
                ("resources", RESOURCES),
                ("containers", CONTAINERS),
                ("initContainers", CONTAINERS),
            ]),
        ),
        (
            "status",
            Keep::Fields(&[
                ("phase", Keep::All),
                ("reason", Keep::All),
                ("startTime", Keep::Time),
                ("conditions", CONDITIONS),
                ("containerStatuses", RUNS),
                ("initContainerStatuses", RUNS),
            ]),
        ),
    ]);
    type Object = Pod;

    fn read(pod: Pod) -> Option<Self> {
        Self::of(&pod)
    }

    fn marks(&self) -> Vec<Mark> {
        vec![
            Mark::Pod(self.uid.clone()),
            Mark::Namespace(self.namespace.clone()),
        ]
    }
}

impl View for NodeView {
    const KIND: Kind = Kind::Nodes;
    const KEEP: Keep = Keep::Fields(&[
        ("metadata", METADATA),
        ("spec", Keep::Fields(&[("taints", TAINTS)])),
        (
            "status",
            Keep::Fields(&[
                ("conditions", CONDITIONS),
                ("addresses", Keep::All),
                (
                    "nodeInfo",
                    Keep::Fields(&[("systemUUID", Keep::All), ("bootID", Keep::All)]),
                ),
            ]),
        ),
    ]);
    type Object = Node;

    fn read(node: Node) -> Option<Self> {
        Self::of(&node)
    }
}

/// Elements keep their position: patches refer to taints by index.
const TAINTS: Keep = Keep::Each(&Keep::Fields(&[
    ("key", Keep::All),
    ("value", Keep::All),
    ("effect", Keep::All),
    ("timeAdded", Keep::Time),
]));

impl View for VmiView {
    const KIND: Kind = Kind::Vmis;
    const KEEP: Keep = Keep::Fields(&[
        ("metadata", METADATA),
        (
            "status",
            Keep::Fields(&[
                ("phase", Keep::All),
                ("nodeName", Keep::All),
                ("evacuationNodeName", Keep::All),
                ("conditions", CONDITIONS),
                (
                    "interfaces",
                    Keep::Each(&Keep::Fields(&[
                        ("name", Keep::All),
                        ("ipAddress", Keep::All),
                        ("ipAddresses", Keep::All),
                    ])),
                ),
            ]),
        ),
    ]);
    type Object = DynamicObject;

    fn read(vmi: DynamicObject) -> Option<Self> {
        Self::of(&vmi)
    }

    fn marks(&self) -> Vec<Mark> {
        self.host.clone().map(Mark::Host).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use maroonedpods_testing::odd_pod;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Of a pod, more is skipped than the admission rule reads.
        #[test]
        fn the_rule_sees_in_what_is_kept_of_a_pod_what_it_sees_in_all_of_it(pod in odd_pod()) {
            let text = pod.to_string();
            let Ok(whole) = serde_json::from_value::<Pod>(pod) else { return Ok(()) };
            let kept = PodView::KEEP.sieve(&text).unwrap();
            let kept: Pod = serde_json::from_value(kept).unwrap();
            prop_assert_eq!(admission::PodView::from(&kept), admission::PodView::from(&whole));
        }
    }
}
