//! What of a pod's specification bears on where it can run.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Affinity, PodSpec, TopologySpreadConstraint};
use serde::{Deserialize, Serialize};

use super::guest;

/// What of a pod's specification bears on where it can run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wishes {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) affinity: Option<Affinity>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) spread: Vec<TopologySpreadConstraint>,
    /// What its guest must offer, as capabilities are written.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) guest: BTreeSet<String>,
    /// Names of its volume claims.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) claims: BTreeSet<String>,
    /// Names of its ephemeral volumes, each of which gets a claim.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) ephemeral: BTreeSet<String>,
}

impl Wishes {
    /// Reads a pod's wishes. The pattern names each field of a pod: one that a later Kubernetes adds does not compile until
    /// it is judged, or said to have no bearing here.
    #[must_use]
    pub fn of(spec: &PodSpec) -> Self {
        let PodSpec {
            affinity,
            node_selector,
            topology_spread_constraints,
            // Met by the guest, or not.
            containers,
            init_containers,
            host_users,
            os,
            overhead,
            resource_claims,
            resources,
            runtime_class_name,
            security_context,
            volumes,
            // Judged elsewhere: `admission` (node names), `binding` and the lift (gates, tolerations, the scheduler), the
            // record's options (priority class).
            node_name: _,
            priority_class_name: _,
            scheduler_name: _,
            scheduling_gates: _,
            tolerations: _,
            // On a Node of its own a pod neither preempts nor is preempted, and no group of pods shares a node.
            preemption_policy: _,
            priority: _,
            scheduling_group: _,
            // The same on every node.
            active_deadline_seconds: _,
            automount_service_account_token: _,
            dns_config: _,
            dns_policy: _,
            enable_service_links: _,
            ephemeral_containers: _,
            host_aliases: _,
            host_ipc: _,
            host_network: _,
            host_pid: _,
            hostname: _,
            hostname_override: _,
            image_pull_secrets: _,
            readiness_gates: _,
            restart_policy: _,
            service_account: _,
            service_account_name: _,
            set_hostname_as_fqdn: _,
            share_process_namespace: _,
            subdomain: _,
            termination_grace_period_seconds: _,
        } = spec;
        let (mut claims, mut ephemeral) = (BTreeSet::new(), BTreeSet::new());
        let mut needs = guest::Needs::default();
        for container in containers.iter().chain(init_containers.iter().flatten()) {
            needs.of_container(container);
        }
        for volume in volumes.iter().flatten() {
            needs.of_volume(volume);
            if let Some(claim) = &volume.persistent_volume_claim {
                claims.insert(claim.claim_name.clone());
            }
            if volume.ephemeral.is_some() {
                ephemeral.insert(volume.name.clone());
            }
        }
        needs.of_resources(resources.as_ref());
        needs.of_list(overhead.as_ref());
        needs.of_security(security_context.as_ref());
        needs.is_needed("user-namespaces", *host_users == Some(false));
        needs.is_needed(
            "resource-claims",
            resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()),
        );
        if let Some(os) = os.as_ref().filter(|os| os.name != "linux") {
            needs.named("os", &os.name);
        }
        if let Some(class) = runtime_class_name.as_ref().filter(|class| !class.is_empty()) {
            needs.named("runtime-class", class);
        }
        Self {
            node_selector: node_selector.clone().unwrap_or_default(),
            affinity: affinity.clone(),
            spread: topology_spread_constraints.clone().unwrap_or_default(),
            guest: needs.into_set(),
            claims,
            ephemeral,
        }
    }
}
