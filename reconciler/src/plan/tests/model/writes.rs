//! How the API server handles each write, the precondition first.

use std::collections::BTreeMap;

use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use maroonedpods_common::api::{MaroonedNode, MaroonedNodeSpec, MaroonedNodeStatus};
use maroonedpods_common::names;
use serde_json::Value;

use super::{GRACE, World};
use crate::objects::{identity, lift, node, record, vmi};
use crate::plan::Write;

/// A write that was refused: its precondition does not hold.
#[derive(Debug)]
pub(crate) struct Refused;

fn require(holds: bool) -> Result<(), Refused> {
    if holds { Ok(()) } else { Err(Refused) }
}

/// The taint of a Node that is not ready.
pub(super) fn not_ready(effect: &str) -> Taint {
    Taint {
        key: "node.kubernetes.io/not-ready".to_owned(),
        effect: effect.to_owned(),
        ..Taint::default()
    }
}

/// Their owner, and the names of the Secrets of an attempt.
fn credentials(record: &MaroonedNode, attempt: u32) -> (String, [String; 2]) {
    let owner = record.metadata.uid.clone().unwrap();
    let token = names::token_secret_name(&identity::token_id(record, attempt));
    let seed = names::join_secret_name(&record.spec.pod_ref.uid, attempt);
    (owner, [token, seed])
}

fn has_uid(meta: &ObjectMeta, uid: &str) -> bool {
    meta.uid.as_deref() == Some(uid)
}

impl World {
    /// Performs a write, as `act` and the API server do together.
    pub fn apply(&mut self, write: &Write) -> Result<(), Refused> {
        self.log.push(write.kind().into());
        self.written += match write {
            Write::IssueCredentials { .. } | Write::RevokeCredentials { .. } => 2,
            _ => 1,
        };
        match write {
            Write::CreateRecord { spec, at_most } => return self.create_record(spec, *at_most),
            Write::IssueCredentials { record, attempt, .. } => self.issue(record, *attempt),
            Write::CreateNode {
                record,
                attempt,
                place,
            } => return self.create_node(node::new(record, *attempt, place)),
            Write::CreateVmi { record, attempt } => self.create_vmi(record, *attempt),
            Write::RecordStatus {
                resource_version,
                status,
                ..
            } => return self.record_status(resource_version, status),
            Write::PodReport(report) => {
                let status = if report.ready { "True" } else { "False" };
                let condition = (status, report.reason.into(), report.message.as_str());
                return self.pod_condition(&report.pod.uid, names::NODE_READY_CONDITION, condition);
            }
            Write::PodNotReady(pod) => return self.pod_condition(&pod.uid, "Ready", ("False", "Gone", "")),
            Write::FailPod { pod, .. } => {
                self.pod_condition(&pod.uid, "DisruptionTarget", ("True", "Gone", ""))?;
                if let Some(pod) = &mut self.objects.pod {
                    pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
                }
            }
            Write::DecideCsr {
                name,
                resource_version,
                deny,
            } => return self.decide_csr(name, resource_version, deny.is_some()),
            Write::PlaceNode {
                node,
                address,
                labels,
            } => return self.place_node(&node.uid, address.as_deref(), labels),
            Write::RevokeCredentials { record, attempt } => {
                let (owner, secrets) = credentials(record, *attempt);
                self.secrets
                    .retain(|name, of| !secrets.contains(name) || *of != owner);
            }
            Write::RemoveStartupTaint { node, index } => return self.remove_startup_taint(&node.uid, *index),
            Write::BindPod(pod) => return self.bind(&pod.uid),
            Write::LiftGate(lift) => {
                self.patch_pod(&lift::patch(lift))?;
                self.lifts += 1;
            }
            Write::EvictPod(pod) if !self.budget_holds => self.start_pod_deletion(&pod.uid),
            Write::TryVmi { .. } | Write::EvictPod(_) => {}
            Write::DeletePod(pod) => {
                self.objects.pod.take_if(|p| has_uid(&p.metadata, &pod.uid));
            }
            Write::DeleteRecord(record) => self.delete_record(&record.uid),
            Write::DeleteVmi(vmi) => {
                let at = Time(self.now);
                let found = self.objects.vmis.get_mut(&vmi.name);
                if let Some(found) = found.filter(|v| has_uid(&v.metadata, &vmi.uid)) {
                    found.metadata.deletion_timestamp.get_or_insert(at);
                }
            }
            Write::DeleteNode(node) => self.delete_node(&node.uid),
            Write::StripNodeFinalizers(node) => self.strip_finalizers(&node.uid)?,
            Write::DeleteCsr(csr) => {
                let found = self.objects.csrs.get(&csr.name);
                if found.is_some_and(|c| has_uid(&c.metadata, &csr.uid)) {
                    self.objects.csrs.remove(&csr.name);
                }
            }
            Write::RemoveFinalizer { record, index } => return self.remove_finalizer(&record.uid, *index),
        }
        Ok(())
    }

    fn stored(&mut self, meta: &mut ObjectMeta) {
        meta.uid = Some(self.next_uid());
        meta.resource_version = Some(self.next_version().to_string());
        meta.creation_timestamp = Some(Time(self.now));
    }

    /// A taken name belongs to this pod's own record, because the CRD ties the name to the UID.
    fn create_record(&mut self, spec: &MaroonedNodeSpec, at_most: Option<u32>) -> Result<(), Refused> {
        if self.objects.record.is_none() {
            require(at_most.is_none_or(|most| self.neighbours < most))?;
            let mut new = record::new(spec.clone());
            self.stored(&mut new.metadata);
            self.objects.record = Some(new);
        }
        Ok(())
    }

    fn issue(&mut self, record: &MaroonedNode, attempt: u32) {
        let (owner, secrets) = credentials(record, attempt);
        for name in secrets {
            self.secrets.entry(name).or_insert_with(|| owner.clone());
        }
    }

    fn create_node(&mut self, mut new: Node) -> Result<(), Refused> {
        let owner = |node: &Node| node.metadata.owner_references.clone();
        if let Some(found) = &self.objects.node {
            return require(owner(found) == owner(&new));
        }
        self.stored(&mut new.metadata);
        // The API server does this to each new Node.
        let taints = new.spec.get_or_insert_default().taints.get_or_insert_default();
        taints.push(not_ready("NoSchedule"));
        self.objects.node = Some(new);
        Ok(())
    }

    fn create_vmi(&mut self, record: &MaroonedNode, attempt: u32) {
        let mut new = vmi::new(record, attempt, "marooned-vms");
        let name = new.metadata.name.clone().unwrap();
        if !self.objects.vmis.contains_key(&name) {
            self.stored(&mut new.metadata);
            self.objects.vmis.insert(name, new);
        }
    }

    fn record_status(&mut self, version: &str, status: &MaroonedNodeStatus) -> Result<(), Refused> {
        let next = self.next_version().to_string();
        let record = self.objects.record.as_mut().ok_or(Refused)?;
        require(record.metadata.resource_version.as_deref() == Some(version))?;
        let mut stored = serde_json::to_value(&*record).unwrap();
        json_patch::patch(&mut stored, &record::status_patch(version, status).unwrap()).unwrap();
        *record = serde_json::from_value(stored).unwrap();
        record.metadata.resource_version = Some(next);
        Ok(())
    }

    /// A missing pod is fine; another pod of that name is not.
    pub(super) fn pod_condition(
        &mut self,
        uid: &str,
        type_: &str,
        (status, reason, message): (&str, &str, &str),
    ) -> Result<(), Refused> {
        let next = self.next_version().to_string();
        let Some(pod) = &mut self.objects.pod else {
            return Ok(());
        };
        require(has_uid(&pod.metadata, uid))?;
        let conditions = pod
            .status
            .get_or_insert_default()
            .conditions
            .get_or_insert_default();
        let condition = PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            ..PodCondition::default()
        };
        // A write without a change does not create a new version.
        if !conditions.contains(&condition) {
            conditions.retain(|c| c.type_ != type_);
            conditions.push(condition);
            pod.metadata.resource_version = Some(next);
        }
        Ok(())
    }

    fn decide_csr(&mut self, name: &str, version: &str, denied: bool) -> Result<(), Refused> {
        let next = self.next_version().to_string();
        let csr = self.objects.csrs.get_mut(name).ok_or(Refused)?;
        require(csr.metadata.resource_version.as_deref() == Some(version))?;
        csr.metadata.resource_version = Some(next);
        csr.status.get_or_insert_default().conditions = Some(vec![CertificateSigningRequestCondition {
            type_: if denied { "Denied" } else { "Approved" }.to_owned(),
            status: "True".to_owned(),
            ..CertificateSigningRequestCondition::default()
        }]);
        if !denied {
            let user = csr.spec.username.clone().unwrap_or_default();
            *self.approvals.entry(user).or_default() += 1;
        }
        Ok(())
    }

    fn node_of(&mut self, uid: &str) -> Result<&mut Node, Refused> {
        let node = self.objects.node.as_mut();
        node.filter(|n| has_uid(&n.metadata, uid)).ok_or(Refused)
    }

    /// A missing Node is fine; another Node of that name is not.
    fn place_node(
        &mut self,
        uid: &str,
        address: Option<&str>,
        labels: &BTreeMap<String, Option<String>>,
    ) -> Result<(), Refused> {
        if self.objects.node.is_none() {
            return Ok(());
        }
        let node = self.node_of(uid)?;
        if let Some(address) = address {
            let name = names::node_name(&super::POD_UID.into());
            node.status.get_or_insert_default().addresses =
                Some(crate::objects::node::addresses(&name, address));
        }
        let stored = node.metadata.labels.get_or_insert_default();
        for (label, value) in labels {
            match value {
                Some(value) => drop(stored.insert(label.clone(), value.clone())),
                None => require(stored.remove(label).is_some())?,
            }
        }
        Ok(())
    }

    /// A missing pod is fine; another pod of that name is not, nor one that is gated, bound or being deleted.
    pub(super) fn bind(&mut self, uid: &str) -> Result<(), Refused> {
        let next = self.next_version().to_string();
        let Some(pod) = &mut self.objects.pod else {
            return Ok(());
        };
        let spec = pod.spec.get_or_insert_default();
        let gated = spec
            .scheduling_gates
            .as_ref()
            .is_some_and(|gates| !gates.is_empty());
        let deleting = pod.metadata.deletion_timestamp.is_some();
        require(has_uid(&pod.metadata, uid) && !gated && !deleting && spec.node_name.is_none())?;
        spec.node_name = Some(names::node_name(&uid.into()));
        pod.metadata.resource_version = Some(next);
        Ok(())
    }

    fn remove_startup_taint(&mut self, uid: &str, index: usize) -> Result<(), Refused> {
        let node = self.node_of(uid)?;
        let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
        require(taints.get(index).is_some_and(|t| t.key == names::STARTUP_TAINT))?;
        taints.remove(index);
        Ok(())
    }

    fn patch_pod(&mut self, patch: &json_patch::Patch) -> Result<(), Refused> {
        let mut stored: Value = serde_json::to_value(self.objects.pod.as_ref().ok_or(Refused)?).unwrap();
        json_patch::patch(&mut stored, patch).map_err(|_| Refused)?;
        let mut patched: Pod = serde_json::from_value(stored).unwrap();
        patched.metadata.resource_version = Some(self.next_version().to_string());
        self.objects.pod = Some(patched);
        Ok(())
    }

    /// A running pod gets its grace period; a pod without a kubelet is gone at once.
    pub(super) fn start_pod_deletion(&mut self, uid: &str) {
        let at = Time(self.now + GRACE);
        let Some(pod) = self.objects.pod.as_mut().filter(|p| has_uid(&p.metadata, uid)) else {
            return;
        };
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if phase == Some("Running") {
            pod.metadata.deletion_timestamp.get_or_insert(at);
            pod.metadata.deletion_grace_period_seconds = Some(GRACE.as_secs());
        } else {
            self.objects.pod = None;
        }
    }

    pub(super) fn delete_record(&mut self, uid: &str) {
        let (now, next) = (Time(self.now), self.next_version().to_string());
        let Some(record) = self.objects.record.as_mut().filter(|r| has_uid(&r.metadata, uid)) else {
            return;
        };
        if record.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
            self.objects.record = None;
        } else if record.metadata.deletion_timestamp.is_none() {
            record.metadata.deletion_timestamp = Some(now);
            record.metadata.resource_version = Some(next);
        }
    }

    pub(super) fn delete_node(&mut self, uid: &str) {
        let now = Time(self.now);
        let Some(node) = self.objects.node.as_mut().filter(|n| has_uid(&n.metadata, uid)) else {
            return;
        };
        if node.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
            self.objects.node = None;
        } else {
            node.metadata.deletion_timestamp.get_or_insert(now);
        }
    }

    fn strip_finalizers(&mut self, uid: &str) -> Result<(), Refused> {
        if self.objects.node.is_none() {
            return Ok(());
        }
        let node = self.node_of(uid)?;
        require(node.metadata.finalizers.take().is_some())?;
        if node.metadata.deletion_timestamp.is_some() {
            self.objects.node = None;
        }
        Ok(())
    }

    fn remove_finalizer(&mut self, uid: &str, index: usize) -> Result<(), Refused> {
        let Some(record) = &mut self.objects.record else {
            return Ok(());
        };
        require(has_uid(&record.metadata, uid))?;
        let finalizers = record.metadata.finalizers.get_or_insert_default();
        require(finalizers.get(index).is_some_and(|f| f == names::FINALIZER))?;
        finalizers.remove(index);
        if finalizers.is_empty() && record.metadata.deletion_timestamp.is_some() {
            self.objects.record = None;
        }
        Ok(())
    }
}
