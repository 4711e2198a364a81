//! The custom resources of `maroonedpods.io/v1alpha1`.

mod conditions;
mod config;
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
