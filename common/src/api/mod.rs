//! The custom resources of `maroonedpods.io/v1alpha1`.

mod config;
mod record;

pub use config::{
    BaseVmResources, Deadlines, Join, JoinMode, KernelBootConfig, MaroonedPodsConfig, MaroonedPodsConfigSpec,
    MaroonedPodsConfigStatus, NetworkBinding, NodeCounts, ResourceOverhead, VmOptions,
};
pub use record::{
    MaroonedNode, MaroonedNodeSpec, MaroonedNodeStatus, Phase, PodRef, StageTimes, VmResources, VmSpec,
    condition,
};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
