//! Which pods wait for what, and which VMs there are: counted from the watch caches whenever metrics are read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use maroonedpods_common::api::{MaroonedNodeSpec, PodReason, VmResources};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use strum::{EnumString, IntoStaticStr, VariantArray};

use crate::observe::Caches;
use crate::view::{PodView, VmiView};

/// Reason of a gated pod that does not have the condition yet.
const UNSEEN: &str = "Unseen";
/// A reason or phase that is not known here: other clients can write conditions and phases too.
const OTHER: &str = "Other";

/// Phases of a VMI, as KubeVirt writes them.
#[derive(Clone, Copy, EnumString, IntoStaticStr, VariantArray)]
enum VmPhase {
    Pending,
    Scheduling,
    Scheduled,
    Running,
    Succeeded,
    Failed,
    Other,
}

/// Label of what is counted by namespace. Prometheus sets a label "namespace" itself: that of the program it scrapes.
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

/// Totals of the VMs of a namespace's pods: those that start, those that run and those that are deleted.
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
    /// Counts from these caches from now on. Later calls change nothing.
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

/// Only namespaces that have VMs: a series ends with the last VM of its namespace.
fn by_namespace<'a>(records: impl Iterator<Item = &'a MaroonedNodeSpec>) -> BTreeMap<&'a str, Sums> {
    let mut sums = BTreeMap::<_, Sums>::new();
    for record in records {
        let of_namespace = sums.entry(record.pod_ref.namespace.as_str()).or_default();
        of_namespace.add(&record.resources);
    }
    sums
}

fn census(pods: &[Arc<PodView>], vmis: &[Arc<VmiView>], now: Timestamp) -> Census {
    let waits = PodReason::VARIANTS.iter().filter(|reason| reason.is_wait());
    let waits = waits.map(|reason| <&str>::from(*reason));
    let mut waiting: BTreeMap<_, _> = waits.chain([UNSEEN, OTHER]).map(|reason| (reason, 0)).collect();
    let mut vms: BTreeMap<_, _> = VmPhase::VARIANTS
        .iter()
        .map(|phase| ((*phase).into(), 0))
        .collect();
    let mut oldest_seconds = 0.0_f64;
    let gated =
        |pod: &&Arc<PodView>| pod.gate_index.is_some() && !pod.exempt && pod.deletion_deadline.is_none();
    for pod in pods.iter().filter(gated) {
        let said = pod.condition.as_ref();
        let reason = said
            .and_then(|said| said.reason.parse().ok())
            .filter(|reason: &PodReason| reason.is_wait());
        let label = reason.map_or(if said.is_none() { UNSEEN } else { OTHER }, Into::into);
        *waiting.entry(label).or_default() += 1;
        if !reason.is_some_and(PodReason::is_up_to_others) {
            let age = pod
                .created
                .map_or(0.0, |created| now.duration_since(created).as_secs_f64());
            oldest_seconds = oldest_seconds.max(age);
        }
    }
    for vmi in vmis {
        let phase = vmi.phase.parse().unwrap_or(VmPhase::Other);
        *vms.entry(phase.into()).or_default() += 1;
    }
    Census {
        gated: waiting,
        oldest_seconds,
        vms,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
    fn no_pod_waits_in_an_empty_cluster() {
        let census = take(Vec::new(), Vec::new());
        assert!(census.oldest_seconds.abs() < f64::EPSILON);
        assert!(
            census
                .gated
                .values()
                .chain(census.vms.values())
                .all(|count| *count == 0)
        );
        let waits = PodReason::VARIANTS.iter().filter(|reason| reason.is_wait());
        let gated: BTreeSet<&str> = waits
            .map(|reason| (*reason).into())
            .chain([UNSEEN, OTHER])
            .collect();
        assert!(census.gated.into_keys().eq(gated));
        let phases: BTreeSet<&str> = VmPhase::VARIANTS.iter().map(|phase| (*phase).into()).collect();
        assert!(census.vms.into_keys().eq(phases));
    }

    #[test]
    fn gated_pods_count_by_what_they_say() {
        let census = take(
            vec![
                pod("2026-01-01T00:09:00Z", true, Some("Launching")),
                pod("2026-01-01T00:09:30Z", true, Some("Launching")),
                pod("2026-01-01T00:09:59Z", true, None),
                pod("2026-01-01T00:09:59Z", true, Some("AnotherClientsReason")),
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
    fn a_pod_that_waits_for_other_users_is_not_overdue() {
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
    fn the_vms_of_a_namespace_are_summed_up() {
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
