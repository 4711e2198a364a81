//! The rules that hold at every write and after every step, in whichever order things happen: S1, S2, S4 and S6.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use maroonedpods_common::api::{NetworkPolicies, NodeCondition};
use maroonedpods_common::names;

use super::writes::Refused;
use super::{Objects, POD_UID, World};
use crate::objects::{identity, record};
use crate::plan::{Decision, Write};
use crate::read::view_of;
use crate::view::VmiView;

/// A judged pass.
pub(crate) struct Pass {
    pub decision: Decision,
    /// The API server refused one of the writes, which ended the pass.
    pub refused: bool,
}

impl World {
    /// Makes a pass of the present leader, whose caches hold `cache`. It crashes after `most` writes.
    ///
    /// # Errors
    /// The rule that the pass broke.
    pub fn judged_pass(&mut self, cache: &Objects, most: usize) -> Result<Pass, String> {
        let decision = self.decide_from(cache);
        if decision.writes.iter().any(destroys) && !decision.needs_live_view() {
            return Err(format!("S6: planned from a cache: {:?}", decision.writes));
        }
        let mut refused = false;
        for write in decision.writes.iter().take(most) {
            refused = self.judged_write(write)?.is_err();
            if refused {
                break;
            }
        }
        self.judge()?;
        Ok(Pass { decision, refused })
    }

    /// Performs a write.
    ///
    /// # Errors
    /// The rule that the write broke.
    pub fn judged_write(&mut self, write: &Write) -> Result<Result<(), Refused>, String> {
        if matches!(write, Write::LiftGate(_)) {
            self.verified().map_err(|why| format!("S1: {why}"))?;
            if self.must_wait_for_policy() {
                return Err("lifted although a policy must be waited for".to_owned());
            }
        }
        if let Write::BindPod(asked) = write
            && self
                .pod()
                .is_some_and(|p| asked.uid == *p.uid.as_str() && !p.lifted())
        {
            return Err("S1: bound before its lift".to_owned());
        }
        if let Some(waited) = self.deadline_missed(write) {
            return Err(format!("failed by its deadline after {waited:#}"));
        }
        let gated = self.pod().is_some_and(|p| p.gate_index.is_some());
        let outcome = self.apply(write);
        let after = self.pod().filter(|p| gated && p.gate_index.is_none());
        if after.is_some_and(|p| !p.lifted()) {
            return Err(format!("S1: {} took the gate without pinning", write.kind()));
        }
        Ok(outcome)
    }

    /// Judges the world as it is.
    ///
    /// # Errors
    /// The rule that does not hold.
    pub fn judge(&self) -> Result<(), String> {
        let living = self.living_vms();
        if living.len() > 1 {
            return Err(format!("S2: these VMs live at once: {living:?}"));
        }
        if self.impersonates() {
            return Err("S4: a serving certificate names another's address".to_owned());
        }
        let twice = self
            .approvals
            .iter()
            .find(|(user, n)| user.starts_with(names::BOOTSTRAP_USER_PREFIX) && **n > 1);
        twice.map_or(Ok(()), |(user, n)| {
            Err(format!("S4: {user} had {n} client requests approved"))
        })
    }

    /// UIDs of the VMs that have neither ended nor been deleted.
    pub fn living_vms(&self) -> BTreeSet<String> {
        self.objects
            .vmis
            .values()
            .filter_map(view_of::<VmiView>)
            .filter(|v| !v.ended() && !v.deleting)
            .map(|v| v.uid)
            .collect()
    }

    /// Whether the pod's own Node exists, is ready and belongs to the pod's VM.
    fn verified(&self) -> Result<(), &'static str> {
        let node = self.node().ok_or("no node")?;
        let vmi = self.vmi().ok_or("no VM")?;
        let status = self.status();
        let firmware = identity::firmware_uuid(&self.record(), self.attempt()).to_string();
        let all = [
            (node.ready, "the node is not ready"),
            (node.system_uuid == firmware, "the node runs elsewhere"),
            (vmi.running() && !vmi.deleting, "the VM does not run"),
            (status.vmi_uid.as_ref() == Some(&vmi.uid), "the VM was replaced"),
            (
                status.node_uid.as_ref() == Some(&node.uid),
                "the node was replaced",
            ),
            (
                node.labelled_for.as_deref() == Some(POD_UID),
                "the labels are gone",
            ),
            (
                self.taints_in_the_way()
                    .iter()
                    .all(|key| key == names::STARTUP_TAINT),
                "a taint is in the way",
            ),
            (self.secrets.is_empty(), "the join credential still works"),
        ];
        all.iter()
            .find(|(holds, _)| !holds)
            .map_or(Ok(()), |(_, why)| Err(why))
    }

    /// Whether a policy selects the pod and the configuration requires the pod to wait for that.
    fn must_wait_for_policy(&self) -> bool {
        let configured = self.settings.as_ref().map(|s| s.spec.vm.network_policies);
        !self.policies.is_empty() && configured == Some(NetworkPolicies::Refuse)
    }

    /// The age of the VM that this write abandons because of a deadline, if that is too early.
    fn deadline_missed(&self, write: &Write) -> Option<SignedDuration> {
        let Write::RecordStatus { status, .. } = write else {
            return None;
        };
        let failed = record::condition(status, NodeCondition::Launched).filter(|c| c.status == "False")?;
        let new =
            record::condition(&self.status(), NodeCondition::Launched).is_none_or(|c| c.status == "True");
        let mut vmis = self.objects.vmis.values();
        let vmi = vmis.find(|vmi| vmi.metadata.uid == status.vmi_uid)?;
        let waited = self
            .now
            .duration_since(vmi.metadata.creation_timestamp.as_ref()?.0);
        let late = failed.reason.ends_with("Deadline") && new;
        (late && waited < SignedDuration::from_mins(5)).then_some(waited)
    }
}

/// A list of its own on purpose, independent of `Write::needs_live_view`.
fn destroys(write: &Write) -> bool {
    matches!(
        write,
        Write::DeletePod(_)
            | Write::DeleteRecord(_)
            | Write::DeleteVmi(_)
            | Write::DeleteNode(_)
            | Write::DeleteCsr(_)
            | Write::StripNodeFinalizers(_)
            | Write::RemoveFinalizer { .. }
            | Write::FailPod { .. }
            | Write::EvictPod(_)
            | Write::LiftGate(_)
    )
}
