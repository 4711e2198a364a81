//! Names of what is listed and watched, for logs and metrics.

use strum::{Display, IntoStaticStr, VariantArray};

/// A kind of objects, as a [`View`](super::View) shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum Kind {
    Csrs,
    CustomResourceDefinitions,
    DaemonSets,
    EndpointSlices,
    /// Nodes of the cluster itself, which run VMs.
    Hosts,
    KubeVirts,
    /// Objects of several kinds that may lack their record.
    Leftovers,
    MaroonedNodes,
    MaroonedPodsConfigs,
    NetworkPolicies,
    /// Nodes of VMs.
    Nodes,
    PersistentVolumeClaims,
    PersistentVolumes,
    Pods,
    StorageClasses,
    Vmis,
}
