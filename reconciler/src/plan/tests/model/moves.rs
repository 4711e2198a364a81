//! The moves of KubeVirt, the guest, Kubernetes and people. Each returns whether it changed anything.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::DynamicObject;
use maroonedpods_common::api::NetworkPolicies;
use maroonedpods_common::names;
use serde_json::{Value, json};

use super::changes::WANTED_ZONE;
use super::{ADDRESS, CsrKind, FOREIGN_ADDRESS, Guest, POD_UID, World};
use crate::objects::record;

impl World {
    /// All honest parties do once what is due; returns whether anything was.
    pub fn behave(&mut self) -> bool {
        let moves: [fn(&mut Self) -> bool; 17] = [
            Self::deleted_vms_vanish,
            Self::garbage_is_collected,
            Self::vm_is_scheduled,
            Self::vm_runs,
            Self::certificate_is_signed,
            |w| w.guest().is_some_and(|g| !g.certified) && w.guest_requests(CsrKind::Client),
            Self::kubelet_reports,
            Self::kubelet_is_ready,
            Self::others_remove_their_taints,
            Self::node_controller_acts,
            |w| w.guest().is_some_and(|g| !g.asked_serving) && w.guest_requests(CsrKind::Serving),
            Self::scheduler_binds,
            Self::pod_runs,
            Self::kubelet_stops_pod,
            Self::pod_is_orphaned,
            |w| std::mem::take(&mut w.budget_holds),
            |w| !std::mem::take(&mut w.policies).is_empty(),
        ];
        moves.iter().filter(|step| step(self)).count() > 0
    }

    /// A policy selects the pod from now on.
    pub fn policy_is_written(&mut self) -> bool {
        let none = self.policies.is_empty();
        self.policies = vec!["deny-all".to_owned()];
        none
    }

    /// The configuration changes its mode for policies.
    pub fn configure_policies(&mut self, wanted: NetworkPolicies) -> bool {
        let Some(settings) = &mut self.settings else {
            return false;
        };
        let now = &mut Arc::make_mut(settings).spec.vm.network_policies;
        std::mem::replace(now, wanted) != wanted
    }

    pub fn deleted_vms_vanish(&mut self) -> bool {
        let before = self.objects.vmis.len();
        self.objects
            .vmis
            .retain(|_, v| v.metadata.deletion_timestamp.is_none());
        before != self.objects.vmis.len()
    }

    /// Kubernetes deletes the objects that a deleted record owned, and our sweep deletes the VMs of other attempts.
    pub fn garbage_is_collected(&mut self) -> bool {
        let record = self.record_uid();
        let owned = |meta: &ObjectMeta| {
            let owners = meta.owner_references.as_deref().unwrap_or_default();
            owners.iter().any(|o| o.uid == record)
        };
        let now = Time(self.now);
        let current = names::vmi_name(
            &POD_UID.into(),
            self.objects.record.as_ref().map_or(1, record::attempt),
        );
        let secrets = self.secrets.len();
        self.secrets.retain(|_, owner| *owner == record);
        let mut moved = secrets != self.secrets.len();
        for (name, vmi) in &mut self.objects.vmis {
            if vmi.metadata.deletion_timestamp.is_none() && (!owned(&vmi.metadata) || *name != current) {
                vmi.metadata.deletion_timestamp = Some(now.clone());
                moved = true;
            }
        }
        if let Some(node) = self.objects.node.take_if(|n| !owned(&n.metadata)) {
            // Without its record, only kube-controller-manager's own Node lifecycle removes a finalizer from it.
            drop(node);
            moved = true;
        }
        moved
    }

    /// The scheduler finds a host in the zone that the VM asks for.
    pub fn vm_is_scheduled(&mut self) -> bool {
        let due = self.vmi().is_some_and(|v| v.phase.is_empty());
        if due && self.record().spec.placement.affinity.is_some() {
            self.zone = Some(WANTED_ZONE);
        }
        due && self.set_vmi(|status| {
            status["phase"] = json!("Scheduling");
            status["nodeName"] = json!("host-1");
        })
    }

    pub fn vm_runs(&mut self) -> bool {
        if !self.vmi().is_some_and(|v| v.phase == "Scheduling" && !v.deleting) {
            return false;
        }
        let uid = self.vmi().unwrap().uid;
        self.guests.entry(uid).or_default().boots += 1;
        self.set_vmi(|status| {
            status["phase"] = json!("Running");
            status["conditions"] = json!([]);
            status["interfaces"] = json!([{"name": "cni0", "ipAddress": "10.9.9.9"},
                {"name": names::VM_INTERFACE, "ipAddress": ADDRESS}]);
        })
    }

    /// A pod that has taken over its guest makes the guest's agent report any address.
    pub fn guest_fakes_address(&mut self) -> bool {
        self.pod_is_running() && self.vm_address_changes()
    }

    /// The VM gets another address, or its guest claims one.
    pub fn vm_address_changes(&mut self) -> bool {
        self.set_vmi(|status| {
            status["interfaces"] = json!([{"name": names::VM_INTERFACE, "ipAddress": FOREIGN_ADDRESS}]);
        })
    }

    /// As on a cluster whose pod network has no IPv4.
    pub fn vm_has_only_ipv6(&mut self) -> bool {
        self.set_vmi(|status| {
            status["interfaces"] =
                json!([{"name": names::VM_INTERFACE, "ipAddress": "fd00::7", "ipAddresses": ["fd00::7"]}]);
        })
    }

    /// A user relabels the VM's host, or removes it from the cluster.
    pub fn host_zone_changes(&mut self, zone: Option<&'static str>) -> bool {
        std::mem::replace(&mut self.zone, zone) != zone
    }

    pub fn vm_is_blocked(&mut self) -> bool {
        self.set_vmi(|status| {
            status["conditions"] = json!([{"type": "PodScheduled", "status": "False",
                "reason": "Unschedulable", "message": "0/3 nodes"}]);
        })
    }

    pub fn vm_ends(&mut self) -> bool {
        self.set_vmi(|status| status["phase"] = json!("Failed"))
    }

    pub fn vm_vanishes(&mut self) -> bool {
        self.objects.vmis.remove(&self.objects.vmi_name()).is_some()
    }

    /// A user deletes the VMI and creates another with the same name.
    pub fn vm_is_replaced(&mut self) -> bool {
        let uid = self.next_uid();
        self.change_vmi(|vmi| {
            vmi.metadata.uid = Some(uid);
            vmi.data["status"] = Value::Null;
        })
    }

    pub fn host_is_drained(&mut self) -> bool {
        self.set_vmi(|status| status["evacuationNodeName"] = json!("host-1"))
    }

    /// The guest reboots; its kubelet comes back with another boot id.
    pub fn guest_reboots(&mut self) -> bool {
        let Some(vmi) = self.vmi().filter(super::VmiView::running) else {
            return false;
        };
        let boots = {
            let guest = self.guests.entry(vmi.uid).or_default();
            guest.boots += 1;
            guest.boots
        };
        self.change_node(|node| {
            if let Some(info) = node.status.as_mut().and_then(|s| s.node_info.as_mut()) {
                info.boot_id = format!("boot-{boots}");
            }
        })
    }

    fn guest(&self) -> Option<Guest> {
        let vmi = self.vmi().filter(|v| v.running() && !v.deleting)?;
        self.guests.get(&vmi.uid).cloned()
    }

    /// The guest files a request, if it has the credential for it.
    pub fn guest_requests(&mut self, kind: CsrKind) -> bool {
        let Some(guest) = self.guest() else { return false };
        let token = self.token_id();
        let joined = self.node().is_some_and(|n| !n.system_uuid.is_empty());
        let may = match kind {
            CsrKind::Client | CsrKind::OtherNode => {
                self.secrets.contains_key(&names::token_secret_name(&token))
            }
            CsrKind::Renewal => guest.certified,
            CsrKind::Serving | CsrKind::OtherAddress => {
                guest.certified && joined && self.node().is_some_and(|n| n.address.is_some())
            }
        };
        let mut csr = kind.request(&token);
        let same = |other: &&k8s_openapi::api::certificates::v1::CertificateSigningRequest| {
            other.spec == csr.spec && crate::csr::is_pending(other)
        };
        if !may || self.objects.csrs.values().any(|other| same(&other)) {
            return false;
        }
        if kind == CsrKind::Serving {
            let uid = self.vmi().unwrap().uid;
            self.guests.entry(uid).or_default().asked_serving = true;
        }
        let version = self.next_version();
        csr.metadata = ObjectMeta {
            name: Some(format!("csr-{version}")),
            uid: Some(self.next_uid()),
            resource_version: Some(version.to_string()),
            creation_timestamp: Some(Time(self.now)),
            ..ObjectMeta::default()
        };
        self.objects.csrs.insert(format!("csr-{version}"), csr);
        true
    }

    /// An approved client request of this attempt is signed, and the guest fetches the certificate.
    pub fn certificate_is_signed(&mut self) -> bool {
        let user = format!("{}{}", names::BOOTSTRAP_USER_PREFIX, self.token_id());
        let approved = self
            .objects
            .csrs
            .values()
            .any(|c| c.spec.username.as_ref() == Some(&user) && crate::csr::is_approved(c));
        if !approved || self.guest().is_none_or(|g| g.certified) {
            return false;
        }
        let uid = self.vmi().unwrap().uid;
        self.guests.entry(uid).or_default().certified = true;
        true
    }

    /// The kubelet's first status.
    pub fn kubelet_reports(&mut self) -> bool {
        let firmware = self
            .objects
            .vmis
            .get(&self.objects.vmi_name())
            .map(|v| v.data["spec"]["domain"]["firmware"]["uuid"].clone());
        self.kubelet_reports_as(firmware.as_ref().and_then(Value::as_str).unwrap_or_default())
    }

    /// A kubelet reports its first status, with `machine` as its machine.
    pub fn kubelet_reports_as(&mut self, machine: &str) -> bool {
        let Some(guest) = self.guest().filter(|g| g.certified) else {
            return false;
        };
        if self.node().is_none_or(|n| !n.system_uuid.is_empty()) {
            return false;
        }
        self.change_node(|node| {
            node.status.get_or_insert_default().node_info = Some(NodeSystemInfo {
                system_uuid: machine.to_owned(),
                boot_id: format!("boot-{}", guest.boots),
                ..NodeSystemInfo::default()
            });
        })
    }

    pub fn kubelet_is_ready(&mut self) -> bool {
        let can =
            self.guest().is_some() && self.node().is_some_and(|n| !n.system_uuid.is_empty() && !n.ready);
        can && self.node_ready("True")
    }

    pub fn kubelet_is_unready(&mut self) -> bool {
        self.node_ready("Unknown")
    }

    fn node_ready(&mut self, status: &str) -> bool {
        self.change_node(|node| {
            node.status.get_or_insert_default().conditions = Some(vec![NodeCondition {
                type_: "Ready".to_owned(),
                status: status.to_owned(),
                ..NodeCondition::default()
            }]);
        })
    }

    /// The guest adds a finalizer to its Node.
    pub fn guest_adds_node_finalizer(&mut self) -> bool {
        self.change_node(|node| node.metadata.finalizers = Some(vec!["evil/hold".to_owned()]))
    }

    /// A user deletes the Node.
    pub fn node_is_deleted(&mut self) -> bool {
        let uid = self.node().map(|n| n.uid);
        uid.inspect(|uid| self.delete_node(uid)).is_some()
    }

    /// The kubelet starts a pod that is bound to its Node.
    pub fn pod_runs(&mut self) -> bool {
        let open = self.node().is_some_and(|n| n.ready);
        let waiting = self.pod().is_some_and(|p| p.bound && !p.terminal && !p.ready);
        open && waiting && self.guest().is_some() && self.pod_phase("Running") && self.pod_ready()
    }

    fn pod_ready(&mut self) -> bool {
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let kept = self
            .objects
            .pod
            .as_ref()
            .and_then(|p| p.status.as_ref()?.conditions.clone());
        let ready: k8s_openapi::api::core::v1::Pod = serde_json::from_value(ready).unwrap();
        let mut conditions = ready.status.unwrap().conditions.unwrap();
        conditions.extend(
            kept.unwrap_or_default()
                .into_iter()
                .filter(|c| c.type_ != "Ready"),
        );
        if let Some(pod) = &mut self.objects.pod {
            pod.status.get_or_insert_default().conditions = Some(conditions);
        }
        true
    }

    fn pod_phase(&mut self, phase: &str) -> bool {
        let Some(pod) = &mut self.objects.pod else {
            return false;
        };
        pod.status.get_or_insert_default().phase = Some(phase.to_owned());
        true
    }

    fn pod_is_running(&self) -> bool {
        let status = self.objects.pod.as_ref().and_then(|p| p.status.as_ref());
        status.and_then(|s| s.phase.as_deref()) == Some("Running")
    }

    /// Its containers end by themselves.
    pub fn pod_finishes(&mut self) -> bool {
        self.pod_is_running() && self.guest().is_some() && self.pod_phase("Succeeded")
    }

    pub fn pod_is_deleted(&mut self) -> bool {
        let uid = self.pod().map(|p| p.uid);
        uid.inspect(|uid| self.start_pod_deletion(uid.as_str())).is_some()
    }

    /// The kubelet in the VM has stopped the containers of a pod that is being deleted.
    pub fn kubelet_stops_pod(&mut self) -> bool {
        let goes = self.pod().is_some_and(|p| p.deletion_deadline.is_some());
        (goes && self.guest().is_some() && self.node().is_some()) && self.objects.pod.take().is_some()
    }

    /// `PodGC` deletes a pod whose Node does not exist.
    pub fn pod_is_orphaned(&mut self) -> bool {
        let bound = self.pod().is_some_and(|p| p.bound && !p.terminal);
        (bound && self.objects.node.is_none()) && self.objects.pod.take().is_some()
    }

    /// A new pod gets the old one's name, as in a StatefulSet.
    pub fn pod_is_recreated(&mut self) -> bool {
        let uid = self.next_uid();
        let fresh = Self::new().objects.pod;
        if self.objects.pod.is_some() {
            return false;
        }
        self.objects.pod = fresh;
        if let Some(pod) = &mut self.objects.pod {
            pod.metadata.uid = Some(uid);
        }
        true
    }

    /// A user with the right to do so removes our gate.
    pub fn others_remove_the_gate(&mut self) -> bool {
        let spec = self.objects.pod.as_mut().and_then(|p| p.spec.as_mut());
        let gates = spec.and_then(|s| s.scheduling_gates.as_mut());
        gates.is_some_and(|gates| {
            let before = gates.len();
            gates.retain(|g| g.name != names::GATE);
            before != gates.len()
        })
    }

    pub fn record_is_deleted(&mut self) -> bool {
        let uid = self.record_uid();
        self.delete_record(&uid);
        !uid.is_empty()
    }

    pub fn change_node(&mut self, change: impl FnOnce(&mut Node)) -> bool {
        self.objects.node.as_mut().map(change).is_some()
    }

    fn set_vmi(&mut self, change: impl FnOnce(&mut Value)) -> bool {
        self.change_vmi(|vmi| change(&mut vmi.data["status"]))
    }

    fn change_vmi(&mut self, change: impl FnOnce(&mut DynamicObject)) -> bool {
        let name = self.objects.vmi_name();
        self.objects.vmis.get_mut(&name).map(change).is_some()
    }
}
