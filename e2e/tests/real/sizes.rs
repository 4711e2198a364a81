//! Does each pod fit on its node, as that node's own kubelet sees it? What it asks for is counted as Kubernetes does, not as
//! the programs do that chose the VM's size.

use std::collections::BTreeSet;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::Pod;
use maroonedpods_e2e::fake_kubevirt::{Request, quantity};
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use serde_json::{Value, json};

/// Fewer pods of different sizes would show little.
const LEAST: usize = 10;

/// The CPU and the memory that a pod's first container asks for.
#[derive(Clone, Copy)]
pub struct Size(pub &'static str, pub &'static str);

impl Size {
    pub fn put_into(self, spec: &mut Value) {
        spec["containers"][0]["resources"]["requests"] = json!({"cpu": self.0, "memory": self.1});
    }
}

/// Pods and what their nodes have for them.
#[derive(Default)]
pub struct Sizes {
    seen: Mutex<BTreeSet<[u64; 4]>>,
}

impl Sizes {
    /// The pod runs, and its node must have what it asks for: its kubelet would have rejected it.
    pub async fn fits(&self, pod: &MaroonedPod) {
        let found: Pod = pod.pods.get(&pod.name).await.unwrap();
        let asked = Request::of(&found.spec.unwrap()).unwrap();
        let status = pod.nodes().get(&pod.node_name()).await.unwrap().status.unwrap();
        let info = status.node_info.unwrap();
        assert!(
            !info.kubelet_version.is_empty(),
            "the kubelet has not spoken: {info:?}"
        );
        let allocatable = status.allocatable.unwrap();
        let cpu = quantity::milli(&allocatable["cpu"].0).unwrap();
        let memory = quantity::units(&allocatable["memory"].0).unwrap();
        assert!(
            cpu >= asked.cpu_milli,
            "{}: {asked:?} of {allocatable:?}",
            pod.name
        );
        assert!(
            memory >= asked.memory_bytes,
            "{}: {asked:?} of {allocatable:?}",
            pod.name
        );
        let row = [asked.memory_bytes, memory, asked.cpu_milli, cpu];
        self.seen.lock().unwrap().insert(row);
    }

    pub fn print(&self) {
        let seen = self.seen.lock().unwrap();
        println!("| asked: memory MiB | CPU | allocatable: memory MiB | CPU |\n|---|---|---|---|");
        for [asked, memory, asked_cpu, cpu] in &*seen {
            println!("| {} | {asked_cpu}m | {} | {cpu}m |", asked >> 20, memory >> 20);
        }
        let sizes: BTreeSet<_> = seen.iter().map(|[memory, _, cpu, _]| (memory, cpu)).collect();
        assert!(sizes.len() >= LEAST, "{} sizes", sizes.len());
    }
}
