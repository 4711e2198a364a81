//! The VMs that the reconciler asks for under each option of its configuration are ones that KubeVirt takes.

use std::fs;

use kube::Client;
use maroonedpods_common::names;
use maroonedpods_reconciler::{Cluster, preflight};
use serde_json::{Value, json};

/// Nothing is added: not that a reboot would not be the end.
const ACCEPTED: &str = "ok    KubeVirt accepts the VMs of the present MaroonedPodsConfig";

/// What differs from a configuration of nothing but what is required.
fn configurations() -> Vec<Value> {
    let vm = |more: Value| json!({"vm": more});
    vec![
        json!({}),
        json!({"enableKernelBoot": true}),
        json!({"enableKernelBoot": true, "kernelBootConfig": {"kernelPath": "/k", "initrdPath": null, "kernelArgs": "a=b c"}}),
        json!({"architecture": "amd64"}),
        json!({"architecture": "arm64"}),
        json!({"baseVMResources": {"cpu": 1, "memoryMi": 512}}),
        json!({"baseVMResources": {"cpu": 16, "memoryMi": 65536, "ephemeralStorageMi": 102_400}}),
        json!({"resourceOverhead": {"cpu": "100m", "memory": "600Mi"}}),
        json!({"nodeImage": format!("registry.example/node@sha256:{}", "0".repeat(64))}),
        vm(json!({"networkBinding": "Bridge"})),
        vm(json!({"cpuModel": "host-passthrough"})),
        vm(json!({"cpuModel": "EPYC"})),
        vm(json!({"nodeSelector": {"kubernetes.io/hostname": "a", "example.com/pool": "b"}})),
        vm(json!({"tolerations": [
            {"key": "k", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": 5},
            {"operator": "Exists"},
        ]})),
        vm(json!({"priorityClassName": "high", "priorityClasses": ["low"]})),
        vm(json!({"imagePullSecret": "registry"})),
    ]
}

/// The reconciler's own check asks KubeVirt for a VM by a dry run, in which unknown fields are refused.
pub async fn every_configuration_is_taken(admin: &Client) {
    let cluster = Cluster {
        client: admin.clone(),
        vm_namespace: names::VM_NAMESPACE.to_owned(),
    };
    let folder = tempfile::tempdir().unwrap();
    for configuration in configurations() {
        let mut spec =
            json!({"nodeImage": "registry.example/node:1", "join": {"serverURL": "https://192.0.2.1:6443"}});
        json_patch::merge(&mut spec, &configuration);
        let config = json!({
            "apiVersion": "maroonedpods.io/v1alpha1", "kind": "MaroonedPodsConfig",
            "metadata": {"name": names::CONFIG_NAME}, "spec": spec,
        });
        let file = folder.path().join("config.yaml");
        fs::write(&file, config.to_string()).unwrap();
        let report = preflight(&cluster, Some(&file)).await.unwrap().to_string();
        let accepted = report.lines().any(|line| line == ACCEPTED);
        assert!(accepted, "{configuration}:\n{report}");
    }
}
