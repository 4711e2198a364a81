//! How large a pod's VM is, and what of it the pod can use.
//!
//! What a pod asks for ([`effective_request`]) follows the scheduler and the kubelet, `PodRequests` of
//! k8s.io/component-helpers/resource:
//!
//! ```text
//! running = Σ containers + Σ sidecars               a sidecar is an init container with restartPolicy Always
//! start   = max over init containers, in order, of itself + the sidecars before it           (KEP-753)
//! request = pod-level request, else max(running, start)                                      (KEP-2837)
//!         + spec.overhead
//! ```
//!
//! The VM ([`size`]) is the larger of the base and what the pod needs, in whole vCPUs and MiB:
//!
//! ```text
//! cpu          = max(base, request + overhead)
//! guest memory = max(base, request + overhead, the least m with capacity(m) >= request + 96 + 50)
//! disk         = base + request + overhead          the overhead in hundredths of the request
//! capacity(m)  = m - kernel(m)                      what the guest's kernel leaves: MemTotal
//! kernel(m)    = 64 + m/32                          it keeps 54 of 512 MiB (measured); page structs grow with m
//! reserved     = max(96, overhead - kernel(m) - 50) for the kubelet and the container runtime
//! allocatable  = capacity(m) - reserved - 50        50 MiB is the kubelet's eviction threshold
//! ```
//!
//! So the configured overhead covers kernel, reservation and threshold as long as it can; a pod so large that the
//! kernel's share alone outgrows it gets a larger VM. Either way allocatable is never below the request, else its
//! kubelet would reject the pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::{BaseVmResources, ResourceOverhead, VmResources};
use crate::quantity::{self, ParseQuantityError};

/// The kubelet's `evictionHard["memory.available"]`, in MiB.
pub const EVICTION_MEMORY_MI: u64 = 50;
/// Least memory that is left for the kubelet and the container runtime, in MiB.
pub const MIN_RESERVED_MEMORY_MI: u64 = 96;
/// Largest VM: vCPUs.
pub const MAX_CPU: u32 = 512;
/// Largest VM: memory in MiB (16 TiB).
pub const MAX_MEMORY_MI: u64 = 16 << 20;
/// Largest VM: local storage that a pod may ask for, in MiB (16 TiB).
pub const MAX_DISK_MI: u64 = 16 << 20;

const MI: u64 = 1 << 20;
const KERNEL_FIXED_MI: u64 = 64;
const KERNEL_DIVISOR: u64 = 32;

/// What a pod asks of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Request {
    /// CPU, in thousandths.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Local storage in bytes.
    pub ephemeral_storage_bytes: u64,
}

/// What pods on a VM's Node can be promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocatable {
    /// CPU, in thousandths.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// What a VM's kubelet finds on its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// CPU, in thousandths.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// Why a pod or a configuration has no VM size.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum SizingError {
    /// A quantity cannot be read.
    #[error("{field}: {source}")]
    Quantity {
        /// Where the quantity stands.
        field: String,
        /// What is wrong with it.
        source: ParseQuantityError,
    },
    /// The pod is larger than any VM.
    #[error("the pod needs a VM with more than {MAX_CPU} vCPUs: lower its CPU requests")]
    TooMuchCpu,
    /// The pod is larger than any VM.
    #[error("the pod needs a VM with more than 16 TiB of memory: lower its memory requests")]
    TooMuchMemory,
    /// The pod's local storage requests do not even add up.
    #[error("the pod's ephemeral-storage requests exceed 16 TiB: lower them")]
    TooMuchStorage,
}

/// What the scheduler and the kubelet will count for a pod, by the formula at the top of this module. Limits stand
/// in for missing requests, as the API server has it.
pub fn effective_request(spec: &PodSpec) -> Result<Request, SizingError> {
    Ok(Request {
        cpu_milli: Resource::CPU.of_pod(spec)?,
        memory_bytes: Resource::MEMORY.of_pod(spec)?,
        ephemeral_storage_bytes: Resource::EPHEMERAL_STORAGE.of_pod(spec)?,
    })
}

/// The VM for a pod that asks for `request`, by the formula at the top of this module.
pub fn size(
    request: Request,
    base: BaseVmResources,
    overhead: &ResourceOverhead,
) -> Result<VmResources, SizingError> {
    let in_overhead = |field: &str, source| SizingError::Quantity {
        field: format!("resourceOverhead.{field}"),
        source,
    };
    let overhead_cpu = quantity::milli(&overhead.cpu).map_err(|error| in_overhead("cpu", error))?;
    let overhead_memory = quantity::units(&overhead.memory).map_err(|error| in_overhead("memory", error))?;

    let cpu_milli = request
        .cpu_milli
        .checked_add(overhead_cpu)
        .ok_or(SizingError::TooMuchCpu)?;
    let cpu = u32::try_from(cpu_milli.div_ceil(1000))
        .map_err(|_| SizingError::TooMuchCpu)?
        .max(base.cpu)
        .max(1);
    if cpu > MAX_CPU {
        return Err(SizingError::TooMuchCpu);
    }

    // In MiB, any sum of two 64-bit byte counts is far from overflowing.
    let (request_mi, overhead_mi) = (request.memory_bytes.div_ceil(MI), overhead_memory.div_ceil(MI));
    let least_mi = guest_memory_mi(request_mi + MIN_RESERVED_MEMORY_MI + EVICTION_MEMORY_MI);
    let memory_mi = base.memory_mi.max(request_mi + overhead_mi).max(least_mi);
    if memory_mi > MAX_MEMORY_MI {
        return Err(SizingError::TooMuchMemory);
    }

    let storage_mi = request.ephemeral_storage_bytes.div_ceil(MI);
    if storage_mi > MAX_DISK_MI {
        return Err(SizingError::TooMuchStorage);
    }
    let storage_overhead_mi = storage_mi * u64::from(overhead.ephemeral_storage_percent) / 100;
    let left_of_overhead = overhead_mi.saturating_sub(kernel_memory_mi(memory_mi) + EVICTION_MEMORY_MI);
    Ok(VmResources {
        cpu,
        memory_mi,
        disk_mi: base
            .ephemeral_storage_mi
            .saturating_add(storage_mi + storage_overhead_mi),
        reserved_memory_mi: left_of_overhead.max(MIN_RESERVED_MEMORY_MI),
        reserved_cpu_milli: overhead_cpu,
    })
}

/// What the guest's kernel leaves of `guest_mi` MiB for everything else: a safe lower bound of `MemTotal`.
#[must_use]
pub fn capacity_memory_mi(guest_mi: u64) -> u64 {
    guest_mi.saturating_sub(kernel_memory_mi(guest_mi))
}

/// `status.capacity` of the VM's Node.
#[must_use]
pub fn capacity(vm: &VmResources) -> Capacity {
    Capacity {
        cpu_milli: u64::from(vm.cpu) * 1000,
        memory_bytes: capacity_memory_mi(vm.memory_mi).saturating_mul(MI),
    }
}

/// `status.allocatable` of the VM's Node: capacity less the kubelet's reservation and eviction threshold.
#[must_use]
pub fn allocatable(vm: &VmResources) -> Allocatable {
    let kept_mi = vm.reserved_memory_mi.saturating_add(EVICTION_MEMORY_MI);
    Allocatable {
        cpu_milli: capacity(vm).cpu_milli.saturating_sub(vm.reserved_cpu_milli),
        memory_bytes: capacity_memory_mi(vm.memory_mi)
            .saturating_sub(kept_mi)
            .saturating_mul(MI),
    }
}

/// Whether a pod with this request of CPU and memory, which can be resized, fits on the VM's Node.
#[must_use]
pub fn has_room(vm: &VmResources, request: Request) -> bool {
    let allocatable = allocatable(vm);
    request.cpu_milli <= allocatable.cpu_milli && request.memory_bytes <= allocatable.memory_bytes
}

fn kernel_memory_mi(guest_mi: u64) -> u64 {
    KERNEL_FIXED_MI + guest_mi.div_ceil(KERNEL_DIVISOR)
}

/// The least guest memory whose [`capacity_memory_mi`] is `capacity_mi`: m - ⌈m/32⌉ = ⌊31m/32⌋, turned round.
fn guest_memory_mi(capacity_mi: u64) -> u64 {
    ((capacity_mi + KERNEL_FIXED_MI) * KERNEL_DIVISOR).div_ceil(KERNEL_DIVISOR - 1)
}

type ResourceList = BTreeMap<String, Quantity>;

/// One resource, and how its quantities are read and added up.
struct Resource {
    name: &'static str,
    read: fn(&Quantity) -> Result<u64, ParseQuantityError>,
    /// Whether `spec.resources` may speak of it (KEP-2837).
    pod_level: bool,
    too_much: SizingError,
}

impl Resource {
    const CPU: Self = Self {
        name: "cpu",
        read: quantity::milli,
        pod_level: true,
        too_much: SizingError::TooMuchCpu,
    };
    const MEMORY: Self = Self {
        name: "memory",
        read: quantity::units,
        pod_level: true,
        too_much: SizingError::TooMuchMemory,
    };
    const EPHEMERAL_STORAGE: Self = Self {
        name: "ephemeral-storage",
        read: quantity::units,
        pod_level: false,
        too_much: SizingError::TooMuchStorage,
    };

    fn of_pod(&self, spec: &PodSpec) -> Result<u64, SizingError> {
        let containers = self.of_containers(spec)?;
        let pod_level = spec.resources.as_ref().filter(|_| self.pod_level);
        let requests = pod_level.and_then(|resources| resources.requests.as_ref());
        let limits = pod_level.and_then(|resources| resources.limits.as_ref());
        // The API server's order of defaults: a pod-level limit counts only where no container asks.
        let request = match self.listed(requests, "the pod's requests")? {
            Some(request) => Some(request),
            None => {
                containers.map_or_else(|| self.listed(limits, "the pod's limits"), |sum| Ok(Some(sum)))?
            }
        };
        let overhead = self.listed(spec.overhead.as_ref(), "the pod's overhead")?;
        self.sum(request, overhead).map(Option::unwrap_or_default)
    }

    /// The containers' own demand, `None` if no container says anything.
    fn of_containers(&self, spec: &PodSpec) -> Result<Option<u64>, SizingError> {
        let mut running = None;
        for container in &spec.containers {
            running = self.sum(running, self.of_container(container)?)?;
        }
        let (mut start, mut sidecars) = (None, None);
        for container in spec.init_containers.iter().flatten() {
            let request = self.of_container(container)?;
            let beside_sidecars = self.sum(sidecars, request)?;
            if container.restart_policy.as_deref() == Some("Always") {
                running = self.sum(running, request)?;
                sidecars = beside_sidecars;
            }
            start = start.max(beside_sidecars);
        }
        Ok(running.max(start))
    }

    fn of_container(&self, container: &Container) -> Result<Option<u64>, SizingError> {
        let Some(ResourceRequirements { requests, limits, .. }) = &container.resources else {
            return Ok(None);
        };
        match self.listed(
            requests.as_ref(),
            &format!("requests of container {}", container.name),
        )? {
            Some(request) => Ok(Some(request)),
            None => self.listed(
                limits.as_ref(),
                &format!("limits of container {}", container.name),
            ),
        }
    }

    fn listed(&self, list: Option<&ResourceList>, whose: &str) -> Result<Option<u64>, SizingError> {
        let Some(quantity) = list.and_then(|list| list.get(self.name)) else {
            return Ok(None);
        };
        (self.read)(quantity)
            .map(Some)
            .map_err(|source| SizingError::Quantity {
                field: format!("{} in {whose}", self.name),
                source,
            })
    }

    fn sum(&self, left: Option<u64>, right: Option<u64>) -> Result<Option<u64>, SizingError> {
        match (left, right) {
            (Some(left), Some(right)) => left
                .checked_add(right)
                .map(Some)
                .ok_or_else(|| self.too_much.clone()),
            _ => Ok(left.or(right)),
        }
    }
}

#[cfg(test)]
mod tests;
