//! The launcher pod of a real guest.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::super::launcher::{Hardware, volumes};
use super::arguments::{DISK_IMAGE, KERNEL_IMAGE, arguments, blank_disks};
use super::image::LAUNCHER_IMAGE;
use super::probe::Accelerator;

/// The user that KubeVirt's launchers run QEMU as.
const USER: u32 = 107;
/// Name of the `RuntimeClass` whose containers have `/dev/net/tun` and `/dev/kvm`. KubeVirt's device plugins do that.
pub(in super::super) const DEVICES_CLASS: &str = "vm-devices";

/// Puts QEMU into `launcher`, which is the pod of any guest of `vmi`.
pub(in super::super) fn in_launcher(
    launcher: Pod,
    vmi: &DynamicObject,
    accelerator: Accelerator,
    teardown: Duration,
) -> Result<Pod> {
    let hardware = Hardware::of(vmi)?;
    let spec = &vmi.data["spec"];
    let mut pod = serde_json::to_value(launcher)?;
    let image = json!({"image": LAUNCHER_IMAGE, "imagePullPolicy": "Never"});
    let container = |more: Value| merged(&image, more);
    let run = json!({"name": "run", "mountPath": "/run/vm"});
    let disks = json!({"name": "disks", "mountPath": "/var/tmp"});
    let unprivileged = json!({
        "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let mut compute_mounts = vec![run.clone(), disks.clone()];
    let mut volumes = vec![
        json!({"name": "run", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "disks", "emptyDir": {}}),
        json!({"name": "seed", "projected": {"sources": seed_sources(spec)?, "defaultMode": 0o440}}),
    ];
    for (name, path, reference) in images(spec) {
        compute_mounts.push(json!({"name": name, "mountPath": path, "readOnly": true}));
        volumes.push(json!({"name": name, "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}));
    }
    let inits = [
        container(json!({
            "name": "network",
            "command": ["/launcher/network.sh"],
            "securityContext": {"privileged": true, "runAsUser": 0, "runAsGroup": 0},
        })),
        container(json!({
            "name": "disks",
            "command": ["/launcher/disks.sh"],
            "args": blank_disks(spec)?,
            "env": [
                {"name": "INSTANCE_ID", "value": vmi.uid().unwrap_or_default()},
                {"name": "LOCAL_HOSTNAME", "value": hardware.hostname},
            ],
            "securityContext": unprivileged,
            "volumeMounts": [run, disks, {"name": "seed", "mountPath": "/seed", "readOnly": true}],
        })),
    ];
    let compute = container(json!({
        "name": "compute",
        "command": ["/launcher/run.sh"],
        "args": arguments(spec, &hardware, accelerator)?,
        "env": [{"name": "TEARDOWN", "value": teardown.as_secs_f64().to_string()}],
        "resources": pod["spec"]["containers"][0]["resources"],
        "securityContext": unprivileged,
        "volumeMounts": compute_mounts,
    }));
    let more = json!({
        "runtimeClassName": DEVICES_CLASS,
        "securityContext": {"fsGroup": USER},
        "initContainers": inits,
        "containers": [compute],
        "volumes": volumes,
    });
    pod["spec"] = merged(&pod["spec"], more);
    serde_json::from_value(pod).context("rendering a launcher of a real guest")
}

/// The images that the VMI's disk and kernel are in: volume, where it is mounted, reference.
fn images(spec: &Value) -> Vec<(&'static str, &'static str, &Value)> {
    let disk = volumes(spec).find_map(|volume| volume.pointer("/containerDisk/image"));
    let kernel = spec.pointer("/domain/firmware/kernelBoot/container/image");
    let disk = disk.map(|image| ("disk-image", DISK_IMAGE, image));
    let kernel = kernel.map(|image| ("kernel-image", KERNEL_IMAGE, image));
    disk.into_iter().chain(kernel).collect()
}

/// The seed's Secrets, which only the container that makes the seed sees.
fn seed_sources(spec: &Value) -> Result<Vec<Value>> {
    let seed = volumes(spec).find_map(|volume| volume.get("cloudInitNoCloud"));
    let seed = seed.context("the VMI has no seed")?;
    let source = |secret: &Value, key: &str, path: &str| json!({"secret": {"name": secret, "items": [{"key": key, "path": path}]}});
    let user_data = seed
        .pointer("/secretRef/name")
        .context("the VMI has no seed in a Secret")?;
    let mut sources = vec![source(user_data, "userdata", "user-data")];
    if let Some(network) = seed.pointer("/networkDataSecretRef/name") {
        sources.push(source(network, "networkdata", "network-config"));
    }
    Ok(sources)
}

fn merged(base: &Value, more: Value) -> Value {
    let mut merged = base.clone();
    if let Value::Object(more) = more {
        for (key, value) in more {
            merged[key] = value;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launcher() -> Value {
        let vmi: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "v", "uid": "u"},
            "spec": {
                "domain": {
                    "cpu": {"cores": 2},
                    "memory": {"guest": "1Gi"},
                    "firmware": {"uuid": "f"},
                    "resources": {"requests": {"cpu": "2", "memory": "1Gi"}},
                    "devices": {"disks": [{"name": "root", "serial": "root"}]},
                },
                "volumes": [
                    {"name": "root", "containerDisk": {"image": "localhost/node:1"}},
                    {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "join"}, "networkDataSecretRef": {"name": "join"}}},
                ],
            },
        }))
        .unwrap();
        let base = super::super::super::launcher::render(&vmi, false).unwrap();
        serde_json::to_value(in_launcher(base, &vmi, Accelerator::Tcg, Duration::ZERO).unwrap()).unwrap()
    }

    #[test]
    fn qemu_has_no_rights_and_does_not_see_the_secret() {
        let pod = launcher();
        let compute = &pod["spec"]["containers"][0];
        assert_eq!(compute["securityContext"]["runAsUser"], USER);
        assert_eq!(compute["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(compute["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        let sees = |container: &Value| {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            mounts.filter(|mount| mount["name"] == "seed").count()
        };
        assert_eq!(sees(compute), 0);
        assert_eq!(sees(&pod["spec"]["initContainers"][0]), 0);
        assert_eq!(sees(&pod["spec"]["initContainers"][1]), 1);
        assert!(!pod.to_string().contains("hostPath"));
    }

    /// As any launcher: 1024 MiB, 220 + 2 * 8 + 8 + 32 of KubeVirt's own, and page tables of 2097152 bytes.
    #[test]
    fn qemus_container_asks_for_what_the_launcher_asks_for() {
        let pod = launcher();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"]["requests"],
            json!({"cpu": "2", "memory": "1365245952", "ephemeral-storage": "50000000"})
        );
    }

    #[test]
    fn the_node_image_is_a_volume() {
        let pod = launcher();
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        assert!(
            volumes
                .iter()
                .any(|volume| volume["image"]["reference"] == "localhost/node:1")
        );
        assert_eq!(images(&json!({})).len(), 0);
    }
}
