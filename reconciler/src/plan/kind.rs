//! The kinds of [`Write`]s, as logs and metrics name them.

use strum::{Display, IntoStaticStr, VariantArray};

use super::Write;

/// A kind of [`Write`]: what it does is documented there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum WriteKind {
    CreateRecord,
    IssueCredentials,
    CreateNode,
    TryVmi,
    CreateVmi,
    RecordStatus,
    PodReport,
    ApproveCsr,
    DenyCsr,
    PlaceNode,
    RevokeCredentials,
    RemoveStartupTaint,
    LiftGate,
    BindPod,
    PodNotReady,
    EvictPod,
    FailPod,
    DeletePod,
    DeleteRecord,
    DeleteVmi,
    DeleteNode,
    StripNodeFinalizers,
    DeleteCsr,
    RemoveFinalizer,
}

impl Write {
    /// Which kind of write this is.
    #[must_use]
    pub fn kind(&self) -> WriteKind {
        match self {
            Self::CreateRecord { .. } => WriteKind::CreateRecord,
            Self::IssueCredentials { .. } => WriteKind::IssueCredentials,
            Self::CreateNode { .. } => WriteKind::CreateNode,
            Self::TryVmi { .. } => WriteKind::TryVmi,
            Self::CreateVmi { .. } => WriteKind::CreateVmi,
            Self::RecordStatus { .. } => WriteKind::RecordStatus,
            Self::PodReport(_) => WriteKind::PodReport,
            Self::DecideCsr { deny: None, .. } => WriteKind::ApproveCsr,
            Self::DecideCsr { deny: Some(_), .. } => WriteKind::DenyCsr,
            Self::PlaceNode { .. } => WriteKind::PlaceNode,
            Self::RevokeCredentials { .. } => WriteKind::RevokeCredentials,
            Self::RemoveStartupTaint { .. } => WriteKind::RemoveStartupTaint,
            Self::LiftGate(_) => WriteKind::LiftGate,
            Self::BindPod(_) => WriteKind::BindPod,
            Self::PodNotReady(_) => WriteKind::PodNotReady,
            Self::EvictPod(_) => WriteKind::EvictPod,
            Self::FailPod { .. } => WriteKind::FailPod,
            Self::DeletePod(_) => WriteKind::DeletePod,
            Self::DeleteRecord(_) => WriteKind::DeleteRecord,
            Self::DeleteVmi(_) => WriteKind::DeleteVmi,
            Self::DeleteNode(_) => WriteKind::DeleteNode,
            Self::StripNodeFinalizers(_) => WriteKind::StripNodeFinalizers,
            Self::DeleteCsr(_) => WriteKind::DeleteCsr,
            Self::RemoveFinalizer { .. } => WriteKind::RemoveFinalizer,
        }
    }
}
