//! The sizes of VMs that docs/configuration.md lists.

use maroonedpods_common::api::{BaseVmResources, ResourceOverhead};
use maroonedpods_common::sizing::{self, Request};

use crate::{page, read};

/// What the page's pods request: in its words, in thousandths of a CPU, and in MiB.
const REQUESTS: [(&str, u64, u64); 3] = [
    ("nothing", 0, 0),
    ("1 CPU, 1 GiB", 1000, 1 << 10),
    ("4 CPUs, 32 GiB", 4000, 32 << 10),
];

#[test]
fn listed_sizes_are_what_pods_get_by_default() {
    let blocks = page::blocks(&read("docs/configuration.md"));
    for (words, cpu_milli, memory_mi) in REQUESTS {
        let request = Request {
            cpu_milli,
            memory_bytes: memory_mi << 20,
            ..Request::default()
        };
        let vm = sizing::size(request, BaseVmResources::default(), &ResourceOverhead::default()).unwrap();
        let allocatable = sizing::allocatable(&vm);
        let row = format!(
            "{words} {} vCPU{}, {} MiB {}m, {} MiB",
            vm.cpu,
            if vm.cpu == 1 { "" } else { "s" },
            grouped(vm.memory_mi),
            allocatable.cpu_milli,
            grouped(allocatable.memory_bytes >> 20),
        );
        assert!(blocks.contains(&row), "docs/configuration.md lacks: {row}");
    }
}

/// A number below a million, with its thousands set apart.
fn grouped(number: u64) -> String {
    match (number / 1000, number % 1000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}
