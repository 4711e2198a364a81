//! What a kubelet's own admission says to a pod that is bound to its Node.
//!
//! Written after Kubernetes alone: the sizes that our reconciler computes are what this judges.

use anyhow::Result;
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

use super::quantity;

/// What a Node can give to pods: its allocatable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) cpu_milli: u64,
    pub(super) memory_bytes: u64,
    pub(super) storage_bytes: u64,
    pub(super) pods: u64,
}

/// What a pod asks of its Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Request {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Memory.
    pub memory_bytes: u64,
    /// Local storage.
    pub storage_bytes: u64,
}

/// Why a pod is not run. It goes to phase Failed and is never tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) message: String,
}

impl Request {
    /// As a kubelet counts (`PodRequests` of component-helpers). It sees no limit without a request: the API server has
    /// filled that in.
    pub fn of(spec: &PodSpec) -> Result<Self> {
        Ok(Self {
            cpu_milli: requested(spec, "cpu", quantity::milli)?,
            memory_bytes: requested(spec, "memory", quantity::units)?,
            storage_bytes: requested(spec, "ephemeral-storage", quantity::units)?,
        })
    }
}

/// The pod's own request if it makes one, else the largest that its containers need at a time; and its overhead.
fn requested(spec: &PodSpec, resource: &str, read: fn(&str) -> Result<u64>) -> Result<u64> {
    let asked = |resources: Option<&ResourceRequirements>| {
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let asked = requests.and_then(|requests| requests.get(resource));
        asked.map(|asked| read(&asked.0)).transpose()
    };
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        let own = asked(container.resources.as_ref())?.unwrap_or_default();
        peak = peak.max(sidecars + own);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += own;
        }
    }
    let mut together = sidecars;
    for container in &spec.containers {
        together += asked(container.resources.as_ref())?.unwrap_or_default();
    }
    let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(resource));
    let overhead = overhead.map(|overhead| read(&overhead.0)).transpose()?;
    let pod = asked(spec.resources.as_ref())?;
    Ok(pod.unwrap_or(peak.max(together)) + overhead.unwrap_or_default())
}

/// `None` when a pod that asks for `request` fits beside those that are there (`predicate.go` in the kubelet).
pub(super) fn refusal(request: Request, present: &[Request], room: Room) -> Option<Refusal> {
    let used = |amount: fn(&Request) -> u64| present.iter().map(amount).sum::<u64>();
    let resources = [
        ("OutOfpods", "pods", 1, present.len() as u64, room.pods),
        (
            "OutOfcpu",
            "cpu",
            request.cpu_milli,
            used(|r| r.cpu_milli),
            room.cpu_milli,
        ),
        (
            "OutOfmemory",
            "memory",
            request.memory_bytes,
            used(|r| r.memory_bytes),
            room.memory_bytes,
        ),
        (
            "OutOfephemeral-storage",
            "ephemeral-storage",
            request.storage_bytes,
            used(|r| r.storage_bytes),
            room.storage_bytes,
        ),
    ];
    resources
        .into_iter()
        .find(|(_, _, requested, used, capacity)| *requested > 0 && requested + used > *capacity)
        .map(|(reason, resource, requested, used, capacity)| Refusal {
            reason: reason.to_owned(),
            message: format!(
                "Pod was rejected: Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, \
                 capacity: {capacity}"
            ),
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ROOM: Room = Room {
        cpu_milli: 1000,
        memory_bytes: 100,
        storage_bytes: 10,
        pods: 2,
    };

    fn request(cpu_milli: u64, memory_bytes: u64, storage_bytes: u64) -> Request {
        Request {
            cpu_milli,
            memory_bytes,
            storage_bytes,
        }
    }

    #[test]
    fn what_fits_is_run() {
        assert_eq!(refusal(request(1000, 100, 10), &[], ROOM), None);
        assert_eq!(refusal(request(500, 0, 0), &[request(500, 100, 10)], ROOM), None);
        // A pod that asks for nothing of a resource fits where there is none left.
        assert_eq!(refusal(request(0, 0, 0), &[request(2000, 200, 20)], ROOM), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_resource() {
        let reason = |request, present: &[Request]| refusal(request, present, ROOM).map(|r| r.reason);
        assert_eq!(reason(request(1001, 0, 0), &[]).as_deref(), Some("OutOfcpu"));
        assert_eq!(
            reason(request(0, 1, 0), &[request(0, 100, 0)]).as_deref(),
            Some("OutOfmemory")
        );
        assert_eq!(
            reason(request(0, 0, 11), &[]).as_deref(),
            Some("OutOfephemeral-storage")
        );
        assert_eq!(
            reason(request(0, 0, 0), &[request(0, 0, 0); 2]).as_deref(),
            Some("OutOfpods")
        );
    }

    #[test]
    fn each_resource_is_counted_as_itself() {
        let asks = |cpu: &str, memory: &str, storage: &str| json!({"cpu": cpu, "memory": memory, "ephemeral-storage": storage});
        let spec = json!({
            "containers": [
                {"name": "a", "resources": {"requests": asks("100m", "1Mi", "1Ki")}},
                {"name": "b", "resources": {"requests": asks("200m", "2Mi", "3Ki")}},
            ],
            "overhead": asks("7m", "5", "9"),
        });
        let counted = Request::of(&serde_json::from_value(spec).unwrap()).unwrap();
        assert_eq!(counted, request(307, 3_145_733, 4105));
    }

    /// The example of Kubernetes' documentation of sidecars ("Resource sharing within containers"), and of pod overhead.
    #[test]
    fn a_pod_asks_for_the_most_that_its_containers_need_at_a_time() {
        let container = |cpu: &str, more: Value| {
            let mut container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
            for (field, value) in more.as_object().unwrap() {
                container[field] = value.clone();
            }
            container
        };
        let plain = |cpu| container(cpu, json!({}));
        let sidecar = |cpu| container(cpu, json!({"restartPolicy": "Always"}));
        let cpu = |spec: Value| {
            Request::of(&serde_json::from_value(spec).unwrap())
                .unwrap()
                .cpu_milli
        };
        let containers = json!([plain("200m"), plain("0.3")]);
        for (spec, expected) in [
            (json!({"containers": containers}), 500),
            (
                json!({"containers": containers, "overhead": {"cpu": "250m"}}),
                750,
            ),
            (
                json!({"containers": containers, "initContainers": [plain("1")]}),
                1000,
            ),
            (
                json!({"containers": containers, "initContainers": [sidecar("1"), plain("100m")]}),
                1500,
            ),
            (
                json!({"containers": containers, "initContainers": [sidecar("1"), plain("2")]}),
                3000,
            ),
            (
                json!({"containers": containers, "initContainers": [plain("2"), sidecar("1")]}),
                2000,
            ),
            (
                json!({"containers": containers, "resources": {"requests": {"cpu": "4"}}}),
                4000,
            ),
        ] {
            assert_eq!(cpu(spec.clone()), expected, "{spec}");
        }
    }
}
