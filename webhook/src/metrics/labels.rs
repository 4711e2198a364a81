//! The values of the metrics' labels: each enum is one table of its variants and their names.

use std::fmt;

use maroonedpods_common::admission::Reason;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

/// Defines an enum whose variants are the values of the label `result`, from one table: no variant can lack a name, nor
/// be left out of `ALL`.
macro_rules! results {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident => $value:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$what])* $variant,)+
        }

        impl $name {
            /// Every value, for series that begin at zero.
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)+];
        }

        impl EncodeLabelSet for $name {
            fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
                let value = match self {
                    $(Self::$variant => $value,)+
                };
                [("result", value)].encode(encoder)
            }
        }
    };
}

results! {
    /// What became of an admission request.
    AdmissionResult {
        /// Allowed with a patch.
        Patched => "patched",
        /// Allowed: nothing was missing.
        Complete => "complete",
        /// Allowed: the pod opted out.
        OptedOut => "opted_out",
        /// Allowed: a `DaemonSet` owns the pod.
        DaemonSet => "daemon_set",
        /// Allowed: the pod asks for a node by its name.
        NamesNodes => "names_nodes",
        /// Allowed: a mirror pod.
        MirrorPod => "mirror_pod",
        /// Allowed with a patch: an update lacked what is ours.
        Restored => "restored",
        /// Allowed: neither a creation nor an update.
        OtherOperation => "other_operation",
        /// Allowed: a subresource.
        Subresource => "subresource",
        /// Allowed: not a v1 Pod.
        ForeignKind => "foreign_kind",
        /// Denied by the rule.
        Denied => "denied",
        /// Denied: a scheduler would have made room on a marooned node.
        PreemptionRefused => "preemption_refused",
        /// Not a valid request: denied, or HTTP 400 where it had no uid.
        Invalid => "invalid",
    }
}

results! {
    /// What became of a changed certificate.
    ReloadResult {
        /// Served from now on.
        Success => "success",
        /// Unusable; the last good one is served.
        Error => "error",
    }
}

impl From<Reason> for AdmissionResult {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::OptedOut => Self::OptedOut,
            Reason::DaemonSet => Self::DaemonSet,
            Reason::NamesNodes => Self::NamesNodes,
            Reason::MirrorPod => Self::MirrorPod,
            Reason::Complete => Self::Complete,
        }
    }
}
