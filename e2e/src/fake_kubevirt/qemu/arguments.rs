//! QEMU's arguments, as a function of the VMI.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::super::launcher::{Hardware, units, volumes};
use super::probe::Accelerator;

/// Where the node image is mounted, and the image that holds the kernel.
pub(super) const DISK_IMAGE: &str = "/disk-image";
pub(super) const KERNEL_IMAGE: &str = "/kernel-image";
/// In a containerDisk without a path. (KubeVirt takes the only file of that folder, whatever it is called.)
const DISK_PATH: &str = "/disk/node.img";
/// Bounds the emulator's own memory. Its default of a gigabyte is far beyond what a launcher asks for, and no faster.
const TRANSLATION_CACHE_MI: u32 = 256;

/// QEMU's arguments for the VMI with this spec; `run.sh` adds the network card, which depends on the pod's MTU.
pub(super) fn arguments(spec: &Value, hardware: &Hardware, accelerator: Accelerator) -> Result<Vec<String>> {
    let tcg = format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MI}");
    let accelerators: &[&str] = match accelerator {
        Accelerator::Kvm => &["-accel", "kvm", "-accel", &tcg],
        Accelerator::Tcg => &["-accel", &tcg],
    };
    let mut all: Vec<String> = ["-machine", "q35", "-cpu", "max"].map(str::to_owned).into();
    all.extend(accelerators.iter().map(|&argument| argument.to_owned()));
    let mut add = |option: &str, value: String| all.extend([option.to_owned(), value]);
    add("-m", format!("{}M", hardware.memory_mi));
    add("-smp", hardware.cpus.to_string());
    add("-uuid", hardware.firmware_uuid.clone());
    add("-display", "none".to_owned());
    if spec["domain"]["devices"]["rng"].is_object() {
        add("-object", "rng-random,id=rng,filename=/dev/urandom".to_owned());
        add("-device", "virtio-rng-pci,rng=rng".to_owned());
    }
    // KubeVirt attaches a console unless it is told not to.
    add("-serial", "stdio".to_owned());
    for disk in spec["domain"]["devices"]["disks"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let name = disk["name"].as_str().unwrap_or_default();
        let file = volumes(spec)
            .find(|volume| volume["name"] == name)
            .map(file)
            .transpose()?;
        let file = file.with_context(|| format!("disk {name} has no volume"))?;
        let serial = disk["serial"].as_str().unwrap_or_default();
        add("-drive", format!("if=none,id={name},format=raw,{file}"));
        add("-device", format!("virtio-blk-pci,drive={name},serial={serial}"));
    }
    let boot = &spec["domain"]["firmware"]["kernelBoot"];
    for (option, field) in [("-kernel", "kernelPath"), ("-initrd", "initrdPath")] {
        if let Some(path) = boot["container"][field].as_str() {
            add(option, format!("{KERNEL_IMAGE}{path}"));
        }
    }
    if let Some(kernel_arguments) = boot["kernelArgs"].as_str() {
        add("-append", kernel_arguments.to_owned());
    }
    if let Some(watchdog) = spec["domain"]["devices"].get("watchdog") {
        add("-device", "i6300esb".to_owned());
        let action = watchdog["i6300esb"]["action"].as_str().unwrap_or("reset");
        add("-action", format!("watchdog={action}"));
    }
    all.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
    // Else a guest that resets starts again, in the same VM.
    if hardware.ends_on_reset {
        all.push("-no-reboot".to_owned());
    }
    Ok(all)
}

/// The file behind a volume, as options of a drive.
fn file(volume: &Value) -> Result<String> {
    let name = volume["name"].as_str().unwrap_or_default();
    Ok(if let Some(disk) = volume.get("containerDisk") {
        // What the guest writes goes with it, as on KubeVirt.
        let path = disk["path"].as_str().unwrap_or(DISK_PATH);
        format!("file={DISK_IMAGE}{path},snapshot=on")
    } else if volume.get("emptyDisk").is_some() {
        format!("file={},cache=unsafe,discard=unmap", blank_path(name))
    } else if volume.get("cloudInitNoCloud").is_some() {
        "file=/run/vm/seed.iso,readonly=on".to_owned()
    } else {
        bail!("volume {name} is of a kind that the fake KubeVirt does not have")
    })
}

fn blank_path(name: &str) -> String {
    format!("/var/tmp/{name}.img")
}

/// The blank disks that `disks.sh` makes, `name=bytes` each.
pub(super) fn blank_disks(spec: &Value) -> Result<Vec<String>> {
    let blank = |volume: &Value| {
        let capacity = volume.pointer("/emptyDisk/capacity")?.clone();
        let name = volume["name"].as_str().unwrap_or_default().to_owned();
        Some((name, capacity))
    };
    let in_bytes = |(name, capacity): (String, Value)| Ok(format!("{name}={}", units(&capacity)?));
    volumes(spec).filter_map(blank).map(in_bytes).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the reconciler renders (`objects::vmi`), and a watchdog.
    fn spec() -> Value {
        let disk = |name: &str| json!({"name": name, "serial": name, "disk": {"bus": "virtio"}});
        json!({
            "domain": {
                "cpu": {"cores": 2},
                "memory": {"guest": "512Mi"},
                "firmware": {"uuid": "u", "kernelBoot": {"kernelArgs": "console=ttyS0 ro",
                    "container": {"image": "i", "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"}}},
                "rebootPolicy": "Terminate",
                "devices": {"rng": {}, "disks": [disk("root"), disk("scratch"), disk("seed")],
                    "watchdog": {"name": "w", "i6300esb": {"action": "poweroff"}}},
            },
            "volumes": [
                {"name": "root", "containerDisk": {"image": "i"}},
                {"name": "scratch", "emptyDisk": {"capacity": "2Gi"}},
                {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "s"}}},
            ],
        })
    }

    fn rendered(spec: &Value, accelerator: Accelerator) -> String {
        let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {}, "spec": spec});
        let hardware = Hardware::of(&serde_json::from_value(vmi).unwrap()).unwrap();
        arguments(spec, &hardware, accelerator).unwrap().join(" ")
    }

    /// Every argument: a device more would be one that KubeVirt does not give.
    #[test]
    fn a_machine_is_what_its_vmi_says_and_nothing_else() {
        assert_eq!(
            rendered(&spec(), Accelerator::Tcg),
            "-machine q35 -cpu max -accel tcg,thread=multi,tb-size=256 -m 512M -smp 2 -uuid u -display none \
             -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng -serial stdio \
             -drive if=none,id=root,format=raw,file=/disk-image/disk/node.img,snapshot=on \
             -device virtio-blk-pci,drive=root,serial=root \
             -drive if=none,id=scratch,format=raw,file=/var/tmp/scratch.img,cache=unsafe,discard=unmap \
             -device virtio-blk-pci,drive=scratch,serial=scratch \
             -drive if=none,id=seed,format=raw,file=/run/vm/seed.iso,readonly=on \
             -device virtio-blk-pci,drive=seed,serial=seed \
             -kernel /kernel-image/boot/vmlinuz -initrd /kernel-image/boot/initrd -append console=ttyS0 ro \
             -device i6300esb -action watchdog=poweroff -nodefaults -no-user-config -no-reboot"
        );
        assert!(
            rendered(&spec(), Accelerator::Kvm)
                .starts_with("-machine q35 -cpu max -accel kvm -accel tcg,thread=multi,tb-size=256 -m")
        );
        assert_eq!(blank_disks(&spec()).unwrap(), ["scratch=2147483648"]);
    }

    #[test]
    fn a_vmi_that_does_not_say_what_a_reboot_is_reboots() {
        let mut spec = spec();
        for policy in [json!(null), json!("Reboot")] {
            spec["domain"]["rebootPolicy"] = policy;
            assert!(rendered(&spec, Accelerator::Tcg).ends_with("-no-user-config"));
        }
    }

    #[test]
    fn without_a_kernel_it_boots_from_its_disk() {
        let mut spec = spec();
        spec["domain"]["firmware"] = json!({"uuid": "u"});
        assert!(!rendered(&spec, Accelerator::Tcg).contains("-kernel"));
    }

    #[test]
    fn a_disk_of_another_kind_is_refused() {
        let mut spec = spec();
        spec["volumes"][0] = json!({"name": "root", "hostDisk": {}});
        let hardware = Hardware {
            hostname: String::new(),
            firmware_uuid: String::new(),
            cpus: 1,
            memory_mi: 1,
            disk_mi: 1,
            ends_on_reset: false,
        };
        let error = arguments(&spec, &hardware, Accelerator::Tcg).unwrap_err();
        assert!(error.to_string().contains("root"), "{error}");
    }
}
