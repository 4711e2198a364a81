//! The KubeVirt VirtualMachineInstance of one attempt, rendered once and never updated: KubeVirt freezes the spec.
//!
//! Shape and traps: KubeVirt's API document for `kubevirt.io/v1`, releases 1.7 to 1.9.

use kube::core::{ApiResource, DynamicObject};
use maroonedpods_common::api::{Architecture, MaroonedNode, NetworkBinding};
use maroonedpods_common::names;
use serde_json::{Value, json};

use crate::objects::identity;
use crate::objects::record::owner_reference;
use crate::objects::seed;

/// Seconds that a guest gets to power off; its pod is gone by then.
const TERMINATION_GRACE_SECONDS: u32 = 30;

/// The API resource of VMIs. `v1` is KubeVirt's storage version.
#[must_use]
pub fn api_resource() -> ApiResource {
    ApiResource {
        group: "kubevirt.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "kubevirt.io/v1".to_owned(),
        kind: "VirtualMachineInstance".to_owned(),
        plural: "virtualmachineinstances".to_owned(),
    }
}

/// The VMI of an attempt.
///
/// `requests` are explicit and equal to the guest's size, for KubeVirt overcommits CPU tenfold and forgets page
/// tables otherwise; `maxSockets` and `maxGuest` are pinned, for it would reserve four times as much to grow into.
/// The opt-in label is not on it: KubeVirt copies labels to the launcher pod, which our webhook would gate.
#[must_use]
pub fn new(record: &MaroonedNode, attempt: u32, vm_namespace: &str) -> DynamicObject {
    let pod = &record.spec.pod_ref;
    let name = names::vmi_name(&pod.uid, attempt);
    let mut vmi = DynamicObject::new(&name, &api_resource())
        .within(vm_namespace)
        .data(json!({
            "spec": spec(record, attempt),
        }));
    let labels = record.spec.placement.labels.clone();
    vmi.metadata.labels = Some(
        labels
            .into_iter()
            .chain([(names::POD_UID_LABEL.to_owned(), pod.uid.to_string())])
            .collect(),
    );
    vmi.metadata.annotations = Some(
        [(
            names::POD_ANNOTATION.to_owned(),
            format!("{}/{}", pod.namespace, pod.name),
        )]
        .into(),
    );
    vmi.metadata.owner_references = Some(vec![owner_reference(record)]);
    vmi
}

fn spec(record: &MaroonedNode, attempt: u32) -> Value {
    let vm = &record.spec.vm;
    let uid = &record.spec.pod_ref.uid;
    let mut spec = json!({
        "architecture": vm.architecture,
        "hostname": names::node_name(uid),
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        // Set, or the cluster's default (often LiveMigrate) is stamped in: a drain must come to us.
        "evictionStrategy": "External",
        "domain": domain(record, attempt),
        "networks": [{"name": names::VM_INTERFACE, "pod": {}}],
        "volumes": [
            {"name": "root", "containerDisk": with_pull_secret(json!({"image": vm.node_image}), record)},
            {"name": "scratch", "emptyDisk": {"capacity": format!("{}Mi", record.spec.resources.disk_mi)}},
            {"name": "seed", "cloudInitNoCloud": cloud_init(record, attempt)},
        ],
    });
    let options = &vm.options;
    if !options.node_selector.is_empty() {
        spec["nodeSelector"] = json!(options.node_selector);
    }
    let placement = &record.spec.placement;
    let tolerations: Vec<_> = options.tolerations.iter().chain(&placement.tolerations).collect();
    if !tolerations.is_empty() {
        spec["tolerations"] = json!(tolerations);
    }
    if let Some(affinity) = &placement.affinity {
        spec["affinity"] = json!(affinity);
    }
    if !placement.topology_spread_constraints.is_empty() {
        spec["topologySpreadConstraints"] = json!(placement.topology_spread_constraints);
    }
    if !options.priority_class_name.is_empty() {
        spec["priorityClassName"] = json!(options.priority_class_name);
    }
    spec
}

fn cloud_init(record: &MaroonedNode, attempt: u32) -> Value {
    let secret = json!({"name": names::join_secret_name(&record.spec.pod_ref.uid, attempt)});
    let mut source = json!({"secretRef": secret});
    if seed::has_network_data(record) {
        source["networkDataSecretRef"] = secret;
    }
    source
}

fn domain(record: &MaroonedNode, attempt: u32) -> Value {
    let size = &record.spec.resources;
    let memory = format!("{}Mi", size.memory_mi);
    let disk = |name: &str| json!({"name": name, "serial": name, "disk": {"bus": "virtio"}});
    let mut firmware = json!({
        "uuid": identity::firmware_uuid(record, attempt).to_string(),
    });
    if let Some(boot) = &record.spec.vm.kernel_boot {
        let mut container = json!({"image": record.spec.vm.node_image});
        if let Some(path) = &boot.kernel_path {
            container["kernelPath"] = json!(path);
        }
        if let Some(path) = &boot.initrd_path {
            container["initrdPath"] = json!(path);
        }
        firmware["kernelBoot"] =
            json!({"kernelArgs": boot.kernel_args, "container": with_pull_secret(container, record)});
    }
    let mut cpu = json!({"sockets": 1, "cores": size.cpu, "threads": 1, "maxSockets": 1});
    let options = &record.spec.vm.options;
    let machine = match record.spec.vm.architecture {
        Architecture::Amd64 => "q35",
        // KubeVirt knows one machine for arm64, boots it by UEFI only, and takes no other CPU model than the host's.
        // Secure boot would need System Management Mode, which is x86's.
        Architecture::Arm64 => {
            cpu["model"] = json!("host-passthrough");
            firmware["bootloader"] = json!({"efi": {"secureBoot": false}});
            "virt"
        }
    };
    if !options.cpu_model.is_empty() {
        cpu["model"] = json!(options.cpu_model);
    }
    let mut domain = json!({
        "machine": {"type": machine},
        "cpu": cpu,
        "memory": {"guest": memory, "maxGuest": memory},
        "resources": {"requests": {
            "cpu": size.cpu.to_string(),
            "memory": memory,
            "ephemeral-storage": format!("{}Mi", size.disk_mi),
        }},
        "firmware": firmware,
        "devices": {
            "disableHotplug": true,
            "autoattachGraphicsDevice": false,
            "autoattachMemBalloon": false,
            // The boot log is readable with `kubectl logs`, and gives no access to the guest.
            "logSerialConsole": true,
            "rng": {},
            "disks": [disk("root"), disk("scratch"), disk("seed")],
            "interfaces": [interface(options.network_binding)],
        },
    });
    // A kernel that panics resets its machine (`panic=`), and a guest that starts again is no use: its disk is not fresh.
    if record.spec.vm.terminate_on_reboot {
        domain["rebootPolicy"] = json!("Terminate");
    }
    domain
}

fn interface(binding: NetworkBinding) -> Value {
    let mut interface = json!({"name": names::VM_INTERFACE, "model": "virtio"});
    match binding {
        NetworkBinding::Masquerade => interface["masquerade"] = json!({}),
        NetworkBinding::Bridge => interface["bridge"] = json!({}),
    }
    interface
}

fn with_pull_secret(mut source: Value, record: &MaroonedNode) -> Value {
    let secret = &record.spec.vm.options.image_pull_secret;
    if !secret.is_empty() {
        source["imagePullSecret"] = json!(secret);
    }
    source
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::record::tests::record;

    /// What is rendered of a record whose VMs have this architecture.
    fn rendered(architecture: Architecture) -> Value {
        let mut record = record();
        record.spec.vm.architecture = architecture;
        new(&record, 1, "marooned-vms").data["spec"].clone()
    }

    #[test]
    fn each_architecture_gets_what_kubevirt_demands_for_it() {
        let amd64 = rendered(Architecture::Amd64);
        assert_eq!(
            (&amd64["architecture"], &amd64["domain"]["machine"]["type"]),
            (&json!("amd64"), &json!("q35"))
        );
        assert_eq!(amd64["domain"]["cpu"].get("model"), None);
        assert_eq!(amd64["domain"]["firmware"].get("bootloader"), None);

        let mut named = record();
        named.spec.vm.options.cpu_model = "EPYC".to_owned();
        let named = new(&named, 1, "marooned-vms").data;
        assert_eq!(named["spec"]["domain"]["cpu"]["model"], "EPYC");

        let arm64 = rendered(Architecture::Arm64);
        assert_eq!(
            (&arm64["architecture"], &arm64["domain"]["machine"]["type"]),
            (&json!("arm64"), &json!("virt"))
        );
        assert_eq!(arm64["domain"]["cpu"]["model"], "host-passthrough");
        assert_eq!(
            arm64["domain"]["firmware"]["bootloader"]["efi"]["secureBoot"],
            false
        );
        for spec in [amd64, arm64] {
            assert!(spec["domain"]["firmware"]["uuid"].is_string(), "{spec}");
        }
    }

    #[test]
    fn a_reboot_is_the_end_where_kubevirt_knows_such_a_thing() {
        let domain = |terminate_on_reboot| {
            let mut record = record();
            record.spec.vm.terminate_on_reboot = terminate_on_reboot;
            new(&record, 1, "marooned-vms").data["spec"]["domain"].clone()
        };
        assert_eq!(domain(true)["rebootPolicy"], "Terminate");
        assert_eq!(domain(false).get("rebootPolicy"), None);
    }
}
