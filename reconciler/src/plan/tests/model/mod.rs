//! A control plane in memory, for one pod: how the API server handles our writes, and ([`moves`]) what KubeVirt, the
//! guest and people do meanwhile. It has only the semantics that the plan relies on.

mod certificates;
mod changes;
mod judge;
mod moves;
mod scheduler;
mod taints;
mod writes;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use maroonedpods_common::api::{Architecture, MaroonedNode, MaroonedNodeStatus, PodReason};
use maroonedpods_common::names;
use serde_json::json;

use crate::csr::{Filed, Requester};
use crate::objects::identity;
use crate::objects::record;
use crate::observe;
use crate::placement::claims::PodClaim;
use crate::plan::{self, Decision};
use crate::read::{self, view_of};
use crate::settings::Settings;
use crate::sightings::{Ages, Sightings};
use crate::view::Observed;
use crate::view::{NodeView, PodView, VmiView};

/// The time at which every world begins.
const BEGINNING: &str = "2026-01-01T00:00:00.4Z";

pub(super) use certificates::CsrKind;
use judge::Pass;
pub(super) use record::tests::POD_UID;

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
pub(super) const ADDRESS: &str = "10.42.0.7";
/// The address of another VM, which the guest may claim.
pub(super) const FOREIGN_ADDRESS: &str = "10.42.0.66";
pub(super) const GRACE: SignedDuration = SignedDuration::from_secs(30);

/// The objects in a watch cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub pod: Option<Pod>,
    pub record: Option<MaroonedNode>,
    pub node: Option<Node>,
    pub vmis: BTreeMap<String, DynamicObject>,
    pub csrs: BTreeMap<String, CertificateSigningRequest>,
}

/// What only the guest knows about itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Guest {
    /// It holds a client certificate.
    pub certified: bool,
    /// It has requested a serving certificate.
    pub asked_serving: bool,
    /// How often it has booted.
    pub boots: u32,
}

/// The API server's state, the guests' memory, and a clock.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub now: Timestamp,
    pub settings: Option<Arc<Settings>>,
    pub hold: Option<String>,
    pub cluster_dns: Option<String>,
    /// Whether KubeVirt is known to accept `rebootPolicy`.
    pub terminate_on_reboot: Option<bool>,
    pub policies: Vec<String>,
    /// The pod's claims.
    pub claims: Vec<PodClaim>,
    /// The number of records of other pods in the namespace.
    pub neighbours: u32,
    pub objects: Objects,
    /// Both kinds of Secret, by name, with the UID of the owner.
    pub secrets: BTreeMap<String, String>,
    /// By UID of the VMI.
    pub guests: BTreeMap<String, Guest>,
    /// The number of approved CSRs, by requesting user.
    pub approvals: BTreeMap<String, usize>,
    /// How often the gate was lifted.
    pub lifts: usize,
    /// The number of writes sent to the API server.
    pub written: usize,
    /// Their kinds, in order.
    pub log: Vec<&'static str>,
    /// The zone label of the VM's host; `None` if the host has none or is gone.
    pub zone: Option<&'static str>,
    /// A disruption budget blocks evictions.
    pub budget_holds: bool,
    /// Which of the two leaders reads and writes.
    pub leader: usize,
    /// How far the leaders' clocks are ahead.
    pub skews: [SignedDuration; 2],
    /// What each leader has seen since when.
    pub sightings: [RefCell<Sightings>; 2],
    version: u64,
}

/// The end state, once nothing changes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The pod runs on its own node.
    Lifted,
    /// Nothing is left, except perhaps the pod.
    Gone,
}

impl World {
    /// A pod as the webhook creates it, and a configuration.
    pub fn new() -> Self {
        let pod = json!({
            "metadata": {"namespace": "ns", "name": "pod", "uid": POD_UID, "resourceVersion": "0",
                "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {(names::MAROON_LABEL): "true"}},
            "spec": {
                "containers": [{"name": "main", "image": "app"}],
                "schedulingGates": [{"name": names::GATE}],
                "schedulerName": names::SCHEDULER_NAME,
                "nodeSelector": {(names::CLASS_LABEL): names::CLASS_LABEL_VALUE},
            },
            "status": {"phase": "Pending"},
        });
        Self {
            now: BEGINNING.parse().unwrap(),
            settings: Some(Arc::new(Settings::parse(crate::settings::tests::spec()).unwrap())),
            hold: None,
            cluster_dns: Some("10.96.0.10".to_owned()),
            terminate_on_reboot: None,
            policies: Vec::new(),
            claims: Vec::new(),
            neighbours: 0,
            objects: Objects {
                pod: Some(serde_json::from_value(pod).unwrap()),
                ..Objects::default()
            },
            secrets: BTreeMap::new(),
            guests: BTreeMap::new(),
            approvals: BTreeMap::new(),
            lifts: 0,
            written: 0,
            log: Vec::new(),
            zone: Some("z"),
            budget_holds: false,
            leader: 0,
            skews: [SignedDuration::ZERO; 2],
            sightings: Default::default(),
            version: 0,
        }
    }

    /// A live read of everything; CSRs come from `cache`, as in `observe::live`.
    pub fn live_view(&self, cache: &Objects) -> Observed {
        Observed {
            csrs: self.objects.related_csrs(&cache.csrs),
            claims: Some(self.claims.clone()),
            ..self.cached_view(&self.objects)
        }
    }

    /// The time on the leader's clock.
    pub fn clock(&self) -> Timestamp {
        self.now + self.skews[self.leader]
    }

    /// Another process leads from now on; its clock is `ahead`.
    pub fn take_over(&mut self, ahead: SignedDuration) {
        self.sightings[self.leader] = RefCell::default();
        self.skews[self.leader] = ahead;
    }

    pub fn cached_view(&self, cache: &Objects) -> Observed {
        let pod = cache
            .pod
            .as_ref()
            .and_then(view_of::<PodView>)
            .filter(|p| p.uid == *POD_UID);
        let uptime = self.now.duration_since(BEGINNING.parse().unwrap());
        let sized = match (&cache.record, &pod, &self.settings) {
            (None, Some(pod), Some(settings)) => Some(observe::size(pod, settings)),
            _ => None,
        };
        let mut observed = Observed {
            settings: self.settings.clone(),
            hold: self.hold.clone(),
            cluster_dns: self.cluster_dns.clone(),
            architecture: Architecture::default(),
            terminate_on_reboot: self.terminate_on_reboot,
            policies: self.policies.clone(),
            namespace_records: self.neighbours,
            pod,
            size: sized,
            record: cache.record.clone().map(Arc::new),
            node: cache.node.as_ref().and_then(view_of::<NodeView>),
            vmi: cache.vmis.get(&cache.vmi_name()).and_then(view_of::<VmiView>),
            csrs: cache.related_csrs(&cache.csrs),
            topology: self.host_topology(cache),
            claims: None,
            claims_bound: false,
            ages: Ages::default(),
            backing_off: None,
        };
        observed.ages = self.sightings[self.leader].borrow_mut().see(&observed, uptime);
        observed
    }

    fn host_topology(&self, cache: &Objects) -> Option<BTreeMap<String, String>> {
        let vmi = cache.vmis.get(&cache.vmi_name()).and_then(VmiView::of)?;
        vmi.host?;
        let zone = self.zone.map(|zone| (ZONE.to_owned(), zone.to_owned()));
        Some(zone.into_iter().collect())
    }

    /// The decision of a leader whose caches are up to date.
    pub fn decide(&self) -> Decision {
        self.decide_from(&self.objects)
    }

    /// Decides as the workers do: from the cache if that is enough, otherwise from a live read.
    pub fn decide_from(&self, cache: &Objects) -> Decision {
        let decision = plan::decide(&self.cached_view(cache), self.clock());
        if decision.needs_live_view() {
            plan::decide(&self.live_view(cache), self.clock())
        } else {
            decision
        }
    }

    /// Makes one pass with caches that are up to date; returns the plan for assertions.
    pub fn pass(&mut self) -> Decision {
        let decision = self.decide();
        for write in &decision.writes {
            self.apply(write).unwrap();
        }
        decision
    }

    pub fn status(&self) -> MaroonedNodeStatus {
        self.objects
            .record
            .as_ref()
            .and_then(|r| r.status.clone())
            .unwrap_or_default()
    }

    /// The record; without one, a record that the API server never had.
    pub fn record(&self) -> MaroonedNode {
        let never_stored = || MaroonedNode {
            metadata: ObjectMeta::default(),
            ..record::tests::record()
        };
        self.objects.record.clone().unwrap_or_else(never_stored)
    }

    pub fn record_uid(&self) -> String {
        let uid = self.objects.record.as_ref().and_then(|r| r.metadata.uid.clone());
        uid.unwrap_or_default()
    }

    pub fn attempt(&self) -> u32 {
        self.objects.record.as_ref().map_or(1, record::attempt)
    }

    pub fn pod(&self) -> Option<PodView> {
        self.objects.pod.as_ref().and_then(view_of::<PodView>)
    }

    pub fn node(&self) -> Option<NodeView> {
        self.objects.node.as_ref().and_then(view_of::<NodeView>)
    }

    /// The VMI of the current attempt.
    pub fn vmi(&self) -> Option<VmiView> {
        self.objects
            .vmis
            .get(&self.objects.vmi_name())
            .and_then(view_of::<VmiView>)
    }

    pub fn token_id(&self) -> String {
        identity::token_id(&self.record(), self.attempt())
    }

    pub fn tick(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Sleeps until the leader's clock shows `at`, but at least for a second.
    pub fn sleep_until(&mut self, at: Timestamp) {
        self.now += at.duration_since(self.clock()).max(SignedDuration::from_secs(1));
    }

    /// Lets all parties act, one pass after the other, until nothing changes; returns the end state. The rules of
    /// [`judge`] hold throughout.
    ///
    /// # Errors
    /// The rule that was broken, what is wrong with the end state, or that there is none within `passes`.
    pub fn settle(&mut self, passes: usize) -> Result<Outcome, String> {
        for _ in 0..passes {
            let moved = self.behave();
            self.judge()?;
            let cache = self.objects.clone();
            let Pass { decision, refused } = self.judged_pass(&cache, usize::MAX)?;
            if refused {
                self.tick(1);
            } else if decision.writes.is_empty() && !moved {
                match decision.wake {
                    Some(at) => self.sleep_until(at),
                    None => return self.outcome(),
                }
            }
        }
        Err(format!(
            "no end after {passes} passes: {:?}",
            self.decide().writes
        ))
    }

    /// Judges a world in which nothing changes any more.
    fn outcome(&self) -> Result<Outcome, String> {
        let left: Vec<_> = self
            .objects
            .vmis
            .keys()
            .chain(self.secrets.keys())
            .map(String::as_str)
            .chain(self.objects.node.as_ref().map(|_| "the node"))
            .collect();
        let status = self.status();
        let pod = self.pod().filter(|p| p.uid == *POD_UID);
        match (&self.objects.record, pod) {
            // Until its author changes it.
            (None, Some(pod))
                if pod
                    .condition
                    .as_ref()
                    .is_some_and(|said| said.gives(PodReason::Unplaceable)) =>
            {
                Ok(Outcome::Gone)
            }
            (None, Some(pod)) if pod.gate_index.is_some() && !pod.terminal => {
                Err("the pod waits, and no worker serves it".to_owned())
            }
            (None, _) if left.is_empty() => Ok(Outcome::Gone),
            (None, _) => Err(format!("left behind: {left:?}")),
            // A scheduler of its own may keep a pod off its Node.
            (Some(_), Some(pod)) if pod.ours_to_bind && pod.lifted() && !pod.bound && !pod.terminal => {
                Err("the pod is lifted, and nobody binds it".to_owned())
            }
            (Some(_), Some(pod)) if pod.lifted() && status.vmi_uid.is_some() && self.secrets.is_empty() => {
                Ok(Outcome::Lifted)
            }
            (Some(_), pod) => Err(format!(
                "stuck in {:?}, pod {}, left {left:?}",
                status.phase,
                pod.is_some()
            )),
        }
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn next_uid(&mut self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.next_version())
    }
}

impl Objects {
    fn vmi_name(&self) -> String {
        names::vmi_name(&POD_UID.into(), self.record.as_ref().map_or(1, record::attempt))
    }

    fn related_csrs(&self, csrs: &BTreeMap<String, CertificateSigningRequest>) -> Vec<Arc<Filed>> {
        let ids =
            |record: &MaroonedNode| identity::recent_token_ids(record, record::attempt(record)).collect();
        let tokens: Vec<String> = self.record.as_ref().map(ids).unwrap_or_default();
        let related = |filed: &Filed| match filed.requester() {
            Some(Requester::Token(id)) => tokens.iter().any(|own| own == id),
            Some(Requester::Node(name)) => name == names::node_name(&POD_UID.into()),
            None => false,
        };
        let filed = csrs.values().cloned().filter_map(<Filed as read::View>::read);
        filed.filter(related).map(Arc::new).collect()
    }
}

/// Kinds of writes, for assertions on their order.
pub(super) fn kinds(decision: &Decision) -> Vec<&'static str> {
    decision.writes.iter().map(|write| write.kind().into()).collect()
}
