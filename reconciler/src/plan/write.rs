//! Every write the reconciler can make, as a value: what is written and under which precondition. [`crate::act`]
//! renders it, by way of [`crate::objects`].

use std::collections::BTreeMap;
use std::sync::Arc;

use maroonedpods_common::api::{MaroonedNode, MaroonedNodeSpec, MaroonedNodeStatus, PodReason};
use maroonedpods_common::text;

use crate::csr::Refusal;
use crate::objects::lift::Lift;
use crate::objects::node::Place;
use crate::view::ObjectRef;

/// One write to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Step 1. Exists already: ours if `podRef.uid` agrees.
    CreateRecord {
        /// The specification of the record.
        spec: Box<MaroonedNodeSpec>,
        /// Refused where its pod's namespace has that many records.
        at_most: Option<u32>,
    },
    /// Step 2a and 2b: the bootstrap token and the seed that carries it. The reconciler that creates the token draws
    /// its secret half; one that finds the token there reads it back.
    IssueCredentials {
        /// The record, owner of both Secrets.
        record: Arc<MaroonedNode>,
        /// Which attempt they are for.
        attempt: u32,
        /// Seconds until the token expires by itself.
        lifetime_seconds: i64,
    },
    /// Before step 2, for a pod whose VMI was refused: a dry run that shows whether it would still be refused.
    TryVmi {
        /// The record, owner of the VMI.
        record: Arc<MaroonedNode>,
        /// Which attempt it is.
        attempt: u32,
    },
    /// Step 2c, last of step 2: a VMI that exists proves the Secrets. Rendered by [`crate::objects::vmi`].
    CreateVmi {
        /// The record, owner of the VMI.
        record: Arc<MaroonedNode>,
        /// Which attempt it is.
        attempt: u32,
    },
    /// First half of step 4, once the VM has an address. Exists already: ours if its owner agrees.
    CreateNode {
        /// The record, owner of the Node.
        record: Arc<MaroonedNode>,
        /// Which attempt's VM it is.
        attempt: u32,
        /// Where the VM is.
        place: Place,
    },
    /// The record's status; refused by the API server if the record changed since.
    RecordStatus {
        /// Name of the record.
        name: String,
        /// The version that the status was computed from.
        resource_version: String,
        /// The new status, whole.
        status: Box<MaroonedNodeStatus>,
    },
    /// Our condition on the pod; refused if the name belongs to another UID by now.
    PodReport(PodReport),
    /// Steps 4 and 6; refused if the CSR changed since.
    DecideCsr {
        /// Name of the CSR.
        name: String,
        /// The version that the decision was computed from.
        resource_version: String,
        /// Approve, or deny for this reason.
        deny: Option<Refusal>,
    },
    /// Step 5: corrects address, zone and region of the Node; refused if the name belongs to another UID by now.
    PlaceNode {
        /// The Node.
        node: ObjectRef,
        /// The VMI's address, where it is another.
        address: Option<String>,
        /// Zone and region of the VM's host: labels to set, and those to take off.
        labels: BTreeMap<String, Option<String>>,
    },
    /// Step 5: the join credential has done its work. Nothing to delete is success; each is deleted by the UID of a
    /// live read, and only if the record owns it.
    RevokeCredentials {
        /// The record that owns both.
        record: Arc<MaroonedNode>,
        /// Which attempt they were for.
        attempt: u32,
    },
    /// First half of step 8; refused if the taint is not at this position of this Node.
    RemoveStartupTaint {
        /// The Node.
        node: ObjectRef,
        /// Position of the taint.
        index: usize,
    },
    /// Step 8, the point of no return: one JSON patch that tests UID, version and gate, removes the gate and pins the pod.
    LiftGate(Box<Lift>),
    /// Step 9, where no scheduler does it or can ([`crate::binding`]); refused for another UID, a gated pod, or a bound
    /// one.
    BindPod(ObjectRef),
    /// The VM is gone: endpoints must lose the pod's address before another pod gets it.
    PodNotReady(ObjectRef),
    /// A host drain: evict the pod, under its own disruption budget.
    EvictPod(ObjectRef),
    /// Step 11: the VM is proven gone, so the pod has failed.
    FailPod {
        /// The pod.
        pod: ObjectRef,
        /// Machine-readable reason.
        reason: &'static str,
        /// What happened, for people.
        message: String,
    },
    /// Step 11: the VM is proven gone and the pod was to be deleted anyway. Grace 0, UID precondition.
    DeletePod(ObjectRef),
    /// Starts the release: from here on the record is marked for deletion. UID precondition.
    DeleteRecord(ObjectRef),
    /// Step 10. UID precondition.
    DeleteVmi(ObjectRef),
    /// Step 12. UID precondition.
    DeleteNode(ObjectRef),
    /// A guest put finalizers on its Node; they protect nothing of ours.
    StripNodeFinalizers(ObjectRef),
    /// Step 12. UID precondition.
    DeleteCsr(ObjectRef),
    /// Last of step 12: the record goes. Refused if the finalizer is not at this position.
    RemoveFinalizer {
        /// The record.
        record: ObjectRef,
        /// Position of our finalizer.
        index: usize,
    },
}

impl Write {
    /// Whether the decision for this write needs a live read: it spends, destroys or cannot be taken back.
    #[must_use]
    pub fn needs_live_view(&self) -> bool {
        match self {
            Self::CreateRecord { .. }
            | Self::RecordStatus { .. }
            | Self::PodReport(_)
            | Self::DecideCsr { .. }
            | Self::PlaceNode { address: None, .. }
            | Self::TryVmi { .. }
            | Self::BindPod(_)
            | Self::RevokeCredentials { .. }
            | Self::PodNotReady(_) => false,
            Self::IssueCredentials { .. }
            | Self::CreateNode { .. }
            | Self::CreateVmi { .. }
            // The VMI is believed for as long as the pod is gated.
            | Self::PlaceNode { address: Some(_), .. }
            | Self::RemoveStartupTaint { .. }
            | Self::LiftGate(_)
            | Self::EvictPod(_)
            | Self::FailPod { .. }
            | Self::DeletePod(_)
            | Self::DeleteRecord(_)
            | Self::DeleteVmi(_)
            | Self::DeleteNode(_)
            | Self::StripNodeFinalizers(_)
            | Self::DeleteCsr(_)
            | Self::RemoveFinalizer { .. } => true,
        }
    }

    /// Whether this makes something for the pod: if it is refused, the pod cannot go on.
    #[must_use]
    pub fn spends(&self) -> bool {
        self.starts() || matches!(self, Self::CreateNode { .. })
    }

    /// Whether this is part of starting a VM. The Node is not: its guest is under way and waits for it.
    #[must_use]
    pub fn starts(&self) -> bool {
        matches!(
            self,
            Self::CreateRecord { .. }
                | Self::IssueCredentials { .. }
                | Self::TryVmi { .. }
                | Self::CreateVmi { .. }
        )
    }

    /// Whether a user or a guest can provoke this write without end, by undoing it.
    #[must_use]
    pub fn can_be_provoked(&self) -> bool {
        matches!(
            self,
            Self::PodReport(_) | Self::PodNotReady(_) | Self::PlaceNode { .. }
        )
    }

    /// Whether a pod whose VM runs waits for this.
    #[must_use]
    pub fn leads_to_lift(&self) -> bool {
        matches!(
            self,
            Self::CreateNode { .. }
                | Self::RevokeCredentials { .. }
                | Self::RemoveStartupTaint { .. }
                | Self::LiftGate(_)
                | Self::BindPod(_)
        )
    }
}

/// Our condition on a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReport {
    /// The pod.
    pub pod: ObjectRef,
    /// Whether its own node is ready.
    pub ready: bool,
    /// Machine-readable reason.
    pub reason: PodReason,
    /// One sentence for people.
    pub message: String,
    /// `ready` differs from the pod's present condition (API conventions: `lastTransitionTime` moves only then).
    pub transition: bool,
}

impl PodReport {
    /// The same as an event, if people must end the wait: `kubectl describe` shows events, and no condition's message. Other
    /// waits are progress, or have an event of their own.
    #[must_use]
    pub fn note(&self) -> Option<Note> {
        let is_for_people = matches!(
            self.reason,
            PodReason::NoConfig
                | PodReason::ClusterNotReady
                | PodReason::Unsizable
                | PodReason::Unplaceable
                | PodReason::Refused
                | PodReason::ProviderMissing
                | PodReason::VmBlocked
                | PodReason::BackingOff
                | PodReason::NamespaceLimit
        );
        is_for_people.then(|| Note::warning(self.reason, self.message.clone()))
    }
}

/// An event on the pod, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Something is not as it should be.
    pub warning: bool,
    /// Machine-readable reason.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl Note {
    pub(super) fn normal(reason: impl Into<&'static str>, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason: reason.into(),
            message: text::sentence(&message.into()).into_owned(),
        }
    }

    pub(super) fn warning(reason: impl Into<&'static str>, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason: reason.into(),
            message: text::sentence(&message.into()).into_owned(),
        }
    }
}
