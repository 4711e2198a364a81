//! The custom resources of `maroonedpods.io/v1alpha1`.

mod conditions;
mod config;
mod placement;
mod record;

pub use conditions::{
    AcceptedReason, AttemptFailure, CertificatesReadyReason, ClusterReadyReason, ConfigCondition,
    NodeCondition, NodeReason, PodReason, ProviderReadyReason,
};
pub use config::{
    Architecture, BaseVmResources, Deadlines, Join, JoinMode, KernelBootConfig, Limits, MaroonedPodsConfig,
    MaroonedPodsConfigSpec, MaroonedPodsConfigStatus, NetworkBinding, NetworkPolicies, NodeCounts,
    ResourceOverhead, VmOptions,
};
pub use placement::{PlacementOptions, SpreadReplicas, VmPlacement};
pub use record::{
    MaroonedNode, MaroonedNodeSpec, MaroonedNodeStatus, Phase, PodRef, StageTimes, VmResources, VmSpec,
};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Both `CustomResourceDefinition`s, as these types have them.
#[must_use]
pub fn crds() -> [CustomResourceDefinition; 2] {
    [MaroonedNode::crd(), MaroonedPodsConfig::crd()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As `docs/configuration.md` and the CRD have them.
    #[test]
    fn a_least_configuration_gets_the_documented_defaults() {
        let least = json!({"nodeImage": "image", "join": {"serverURL": "https://192.0.2.1:6443"}});
        let spec: MaroonedPodsConfigSpec = serde_json::from_value(least).unwrap();
        let written = serde_json::to_value(&spec).unwrap();
        for (field, expected) in [
            ("enableKernelBoot", json!(false)),
            (
                "baseVMResources",
                json!({"cpu": 1, "memoryMi": 1024, "ephemeralStorageMi": 10240}),
            ),
            (
                "resourceOverhead",
                json!({"cpu": "500m", "memory": "512Mi", "ephemeralStoragePercent": 25}),
            ),
            ("taintKey", json!("maroonedpods.io")),
            (
                "join",
                json!({"mode": "Kubelet", "serverURL": "https://192.0.2.1:6443", "clusterDomain": "cluster.local"}),
            ),
            (
                "deadlines",
                json!({"boot": "5m", "join": "5m", "start": "30m", "finishedPodTTL": "60s"}),
            ),
            ("maxAttempts", json!(3)),
            ("limits", json!({})),
            ("placement", json!({"spreadReplicas": "Preferred"})),
            (
                "guestCapabilities",
                json!([
                    "sysctl/fs.mqueue.*",
                    "sysctl/kernel.msg*",
                    "sysctl/kernel.sem",
                    "sysctl/kernel.shm*",
                    "sysctl/net.*",
                    "volume/nfs"
                ]),
            ),
            ("provisionWhileGated", json!(false)),
        ] {
            assert_eq!(written[field], expected, "{field}");
        }
        assert_eq!(
            spec.kernel_boot_config,
            serde_json::from_value(json!({})).unwrap()
        );
        assert_eq!(spec.deadlines, Deadlines::default());
        assert_eq!(spec.resource_overhead, ResourceOverhead::default());
        for part in [json!({}), json!({"cpu": "500m"})] {
            assert_eq!(
                serde_json::from_value::<ResourceOverhead>(part).unwrap(),
                ResourceOverhead::default()
            );
        }
        assert_eq!(
            serde_json::from_value::<Deadlines>(json!({})).unwrap(),
            Deadlines::default()
        );
    }

    /// The labels `kubernetes.io/arch` of Kubernetes and `spec.architecture` of KubeVirt.
    #[test]
    fn architectures_have_kubernetes_names() {
        for (architecture, name) in [(Architecture::Amd64, "amd64"), (Architecture::Arm64, "arm64")] {
            assert_eq!(architecture.as_str(), name);
            assert_eq!(architecture.to_string(), name);
            assert_eq!(serde_json::to_value(architecture).unwrap(), name);
        }
        assert_eq!(Architecture::default(), Architecture::Amd64);
    }

    #[test]
    fn both_resources_are_of_our_group() {
        let names = crds().map(|crd| crd.metadata.name.unwrap());
        assert_eq!(
            names,
            [
                "maroonednodes.maroonedpods.io",
                "maroonedpodsconfigs.maroonedpods.io"
            ]
        );
    }
}
