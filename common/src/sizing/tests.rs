use proptest::prelude::*;
use serde_json::json;

use super::*;

fn spec(json: serde_json::Value) -> PodSpec {
    serde_json::from_value(json).unwrap()
}

fn cpu_list(cpu: &str) -> serde_json::Value {
    json!({"requests": {"cpu": cpu}})
}

fn container(cpu: &str) -> serde_json::Value {
    json!({"name": "c", "resources": cpu_list(cpu)})
}

fn sidecar(cpu: &str) -> serde_json::Value {
    json!({"name": "s", "restartPolicy": "Always", "resources": cpu_list(cpu)})
}

fn cpu_milli(json: serde_json::Value) -> u64 {
    effective_request(&spec(json)).unwrap().cpu_milli
}

/// The cases of `TestPodResourceRequests` in k8s.io/component-helpers/resource, with its answers.
#[test]
fn the_schedulers_own_sidecar_cases() {
    for (init, containers, expected) in [
        // A restartable init container runs beside the containers.
        (vec![sidecar("1")], vec![container("1")], 2000),
        // max(5, 3 + 2 + 1 + 1)
        (
            vec![container("5"), sidecar("1"), sidecar("2"), sidecar("3")],
            vec![container("1")],
            7000,
        ),
        // The second plain init container runs beside sidecars 1 and 2: 5 + 1 + 2.
        (
            vec![
                container("2"),
                sidecar("1"),
                sidecar("2"),
                container("5"),
                sidecar("3"),
            ],
            vec![container("1")],
            8000,
        ),
        // max(10 + 200, 10 + 100)
        (
            vec![sidecar("10"), container("200")],
            vec![container("100")],
            210_000,
        ),
        // The order counts: a sidecar that starts after the large init container does not add to it.
        (
            vec![container("200"), sidecar("10")],
            vec![container("100")],
            200_000,
        ),
        // Plain init containers run one after another.
        (
            vec![container("2"), container("3")],
            vec![container("1"), container("1500m")],
            3000,
        ),
    ] {
        assert_eq!(
            cpu_milli(json!({"initContainers": init, "containers": containers})),
            expected,
            "{init:?} {containers:?}"
        );
    }
}

#[test]
fn pod_level_requests_override_each_resource_alone() {
    let request = effective_request(&spec(json!({
        "resources": {"requests": {"cpu": "3", "ephemeral-storage": "9Gi"}},
        "overhead": {"cpu": "250m", "memory": "120Mi"},
        "containers": [{"name": "c", "resources": {"requests":
            {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "2Gi"}}}],
    })));
    // Local storage has no pod level, so the container's request counts.
    let expected = Request {
        cpu_milli: 3250,
        memory_bytes: (1024 + 120) * MI,
        ephemeral_storage_bytes: 2048 * MI,
    };
    assert_eq!(request, Ok(expected));
}

#[test]
fn limits_stand_in_for_missing_requests() {
    let limits = |cpu: &str| json!({"limits": {"cpu": cpu}});
    for (resources, containers, expected) in [
        (json!({}), json!([{"name": "c", "resources": limits("2")}]), 2000),
        (
            json!({}),
            json!([{"name": "c", "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "0"}}}]),
            0,
        ),
        // At pod level, only where no container asks.
        (limits("4"), json!([{"name": "c"}]), 4000),
        (limits("4"), json!([container("1")]), 1000),
        (
            json!({"limits": {"cpu": "4"}, "requests": {"cpu": "2"}}),
            json!([container("1")]),
            2000,
        ),
    ] {
        let json = json!({"resources": resources, "containers": containers});
        assert_eq!(cpu_milli(json.clone()), expected, "{json}");
    }
}

#[test]
fn a_pod_that_asks_for_nothing() {
    let request = effective_request(&spec(json!({"containers": [{"name": "c"}]})));
    assert_eq!(request, Ok(Request::default()));
}

#[test]
fn a_bad_quantity_is_named() {
    let error = effective_request(&spec(json!({"containers": [container("-1")]}))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cpu in requests of container c: \"-1\" is negative: expected a quantity of 0 or more"
    );
}

#[test]
fn absurd_requests_are_errors() {
    let base = BaseVmResources::default();
    let overhead = ResourceOverhead::default();
    let asks = |cpu_milli, memory_bytes| Request {
        cpu_milli,
        memory_bytes,
        ephemeral_storage_bytes: 0,
    };
    for (request, expected) in [
        (asks(u64::MAX, 0), SizingError::TooMuchCpu),
        (asks(512_000, 0), SizingError::TooMuchCpu),
        (asks(0, u64::MAX), SizingError::TooMuchMemory),
        (asks(0, MAX_MEMORY_MI * MI), SizingError::TooMuchMemory),
    ] {
        assert_eq!(size(request, base, &overhead), Err(expected), "{request:?}");
    }
    let too_many = spec(json!({"containers": [container("15E"), container("15E")]}));
    assert!(matches!(
        effective_request(&too_many),
        Err(SizingError::Quantity { .. })
    ));
    let together = container("10P");
    let together = spec(json!({"containers": [together, together]}));
    assert_eq!(effective_request(&together), Err(SizingError::TooMuchCpu));
}

/// 512 vCPUs and 16 TiB each of memory and of disk are still a VM.
#[test]
fn the_largest_vm_is_one() {
    let none = ResourceOverhead {
        cpu: Quantity("0".to_owned()),
        memory: Quantity("0".to_owned()),
        ephemeral_storage_percent: 0,
    };
    let base = BaseVmResources::default();
    let sized = |base, request| size(request, base, &none);
    let cpu = |cpu_milli| Request {
        cpu_milli,
        ..Request::default()
    };
    assert_eq!(sized(base, cpu(512_000)).unwrap().cpu, 512);
    assert_eq!(sized(base, cpu(512_001)), Err(SizingError::TooMuchCpu));
    let memory = |memory_mi| BaseVmResources { memory_mi, ..base };
    let idle = Request::default();
    assert_eq!(sized(memory(16 << 20), idle).unwrap().memory_mi, 16 << 20);
    assert_eq!(
        sized(memory((16 << 20) + 1), idle),
        Err(SizingError::TooMuchMemory)
    );
    let storage = |ephemeral_storage_bytes| Request {
        ephemeral_storage_bytes,
        ..Request::default()
    };
    assert_eq!(
        sized(base, storage(16 << 40)).unwrap().disk_mi,
        (16 << 20) + 10_240
    );
    assert_eq!(
        sized(base, storage((16 << 40) + 1)),
        Err(SizingError::TooMuchStorage)
    );
    // A base that no disk can hold is not made smaller by what comes on top.
    let huge = BaseVmResources {
        ephemeral_storage_mi: u64::MAX,
        ..base
    };
    assert_eq!(sized(huge, storage(MI)).unwrap().disk_mi, u64::MAX);
}

#[test]
fn the_base_is_the_least_and_no_vm_is_without_a_cpu() {
    let overhead = ResourceOverhead {
        cpu: Quantity("0".to_owned()),
        ..ResourceOverhead::default()
    };
    for (base_cpu, expected) in [(0, 1), (1, 1), (4, 4)] {
        let base = BaseVmResources {
            cpu: base_cpu,
            memory_mi: 4096,
            ..BaseVmResources::default()
        };
        let vm = size(Request::default(), base, &overhead).unwrap();
        assert_eq!((vm.cpu, vm.memory_mi), (expected, 4096));
    }
}

#[test]
fn an_unreadable_overhead_is_named() {
    let bad = || Quantity("much".to_owned());
    let read = |overhead: &ResourceOverhead| {
        let sized = size(Request::default(), BaseVmResources::default(), overhead);
        sized.unwrap_err().to_string()
    };
    let cpu = ResourceOverhead {
        cpu: bad(),
        ..ResourceOverhead::default()
    };
    assert!(read(&cpu).starts_with("resourceOverhead.cpu: \"much\" is not a quantity"));
    let memory = ResourceOverhead {
        memory: bad(),
        ..ResourceOverhead::default()
    };
    assert!(read(&memory).starts_with("resourceOverhead.memory: \"much\" is not a quantity"));
}

/// By hand, of the formula in `docs/configuration.md`: 1024 - (64 + 1024/32) = 928, and 928 - 366 - 50 = 512.
#[test]
fn what_a_vm_has_and_promises() {
    let vm = VmResources {
        cpu: 2,
        memory_mi: 1024,
        disk_mi: 10_240,
        reserved_memory_mi: 366,
        reserved_cpu_milli: 500,
    };
    let has = Capacity {
        cpu_milli: 2000,
        memory_bytes: 928 << 20,
    };
    let promises = Allocatable {
        cpu_milli: 1500,
        memory_bytes: 512 << 20,
    };
    assert_eq!((capacity(&vm), allocatable(&vm)), (has, promises));
    let reserved = VmResources {
        reserved_memory_mi: 5000,
        reserved_cpu_milli: 5000,
        ..vm
    };
    let nothing = Allocatable {
        cpu_milli: 0,
        memory_bytes: 0,
    };
    assert_eq!(allocatable(&reserved), nothing);
}

#[test]
fn memory_and_storage_are_added_up_as_cpu_is() {
    let asks = |memory: &str, storage: &str| json!({"name": "c", "resources": {"requests": {"memory": memory, "ephemeral-storage": storage}}});
    let pod = spec(json!({
        "containers": [asks("1Gi", "2Gi"), asks("512Mi", "1Gi")],
        "initContainers": [asks("1Mi", "8Gi")],
    }));
    let expected = Request {
        cpu_milli: 0,
        memory_bytes: 1536 << 20,
        ephemeral_storage_bytes: 8 << 30,
    };
    assert_eq!(effective_request(&pod), Ok(expected));
    let together =
        |containers: [serde_json::Value; 2]| effective_request(&spec(json!({"containers": containers})));
    assert_eq!(
        together([asks("15E", "0"), asks("15E", "0")]),
        Err(SizingError::TooMuchMemory)
    );
    assert_eq!(
        together([asks("0", "15E"), asks("0", "15E")]),
        Err(SizingError::TooMuchStorage)
    );
}

#[test]
fn known_sizes() {
    let overhead = ResourceOverhead::default();
    let vm = |cpu, memory_mi, reserved_memory_mi| VmResources {
        disk_mi: 10 << 10,
        cpu,
        memory_mi,
        reserved_memory_mi,
        reserved_cpu_milli: 500,
    };
    for (cpu_milli, memory_mi, expected) in [
        // The base is the floor.
        (0, 0, vm(1, 1024, 366)),
        (500, 512, vm(1, 1024, 366)),
        // One thousandth and one MiB more than the base holds.
        (501, 513, vm(2, 1025, 365)),
        // The kernel's share of a large guest outgrows the overhead: 32/31 of everything.
        (1000, 64 * 1024, vm(2, 67_867, 96)),
    ] {
        let request = Request {
            cpu_milli,
            memory_bytes: memory_mi * MI,
            ephemeral_storage_bytes: 0,
        };
        assert_eq!(
            size(request, BaseVmResources::default(), &overhead),
            Ok(expected),
            "{request:?}"
        );
    }
}

#[test]
fn the_disks_base_and_factor_are_the_configurations() {
    let disk_mi = |base: serde_json::Value, overhead: serde_json::Value, asks_mi: u64| {
        let request = Request {
            ephemeral_storage_bytes: asks_mi * MI,
            ..Request::default()
        };
        let (base, overhead) = (serde_json::from_value(base), serde_json::from_value(overhead));
        size(request, base.unwrap(), &overhead.unwrap()).unwrap().disk_mi
    };
    assert_eq!(disk_mi(json!({}), json!({}), 0), 10_240);
    assert_eq!(disk_mi(json!({}), json!({}), 4000), 15_240);
    let small = || json!({"ephemeralStorageMi": 2048});
    assert_eq!(disk_mi(small(), json!({}), 4000), 7048);
    let exact = |percent: u32| json!({"ephemeralStoragePercent": percent});
    assert_eq!(disk_mi(small(), exact(0), 4000), 6048);
    assert_eq!(disk_mi(small(), exact(100), 4000), 10_048);
}

#[test]
fn capacity_stays_below_what_a_guest_was_measured_to_have() {
    assert!(capacity_memory_mi(512) < 512 - 54);
    assert_eq!(capacity_memory_mi(10), 0);
}

fn any_resources() -> impl Strategy<Value = serde_json::Value> {
    let cpu = prop::option::of((0..64_000_u64).prop_map(|milli| format!("{milli}m")));
    let memory = prop::option::of((0..512_u64 << 30).prop_map(|bytes| bytes.to_string()));
    let list = (cpu, memory).prop_map(|(cpu, memory)| {
        let named = [("cpu", cpu), ("memory", memory)];
        let set = named
            .into_iter()
            .filter_map(|(name, quantity)| Some((name.to_owned(), json!(quantity?))));
        serde_json::Value::Object(set.collect())
    });
    (list.clone(), list).prop_map(|(requests, limits)| json!({"requests": requests, "limits": limits}))
}

fn any_containers() -> impl Strategy<Value = Vec<serde_json::Value>> {
    let one = (any_resources(), any::<bool>()).prop_map(|(resources, sidecar)| {
        let policy = sidecar.then_some("Always");
        json!({"name": "c", "resources": resources, "restartPolicy": policy})
    });
    prop::collection::vec(one, 0..4)
}

fn any_spec() -> impl Strategy<Value = PodSpec> {
    (
        any_containers(),
        any_containers(),
        prop::option::of(any_resources()),
    )
        .prop_map(|(containers, init_containers, resources)| {
            spec(json!({"containers": containers, "initContainers": init_containers, "resources": resources}))
        })
}

/// Small and huge numbers alike.
fn any_magnitude() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
}

proptest! {
    #[test]
    fn every_pod_fits_its_vm(
        spec in any_spec(),
        base_cpu in 1..64_u32,
        base_memory_mi in 256..262_144_u64,
        overhead_cpu in 0..4000_u64,
        overhead_memory_mi in 256..8192_u64,
    ) {
        let base = BaseVmResources { cpu: base_cpu, memory_mi: base_memory_mi, ..BaseVmResources::default() };
        let overhead = ResourceOverhead {
            cpu: Quantity(format!("{overhead_cpu}m")),
            memory: Quantity(format!("{overhead_memory_mi}Mi")),
            ..ResourceOverhead::default()
        };
        let request = effective_request(&spec).unwrap();
        match size(request, base, &overhead) {
            Ok(vm) => {
                let promised = allocatable(&vm);
                prop_assert!(promised.cpu_milli >= request.cpu_milli, "{vm:?}");
                prop_assert!(promised.memory_bytes >= request.memory_bytes, "{vm:?}");
                prop_assert!(vm.cpu >= base.cpu && vm.memory_mi >= base.memory_mi, "{vm:?}");
                prop_assert!(vm.reserved_memory_mi >= MIN_RESERVED_MEMORY_MI, "{vm:?}");
                prop_assert!(vm.reserved_cpu_milli <= overhead_cpu, "{vm:?}");
                prop_assert_eq!(
                    capacity(&vm).memory_bytes - promised.memory_bytes,
                    (vm.reserved_memory_mi + EVICTION_MEMORY_MI) * MI
                );
            }
            Err(SizingError::TooMuchCpu) => {
                prop_assert!(request.cpu_milli + overhead_cpu > u64::from(MAX_CPU) * 1000);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn any_numbers_are_answered(
        cpu_milli in any_magnitude(),
        memory_bytes in any_magnitude(),
        cpu: u32,
        memory_mi in any_magnitude(),
        overhead_cpu in any_magnitude(),
        overhead_memory in any_magnitude(),
        ephemeral_storage_bytes in any_magnitude(),
        ephemeral_storage_mi in any_magnitude(),
        ephemeral_storage_percent: u32,
    ) {
        let overhead = ResourceOverhead {
            cpu: Quantity(overhead_cpu.to_string()),
            memory: Quantity(overhead_memory.to_string()),
            ephemeral_storage_percent,
        };
        let base = BaseVmResources { cpu: cpu % 600, memory_mi, ephemeral_storage_mi };
        let request = Request { cpu_milli, memory_bytes, ephemeral_storage_bytes };
        if let Ok(vm) = size(request, base, &overhead) {
            prop_assert!(vm.disk_mi >= ephemeral_storage_bytes.div_ceil(MI));
            prop_assert!(vm.cpu <= MAX_CPU && vm.memory_mi <= MAX_MEMORY_MI);
            prop_assert!(allocatable(&vm).cpu_milli >= cpu_milli);
            prop_assert!(allocatable(&vm).memory_bytes >= memory_bytes);
        }
    }

    #[test]
    fn a_guest_grows_by_no_more_than_it_must(capacity_mi in 0..MAX_MEMORY_MI) {
        let guest_mi = guest_memory_mi(capacity_mi);
        prop_assert!(capacity_memory_mi(guest_mi) >= capacity_mi);
        prop_assert!(capacity_memory_mi(guest_mi - 1) < capacity_mi || capacity_mi == 0);
    }
}
