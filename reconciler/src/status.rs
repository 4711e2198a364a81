//! The status of the `MaroonedPodsConfig`: a condition for each part of the reconciler, and how many records there are.

use jiff::Timestamp;
use kube::api::Patch;
use maroonedpods_common::api::{
    ConfigCondition, MaroonedNode, MaroonedPodsConfig, MaroonedPodsConfigStatus, NodeCounts, Phase,
    ProviderReadyReason,
};
use maroonedpods_common::names;
use serde_json::json;
use strum::VariantArray;

use crate::answer::Answer;
use crate::api::{CallError, Cluster, call, find};
use crate::conditions::{self, ConditionUpdate};
use crate::metrics::Metrics;
use crate::params;

const TRIES: u32 = 5;

/// Changes the configuration's status, if there is a configuration and `change` changes anything. Parts of the reconciler
/// write to it independently, so the later of two that meet reads again and loses nothing of the other's.
///
/// # Errors
/// The API server's, but for a conflict that the next try does not meet again.
pub async fn edit(
    cluster: &Cluster,
    change: impl Fn(&MaroonedPodsConfig, &mut MaroonedPodsConfigStatus),
) -> Result<(), CallError> {
    let configs = cluster.all::<MaroonedPodsConfig>();
    let mut tries = 0;
    loop {
        let Some(config) = find(&configs, names::CONFIG_NAME).await? else {
            return Ok(());
        };
        let was = config.status.clone().unwrap_or_default();
        let mut status = was.clone();
        change(&config, &mut status);
        if status == was {
            return Ok(());
        }
        let version = config.metadata.resource_version;
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
        tries += 1;
        let answers = cluster.all::<Answer<MaroonedPodsConfig>>();
        match call(answers.patch_status(names::CONFIG_NAME, &params::patch(), &patch)).await {
            Err(error) if error.is_conflict() && tries < TRIES => {}
            patched => return patched.map(drop),
        }
    }
}

/// Sets a condition of the configuration, for the generation that was observed last.
pub fn set_condition(
    status: &mut MaroonedPodsConfigStatus,
    type_: ConfigCondition,
    says: ConditionUpdate<'_>,
    now: Timestamp,
) {
    let generation = status.observed_generation;
    conditions::set(&mut status.conditions, type_.into(), says, generation, now);
}

/// Reports that the cluster has no KubeVirt.
///
/// # Errors
/// As [`edit`].
pub async fn report_missing_provider(cluster: &Cluster) -> Result<(), CallError> {
    let missing = ConditionUpdate {
        holds: false,
        reason: ProviderReadyReason::NotInstalled.into(),
        message: "the cluster has no VirtualMachineInstances: install KubeVirt",
    };
    edit(cluster, |_, status| {
        set_condition(status, ConfigCondition::ProviderReady, missing, Timestamp::now());
    })
    .await
}

/// Reports that VMs could be listed, and how many records there are: as metrics and, where the counts changed, on the
/// configuration.
///
/// # Errors
/// As [`edit`].
pub async fn report(cluster: &Cluster, records: &[MaroonedNode], metrics: &Metrics) -> Result<(), CallError> {
    for phase in Phase::VARIANTS {
        let in_phase = records.iter().filter(|record| phase_of(record) == *phase);
        metrics.set_nodes(*phase, in_phase.count());
    }
    let counts = counts(records);
    let listed = ConditionUpdate {
        holds: true,
        reason: ProviderReadyReason::Listed.into(),
        message: "VirtualMachineInstances can be listed",
    };
    edit(cluster, |_, status| {
        status.nodes = counts;
        set_condition(status, ConfigCondition::ProviderReady, listed, Timestamp::now());
    })
    .await
}

fn phase_of(record: &MaroonedNode) -> Phase {
    record
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default()
}

fn counts(records: &[MaroonedNode]) -> NodeCounts {
    let mut counts = NodeCounts::default();
    for record in records {
        let stage = match phase_of(record) {
            _ if record.metadata.deletion_timestamp.is_some() => &mut counts.releasing,
            Phase::Pending | Phase::Launched | Phase::Registered | Phase::Failed => &mut counts.launching,
            Phase::Lifted => &mut counts.ready,
        };
        *stage += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::objects::record::tests::record;

    #[test]
    fn a_record_counts_once_by_its_phase_or_as_releasing() {
        let in_phase = |phase| {
            let mut record = record();
            record.status.get_or_insert_default().phase = phase;
            record
        };
        let mut going = in_phase(Phase::Lifted);
        going.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let mut records: Vec<_> = Phase::VARIANTS.iter().copied().map(in_phase).collect();
        records.push(going);
        let counted = NodeCounts {
            launching: 4,
            ready: 1,
            releasing: 1,
        };
        assert_eq!(counts(&records), counted);
    }
}
