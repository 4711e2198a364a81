//! The requirements on the cluster for starting VMs, checked at start-up and repeatedly after that.
//!
//! [`observe`] reads, [`decide`] decides (pure), [`follow`] repeats both in the running reconciler, [`command`] does
//! it once for people. A blocking finding prevents only launches: running VMs are served and released as usual.

pub mod command;
mod daemon_sets;
mod decide;
mod follow;
mod observe;
mod version;

use maroonedpods_common::api::{Architecture, ClusterReadyReason};

use decide::decide;
pub use follow::follow;
use observe::observe;

/// A problem of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Machine-readable reason.
    pub reason: ClusterReadyReason,
    /// Whether no VM may be started until it is fixed.
    pub blocks: bool,
    /// One sentence for people: what is wrong and what to do.
    pub message: String,
}

/// The result of the last check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Decision {
    /// No check has finished yet.
    #[default]
    Unchecked,
    /// The findings of a check, and what else it learned of the cluster.
    Checked {
        /// The problems found; empty if all is in order.
        findings: Vec<Finding>,
        /// Whether there was a configuration, whose VMs could be tried.
        configured: bool,
        /// Address of the cluster's DNS Service, if it has one that guests can reach.
        cluster_dns: Option<String>,
        /// Architecture of VMs.
        architecture: Architecture,
        /// Whether KubeVirt accepts `rebootPolicy: Terminate`; `None` if no check has learned it.
        terminate_on_reboot: Option<bool>,
    },
}

impl Decision {
    /// The problems found.
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

    /// Architecture of VMs.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::Unchecked => Architecture::default(),
            Self::Checked { architecture, .. } => *architecture,
        }
    }

    /// Whether KubeVirt accepts `rebootPolicy: Terminate`; `None` if no check has learned it.
    #[must_use]
    pub fn terminate_on_reboot(&self) -> Option<bool> {
        match self {
            Self::Unchecked => None,
            Self::Checked {
                terminate_on_reboot, ..
            } => *terminate_on_reboot,
        }
    }

    /// The decision, with what `former` had learned where this check could not learn it: KubeVirt may just be restarting.
    #[must_use]
    fn or_as_formerly(mut self, former: &Self) -> Self {
        if let (
            Self::Checked {
                terminate_on_reboot: now,
                ..
            },
            Self::Checked {
                terminate_on_reboot: before,
                ..
            },
        ) = (&mut self, former)
        {
            *now = now.or(*before);
        }
        self
    }

    /// Why no VM may be started, as one text; `None` if VMs may be started.
    #[must_use]
    pub fn hold(&self) -> Option<String> {
        if *self == Self::Unchecked {
            return Some("the cluster has not been checked yet: see the reconciler's log".to_owned());
        }
        if let Self::Checked {
            configured: false, ..
        } = self
        {
            return Some("the VMs of the present MaroonedPodsConfig have not been tried yet".to_owned());
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
    fn only_blocking_findings_prevent_launches() {
        let finding = |blocks, message: &str| Finding {
            reason: ClusterReadyReason::PoliciesUnknown,
            blocks,
            message: message.to_owned(),
        };
        let checked = |findings| Decision::Checked {
            findings,
            configured: true,
            cluster_dns: None,
            architecture: Architecture::default(),
            terminate_on_reboot: None,
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
