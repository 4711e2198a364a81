//! Who waits for what, and which VMs there are: counted from the watch caches whenever metrics are read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use maroonedpods_common::api::{MaroonedNodeSpec, VmResources};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::observe::Caches;
use crate::plan::reason;
use crate::view::{PodView, VmiView};

/// A gated pod that says nothing yet.
const UNSEEN: &str = "Unseen";
/// A word that is none of ours: conditions and phases are other people's to write.
const OTHER: &str = "Other";
/// Phases of a VMI, as KubeVirt writes them.
const VM_PHASES: [&str; 7] = [
    "Pending",
    "Scheduling",
    "Scheduled",
    "Running",
    "Succeeded",
    "Failed",
    OTHER,
];

/// Label of what is counted by namespace. Prometheus has a label "namespace" of its own, that of who is asked.
const NAMESPACE: &str = "pod_namespace";
const MI: u64 = 1 << 20;

/// Gauges that are computed when they are read. Without caches (this replica does not lead) there are none.
#[derive(Clone, Default)]
pub(super) struct Watched(Arc<OnceLock<Caches>>);

/// Counts at one moment.
#[derive(Debug, PartialEq)]
struct Census {
    /// Gated pods by what they wait for.
    gated: BTreeMap<&'static str, i64>,
    /// Age of the oldest pod that waits for its VM, in seconds; 0 where none does.
    oldest_seconds: f64,
    /// VMs by phase.
    vms: BTreeMap<&'static str, i64>,
}

/// What the VMs of a namespace's pods come to: those being started, those that are there and those that go.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    vms: u64,
    vcpus: u64,
    memory_mi: u64,
    disk_mi: u64,
}

impl Sums {
    fn add(&mut self, vm: &VmResources) {
        self.vms += 1;
        self.vcpus += u64::from(vm.cpu);
        self.memory_mi = self.memory_mi.saturating_add(vm.memory_mi);
        self.disk_mi = self.disk_mi.saturating_add(vm.disk_mi);
    }
}

/// A sum as a metric: name, help, and which.
type Sum = (&'static str, &'static str, fn(&Sums) -> u64);

const SUMS: [Sum; 4] = [
    (
        "namespace_vms",
        "VMs of a namespace's pods, from the first step of a launch until the VM is gone",
        |sums| sums.vms,
    ),
    ("namespace_vcpus", "vCPUs of a namespace's VMs", |sums| sums.vcpus),
    (
        "namespace_memory_bytes",
        "Guest memory of a namespace's VMs",
        |sums| sums.memory_mi.saturating_mul(MI),
    ),
    (
        "namespace_disk_bytes",
        "Scratch disks of a namespace's VMs",
        |sums| sums.disk_mi.saturating_mul(MI),
    ),
];

impl Watched {
    /// Counts from these caches from now on. The first call holds.
    pub(super) fn attach(&self, caches: &Caches) {
        let _: Result<(), _> = self.0.set(caches.clone());
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attached = self.0.get().is_some();
        formatter
            .debug_struct("Watched")
            .field("attached", &attached)
            .finish()
    }
}

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(caches) = self.0.get() else { return Ok(()) };
        let census = census(&caches.pods.all(), &caches.vmis.all(), Timestamp::now());
        family(
            &mut encoder,
            "pods_gated",
            "Gated pods by what they wait for",
            "reason",
            &census.gated,
        )?;
        family(
            &mut encoder,
            "vms",
            "Virtual machines by KubeVirt's phase",
            "phase",
            &census.vms,
        )?;
        let records = caches.records.all();
        let by_namespace = by_namespace(records.iter().map(|record| &record.spec));
        for (name, help, which) in SUMS {
            let count = |sums| i64::try_from(which(sums)).unwrap_or(i64::MAX);
            let counts = by_namespace
                .iter()
                .map(|(namespace, sums)| (*namespace, count(sums)))
                .collect();
            family(&mut encoder, name, help, NAMESPACE, &counts)?;
        }
        let oldest = encoder.encode_descriptor(
            "oldest_gated_pod_seconds",
            "Age of the oldest pod that waits for its VM and not for other gates or for people; 0 where none does",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(census.oldest_seconds).encode(oldest)
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    counts: &BTreeMap<&str, i64>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, count) in counts {
        ConstGauge::new(*count).encode(family.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}

/// Only namespaces that have any: a series ends with the last VM of its namespace.
fn by_namespace<'a>(records: impl Iterator<Item = &'a MaroonedNodeSpec>) -> BTreeMap<&'a str, Sums> {
    let mut sums = BTreeMap::<_, Sums>::new();
    for record in records {
        let of_namespace = sums.entry(record.pod_ref.namespace.as_str()).or_default();
        of_namespace.add(&record.resources);
    }
    sums
}

fn census(pods: &[Arc<PodView>], vmis: &[Arc<VmiView>], now: Timestamp) -> Census {
    let zeros = |names: &[&'static str]| names.iter().map(|name| (*name, 0)).collect::<BTreeMap<_, _>>();
    let mut waiting = zeros(&reason::OF_WAITS);
    waiting.extend([(UNSEEN, 0), (OTHER, 0)]);
    let mut vms = zeros(&VM_PHASES);
    let mut oldest_seconds = 0.0_f64;
    let gated =
        |pod: &&Arc<PodView>| pod.gate_index.is_some() && !pod.exempt && pod.deletion_deadline.is_none();
    for pod in pods.iter().filter(gated) {
        let reason = match &pod.condition {
            None => UNSEEN,
            Some(said) => known(&said.reason, &reason::OF_WAITS),
        };
        *waiting.entry(reason).or_default() += 1;
        // The others wait for somebody else, for as long as that takes.
        if !matches!(
            reason,
            reason::WAITING_FOR_GATES
                | reason::BACKING_OFF
                | reason::ATTEMPTS_EXHAUSTED
                | reason::NETWORK_POLICY_NOT_ENFORCED
                | reason::NAMESPACE_LIMIT
        ) {
            let age = pod
                .created
                .map_or(0.0, |created| now.duration_since(created).as_secs_f64());
            oldest_seconds = oldest_seconds.max(age);
        }
    }
    for vmi in vmis {
        *vms.entry(known(&vmi.phase, &VM_PHASES)).or_default() += 1;
    }
    Census {
        gated: waiting,
        oldest_seconds,
        vms,
    }
}

fn known(word: &str, words: &[&'static str]) -> &'static str {
    words
        .iter()
        .find(|known| **known == word)
        .copied()
        .unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use kube::core::DynamicObject;
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn pod(created: &str, gated: bool, said: Option<&str>) -> PodView {
        let condition =
            |reason| json!([{"type": "maroonedpods.io/NodeReady", "status": "False", "reason": reason}]);
        let pod: Value = json!({
            "metadata": {"namespace": "n", "name": "p", "uid": "u", "creationTimestamp": created},
            "spec": {"containers": [], "schedulingGates": if gated { json!([{"name": "maroonedpods.io/gate"}]) } else { json!([]) }},
            "status": {"conditions": said.map_or(json!([]), condition)},
        });
        PodView::of(&serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn vmi(phase: &str) -> VmiView {
        let vmi: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "v", "uid": "u"}, "status": {"phase": phase},
        }))
        .unwrap();
        VmiView::of(&vmi).unwrap()
    }

    fn take(pods: Vec<PodView>, vmis: Vec<VmiView>) -> Census {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let vmis: Vec<_> = vmis.into_iter().map(Arc::new).collect();
        census(&pods, &vmis, NOW.parse().unwrap())
    }

    #[test]
    fn nobody_waits_in_an_empty_cluster() {
        let census = take(Vec::new(), Vec::new());
        assert!(census.oldest_seconds.abs() < f64::EPSILON);
        assert!(
            census
                .gated
                .values()
                .chain(census.vms.values())
                .all(|count| *count == 0)
        );
        assert!(census.gated.contains_key("Launching") && census.vms.contains_key("Running"));
    }

    #[test]
    fn gated_pods_count_by_what_they_say() {
        let census = take(
            vec![
                pod("2026-01-01T00:09:00Z", true, Some("Launching")),
                pod("2026-01-01T00:09:30Z", true, Some("Launching")),
                pod("2026-01-01T00:09:59Z", true, None),
                pod("2026-01-01T00:09:59Z", true, Some("a word of somebody's")),
                pod("2026-01-01T00:00:00Z", false, Some("NodeReady")),
            ],
            Vec::new(),
        );
        assert_eq!(census.gated["Launching"], 2);
        assert_eq!(census.gated["Unseen"], 1);
        assert_eq!(census.gated["Other"], 1);
        assert_eq!(census.gated.values().sum::<i64>(), 4);
        assert!((census.oldest_seconds - 60.0).abs() < 0.001);
    }

    #[test]
    fn who_waits_for_others_is_not_overdue() {
        let census = take(
            vec![
                pod("2026-01-01T00:00:00Z", true, Some("WaitingForOtherGates")),
                pod("2026-01-01T00:00:00Z", true, Some("AttemptsExhausted")),
            ],
            Vec::new(),
        );
        assert_eq!(census.gated["AttemptsExhausted"], 1);
        assert!(census.oldest_seconds.abs() < f64::EPSILON);
    }

    #[test]
    fn what_a_namespace_has_is_summed_up() {
        let record = |namespace: &str, cpu: u32| {
            let mut record = crate::objects::record::tests::record().spec;
            namespace.clone_into(&mut record.pod_ref.namespace);
            record.resources.cpu = cpu;
            record
        };
        let records = [record("a", 1), record("b", 8), record("a", 3)];
        let sums = by_namespace(records.iter());
        let of_a = Sums {
            vms: 2,
            vcpus: 4,
            memory_mi: 2048,
            disk_mi: 20_480,
        };
        assert_eq!(
            sums.into_iter().collect::<Vec<_>>(),
            [
                ("a", of_a),
                (
                    "b",
                    Sums {
                        vms: 1,
                        vcpus: 8,
                        memory_mi: 1024,
                        disk_mi: 10_240
                    }
                )
            ]
        );
        let values = SUMS.map(|(name, _, which)| (name, which(&of_a)));
        assert_eq!(
            values,
            [
                ("namespace_vms", 2),
                ("namespace_vcpus", 4),
                ("namespace_memory_bytes", 2 << 30),
                ("namespace_disk_bytes", 20 << 30),
            ]
        );
    }

    #[test]
    fn vms_count_by_phase() {
        let census = take(Vec::new(), vec![vmi("Running"), vmi("Running"), vmi("Dreaming")]);
        assert_eq!((census.vms["Running"], census.vms["Other"]), (2, 1));
    }
}
