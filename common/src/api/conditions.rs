//! Types and reasons of the conditions that the reconciler sets: on both custom resources and on pods.
//!
//! `docs/troubleshooting.md` says of each reason what a user can do.

use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// Types of the conditions of a [`MaroonedPodsConfig`](super::MaroonedPodsConfig).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
pub enum ConfigCondition {
    /// The configuration is in force.
    Accepted,
    /// The cluster is as launches need it.
    ClusterReady,
    /// VMs can be created.
    ProviderReady,
    /// The webhook has a certificate, and nothing keeps the reconciler from renewing it.
    CertificatesReady,
}

/// Reasons of [`ConfigCondition::Accepted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
pub enum AcceptedReason {
    /// The configuration is in force.
    Valid,
    /// A field cannot be used; the last valid configuration stays in force.
    Invalid,
}

/// Reasons of [`ConfigCondition::ClusterReady`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
pub enum ClusterReadyReason {
    /// The checks found nothing.
    Checked,
    /// The cluster would approve certificate requests of the bootstrap group without the reconciler.
    AutoApproval,
    /// The reconciler cannot check whether the cluster would.
    AutoApprovalUnknown,
    /// Guests resolve no names: the reconciler finds no address of the cluster's DNS Service.
    #[strum(serialize = "ClusterDNSUnknown")]
    ClusterDnsUnknown,
    /// Kubernetes lacks what the guards need.
    KubernetesTooOld,
    /// The API server's version cannot be read.
    KubernetesVersionUnknown,
    /// The API server does not serve `ValidatingAdmissionPolicy` v1.
    PoliciesNotServed,
    /// The reconciler cannot check whether it does.
    PoliciesUnknown,
    /// The API server runs without the admission plugin `NodeRestriction`.
    NodeRestrictionMissing,
    /// The reconciler cannot check whether it does.
    NodeRestrictionUnknown,
    /// No Node on which VMs may run has the architecture of VMs.
    ArchitectureMismatch,
    /// The Nodes cannot be listed, or have several architectures and the configuration names none.
    ArchitectureUnknown,
    /// `VirtualMachineInstance` is not served.
    KubeVirtMissing,
    /// KubeVirt is older than what the VM's shape was tried on.
    KubeVirtTooOld,
    /// KubeVirt's version cannot be read.
    KubeVirtVersionUnknown,
    /// A feature gate of KubeVirt is off without which VMs of its version do not start on this Kubernetes.
    KubeVirtGateMissing,
    /// KubeVirt, or its schema, refused a VM in a dry run.
    #[strum(serialize = "VMRefused")]
    VmRefused,
    /// The reconciler could not try a VM in a dry run.
    #[strum(serialize = "VMNotTried")]
    VmNotTried,
}

/// Reasons of [`ConfigCondition::ProviderReady`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
pub enum ProviderReadyReason {
    /// VMs can be listed.
    Listed,
    /// `VirtualMachineInstance` is not served.
    NotInstalled,
}

/// Reasons of [`ConfigCondition::CertificatesReady`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
pub enum CertificatesReadyReason {
    /// The certificate is valid, and not due for renewal.
    Issued,
    /// The reconciler is replacing it.
    Rotating,
    /// A step of a rotation failed.
    Failed,
}

/// Types of the conditions of a [`MaroonedNode`](super::MaroonedNode).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
pub enum NodeCondition {
    /// The VMI of this attempt exists. False, for an [`AttemptFailure`], once the attempt has failed.
    Launched,
    /// The kubelet has spoken with its own certificate and the join credential is gone.
    Registered,
    /// The Node was seen Ready and verified as this VM's own.
    Ready,
    /// The pod's gate is lifted.
    Lifted,
}

/// Reasons of a [`NodeCondition`] that is True.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
pub enum NodeReason {
    /// Of [`NodeCondition::Launched`].
    #[strum(serialize = "VMCreated")]
    VmCreated,
    /// Of [`NodeCondition::Registered`].
    KubeletJoined,
    /// Of [`NodeCondition::Ready`].
    NodeVerified,
    /// Of [`NodeCondition::Lifted`].
    GateLifted,
}

/// Why an attempt failed: reasons of a [`NodeCondition::Launched`] that is False.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray)]
pub enum AttemptFailure {
    /// The VM did not run within `deadlines.boot`.
    BootDeadline,
    /// The VM's node was not ready within `deadlines.join`.
    JoinDeadline,
    /// The VM ended before its node was ready.
    #[strum(serialize = "VMEnded")]
    VmEnded,
    /// The VMI was deleted before its node was ready.
    #[strum(serialize = "VMGone")]
    VmGone,
    /// Another VMI has taken the name of this attempt's.
    #[strum(serialize = "VMReplaced")]
    VmReplaced,
    /// The guest rebooted before its pod could run.
    Rebooted,
    /// The lift of the gate arrived after the attempt had failed.
    LiftedTooSoon,
    /// No scheduler bound the pod to its node, or the node's kubelet did not take it up, within `deadlines.start`.
    NotStarted,
    /// The pod network gave the VM an IPv6 address only.
    #[strum(serialize = "NoIPv4")]
    NoIpv4,
    /// The Node is not this VM's own, or another client has changed it.
    IdentityMismatch,
}

/// Reasons of the pod's condition [`NODE_READY_CONDITION`](crate::names::NODE_READY_CONDITION).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, IntoStaticStr, VariantArray,
)]
pub enum PodReason {
    /// Other scheduling gates hold the pod.
    WaitingForOtherGates,
    /// No valid configuration is in force.
    NoConfig,
    /// The cluster is not as launches need it.
    ClusterNotReady,
    /// No VM's size follows from the pod's requests.
    Unsizable,
    /// The pod asks for a node by its name.
    NamesNodes,
    /// No marooned Node, or no guest, has what the pod asks for.
    Unplaceable,
    /// The pod asks for another VM than the one that was made for it.
    Replanned,
    /// The VM is being started.
    Launching,
    /// The API server refused what the pod needs.
    Refused,
    /// KubeVirt is not installed, or not reachable.
    ProviderMissing,
    /// KubeVirt cannot start the VM, or an older VM still has its name.
    #[strum(serialize = "VMBlocked")]
    VmBlocked,
    /// The VM runs; its Node is not ready for the pod.
    Joining,
    /// An attempt failed and the next one follows.
    Retrying,
    /// Kubelets have rejected pods of the same owner.
    BackingOff,
    /// All attempts of a round have failed.
    AttemptsExhausted,
    /// A `NetworkPolicy` selects the pod, and no policy is enforced on marooned pods.
    NetworkPolicyNotEnforced,
    /// The pod's namespace has as many VMs as it may.
    NamespaceLimit,
    /// The pod's own Node is ready.
    NodeReady,
    /// Another client removed the gate.
    GateRemoved,
    /// The pod's VM is lost.
    NodeLost,
    /// The pod was released to its node and did not start there.
    NotStarted,
}

impl PodReason {
    /// Whether a gated pod can carry it.
    #[must_use]
    pub const fn is_wait(self) -> bool {
        !matches!(
            self,
            Self::NodeReady | Self::GateRemoved | Self::NodeLost | Self::NotStarted
        )
    }

    /// Whether the pod waits for other users, for as long as they take.
    #[must_use]
    pub const fn is_up_to_others(self) -> bool {
        matches!(
            self,
            Self::WaitingForOtherGates
                | Self::BackingOff
                | Self::AttemptsExhausted
                | Self::NetworkPolicyNotEnforced
                | Self::NamespaceLimit
                | Self::Unplaceable
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Kubernetes demands `CamelCase` of a reason; a condition's type has the same form by custom.
    fn is_camel_case(text: &str) -> bool {
        text.starts_with(|first: char| first.is_ascii_uppercase())
            && text.chars().all(|c| c.is_ascii_alphanumeric())
    }

    fn check<E: VariantArray + Copy + Into<&'static str>>() {
        let texts: BTreeSet<&str> = E::VARIANTS.iter().map(|variant| (*variant).into()).collect();
        assert_eq!(texts.len(), E::VARIANTS.len(), "{texts:?} are not unique");
        for text in texts {
            assert!(is_camel_case(text), "{text}");
        }
    }

    #[test]
    fn texts_are_unique_and_camel_case() {
        check::<ConfigCondition>();
        check::<AcceptedReason>();
        check::<ClusterReadyReason>();
        check::<ProviderReadyReason>();
        check::<CertificatesReadyReason>();
        check::<NodeCondition>();
        check::<NodeReason>();
        check::<AttemptFailure>();
        check::<PodReason>();
    }

    #[test]
    fn texts_are_read_back() {
        for reason in PodReason::VARIANTS {
            assert_eq!(reason.to_string().parse(), Ok(*reason));
        }
        for failure in AttemptFailure::VARIANTS {
            assert_eq!(failure.to_string().parse(), Ok(*failure));
        }
    }

    #[test]
    fn a_pod_that_has_its_node_had_it_or_gave_it_up_waits_for_nothing() {
        use PodReason as Reason;
        let over = [
            Reason::NodeReady,
            Reason::GateRemoved,
            Reason::NodeLost,
            Reason::NotStarted,
        ];
        let others = [
            Reason::WaitingForOtherGates,
            Reason::BackingOff,
            Reason::AttemptsExhausted,
            Reason::NetworkPolicyNotEnforced,
            Reason::NamespaceLimit,
            Reason::Unplaceable,
        ];
        for reason in Reason::VARIANTS {
            assert_eq!(reason.is_wait(), !over.contains(reason), "{reason}");
            assert_eq!(reason.is_up_to_others(), others.contains(reason), "{reason}");
        }
    }
}
