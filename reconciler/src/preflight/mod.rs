//! What the cluster must be like before a VM is started, checked at start-up and ever again.
//!
//! [`observe`] reads, [`decide`] decides (pure), [`follow`] repeats both beside the running reconciler, [`command`] does
//! it once for people. What blocks holds launches and nothing else: VMs that run are served and released as ever.

pub mod command;
mod daemon_sets;
mod decide;
mod follow;
mod observe;
mod version;

use maroonedpods_common::api::ClusterReadyReason;

use decide::decide;
pub use follow::follow;
use observe::observe;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Machine-readable reason.
    pub reason: ClusterReadyReason,
    /// Whether no VM may be started until it is mended.
    pub blocks: bool,
    /// One sentence for people: what is wrong and what to do.
    pub message: String,
}

/// What the last check said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Decision {
    /// No check has come to an end yet.
    #[default]
    Unchecked,
    /// What was found, and read by the way.
    Checked {
        /// What is not as it should be; nothing when all is well.
        findings: Vec<Finding>,
        /// Address of the cluster's DNS Service, where it has one that guests can reach.
        cluster_dns: Option<String>,
    },
}

impl Decision {
    /// What was found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Unchecked => &[],
            Self::Checked { findings, .. } => findings,
        }
    }

    /// Address of the cluster's DNS Service.
    #[must_use]
    pub fn cluster_dns(&self) -> Option<String> {
        match self {
            Self::Unchecked => None,
            Self::Checked { cluster_dns, .. } => cluster_dns.clone(),
        }
    }

    /// Why no VM may be started, in one text; `None` when VMs may.
    #[must_use]
    pub fn hold(&self) -> Option<String> {
        if *self == Self::Unchecked {
            return Some("the cluster has not been checked yet: see the reconciler's log".to_owned());
        }
        let blocking = self.findings().iter().filter(|finding| finding.blocks);
        let sentences: Vec<_> = blocking.map(|finding| finding.message.as_str()).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_blocks_holds_launches() {
        let finding = |blocks, message: &str| Finding {
            reason: ClusterReadyReason::PoliciesUnknown,
            blocks,
            message: message.to_owned(),
        };
        let checked = |findings| Decision::Checked {
            findings,
            cluster_dns: None,
        };
        assert!(Decision::Unchecked.hold().is_some());
        assert_eq!(checked(Vec::new()).hold(), None);
        assert_eq!(checked(vec![finding(false, "a warning")]).hold(), None);
        let all = vec![
            finding(true, "one"),
            finding(false, "a warning"),
            finding(true, "two"),
        ];
        assert_eq!(checked(all).hold().as_deref(), Some("one; two"));
    }
}
