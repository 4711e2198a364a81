//! The table of VMIs that differ from the usual one, and what `KubeVirt` 1.9 said to each.

use serde_json::{Value, json};

use crate::variants::Variant;

fn is(what: &'static str, at: &'static str, value: Value) -> Variant {
    Variant {
        what,
        at,
        value,
        refusal: None,
    }
}

fn not(what: &'static str, at: &'static str, value: Value, refusal: &'static str) -> Variant {
    Variant {
        refusal: Some(refusal),
        ..is(what, at, value)
    }
}

pub fn variants() -> Vec<Variant> {
    [machine(), memory(), devices(), network(), volumes(), pod()]
        .into_iter()
        .flatten()
        .collect()
}

fn machine() -> Vec<Variant> {
    let kernel = json!({"image": "i", "kernelPath": "/k", "initrdPath": "/i"});
    vec![
        is("nothing else", "", Value::Null),
        is("no architecture", "/architecture", Value::Null),
        not(
            "another architecture",
            "/architecture",
            json!("arm64"),
            "spec.domain.machine.type is not supported: q35",
        ),
        not(
            "an unknown architecture",
            "/architecture",
            json!("sparc"),
            "unsupported architecture: sparc",
        ),
        is("no machine type", "/domain/machine", Value::Null),
        not(
            "an unknown machine type",
            "/domain/machine/type",
            json!("microvm"),
            "machine",
        ),
        is("the host's processor", "/domain/cpu/model", json!("host-model")),
        is(
            "the host's processor as it is",
            "/domain/cpu/model",
            json!("host-passthrough"),
        ),
        is("a processor by name", "/domain/cpu/model", json!("qemu64")),
        is("fewer sockets than there are", "/domain/cpu/maxSockets", json!(0)),
        not(
            "more sockets than may be",
            "/domain/cpu/sockets",
            json!(2),
            "Number of sockets in CPU topology is greater than the maximum sockets allowed",
        ),
        not(
            "as many cores as nobody has",
            "/domain/cpu/cores",
            json!("many"),
            "spec.domain.cpu.cores in body must be of type integer",
        ),
        is(
            "a firmware UUID that is none",
            "/domain/firmware/uuid",
            json!("x"),
        ),
        is(
            "a very long serial number",
            "/domain/firmware/serial",
            json!("x".repeat(257)),
        ),
        is(
            "kernel arguments of 2 KiB",
            "/domain/firmware/kernelBoot/kernelArgs",
            json!("x".repeat(2048)),
        ),
        is("a boot from disk", "/domain/firmware/kernelBoot", Value::Null),
        is(
            "a kernel alone",
            "/domain/firmware/kernelBoot/container",
            json!({"image": "i", "kernelPath": "/k"}),
        ),
        not(
            "no kernel",
            "/domain/firmware/kernelBoot/container",
            json!({"image": "i"}),
            "kernelPath",
        ),
        not(
            "a kernel from nowhere",
            "/domain/firmware/kernelBoot/container/image",
            json!(""),
            "spec.domain.firmware.kernelBoot.container must be defined with an image",
        ),
        is(
            "a kernel that is pulled",
            "/domain/firmware/kernelBoot/container",
            {
                let mut kernel = kernel;
                kernel["imagePullPolicy"] = json!("Always");
                kernel["imagePullSecret"] = json!("s");
                kernel
            },
        ),
        is("a reboot that is one", "/domain/rebootPolicy", json!("Reboot")),
        not(
            "an unknown reboot policy",
            "/domain/rebootPolicy",
            json!("Never"),
            "Unsupported value: \"Never\"",
        ),
        not(
            "a field that there is not",
            "/domain/colour",
            json!("red"),
            "unknown field",
        ),
    ]
}

fn memory() -> Vec<Variant> {
    vec![
        is("no memory", "/domain/memory", Value::Null),
        not(
            "no memory at all",
            "/domain",
            json!({"devices": {}}),
            "no memory requested",
        ),
        is("more memory than at most", "/domain/memory/guest", json!("512Mi")),
        is("no limit to memory", "/domain/memory/maxGuest", Value::Null),
        not(
            "an odd quantity",
            "/domain/memory/guest",
            json!("much"),
            "quantities must match the regular expression",
        ),
        is(
            "less memory for the launcher",
            "/domain/resources/requests/memory",
            json!("128Mi"),
        ),
        not(
            "less than the request at most",
            "/domain/resources/limits",
            json!({"memory": "128Mi"}),
            "'256Mi' is greater than spec.domain.resources.limits.memory '128Mi'",
        ),
        not(
            "huge pages that do not divide it",
            "/domain/memory/hugepages",
            json!({"pageSize": "3Mi"}),
            "is not a multiple of the page size",
        ),
        not(
            "no processor time at most",
            "/domain/resources/limits",
            json!({"cpu": "50m"}),
            "'100m' is greater than spec.domain.resources.limits.cpu '50m'",
        ),
        not(
            "negative processor time",
            "/domain/resources/requests/cpu",
            json!("-1"),
            "must be greater than or equal to 0",
        ),
    ]
}

fn devices() -> Vec<Variant> {
    let disk = |name: &str| json!({"name": name, "disk": {"bus": "virtio"}});
    vec![
        not(
            "a disk without a volume",
            "/domain/devices/disks/-",
            disk("other"),
            "spec.domain.devices.disks[3].Name 'other' not found",
        ),
        not(
            "a disk by another name",
            "/domain/devices/disks/0/name",
            json!("other"),
            "spec.domain.devices.disks[0].Name 'other' not found",
        ),
        not(
            "two disks of a name",
            "/domain/devices/disks/1/name",
            json!("root"),
            "must not have the same Name",
        ),
        not(
            "an unknown bus",
            "/domain/devices/disks/0/disk/bus",
            json!("floppy"),
            "is set with an unrecognized bus floppy",
        ),
        not(
            "a serial with spaces",
            "/domain/devices/disks/0/serial",
            json!("a b"),
            "must be made up of the following characters",
        ),
        not(
            "a long serial",
            "/domain/devices/disks/0/serial",
            json!("x".repeat(257)),
            "must be less than or equal to 256 in length",
        ),
        not(
            "a disk that is booted zeroth",
            "/domain/devices/disks/0/bootOrder",
            json!(0),
            "must have a boot order > 0",
        ),
        is(
            "a disk that is booted first",
            "/domain/devices/disks/0/bootOrder",
            json!(1),
        ),
        not(
            "an unknown cache mode",
            "/domain/devices/disks/0/cache",
            json!("some"),
            "spec.domain.devices.disks[0].cache has invalid value some",
        ),
        is(
            "a disk on another bus",
            "/domain/devices/disks/0/disk/bus",
            json!("sata"),
        ),
        is("no watchdog", "/domain/devices/watchdog", Value::Null),
        is(
            "a watchdog that does nothing",
            "/domain/devices/watchdog/i6300esb",
            Value::Null,
        ),
        is(
            "a watchdog that sings",
            "/domain/devices/watchdog/i6300esb/action",
            json!("sing"),
        ),
        is("random numbers", "/domain/devices/rng", json!({})),
        is(
            "a queue for each processor",
            "/domain/devices/networkInterfaceMultiqueue",
            json!(true),
        ),
        is("queues of disks", "/domain/devices/blockMultiQueue", json!(true)),
        is(
            "a thread for all disks",
            "/domain/ioThreadsPolicy",
            json!("shared"),
        ),
        not(
            "an unknown way of threads",
            "/domain/ioThreadsPolicy",
            json!("some"),
            "Invalid IOThreadsPolicy (some)",
        ),
        not(
            "a device that nobody permits",
            "/domain/devices/hostDevices",
            json!([{"name": "d", "deviceName": "v/d"}]),
            "Host Devices feature gate is not enabled",
        ),
    ]
}

fn network() -> Vec<Variant> {
    let interface = |more: Value| {
        let mut interface = json!({"name": "default"});
        for (key, value) in more.as_object().unwrap() {
            interface[key] = value.clone();
        }
        interface
    };
    vec![
        not(
            "an interface without a network",
            "/networks",
            json!([]),
            "spec.domain.devices.interfaces[0].name 'default' not found",
        ),
        not(
            "a network by another name",
            "/networks/0/name",
            json!("other"),
            "spec.networks[0].name 'other' not found",
        ),
        not(
            "a second pod network",
            "/networks/-",
            json!({"name": "more", "pod": {}}),
            "more than one interface is connected to a pod network",
        ),
        not(
            "a network of no kind",
            "/networks/0",
            json!({"name": "default"}),
            "should have a network type",
        ),
        is(
            "bridge binding",
            "/domain/devices/interfaces/0",
            interface(json!({"bridge": {}})),
        ),
        not(
            "no binding",
            "/domain/devices/interfaces/0",
            interface(json!({})),
            "must have exactly one binding method or binding plugin",
        ),
        not(
            "an unknown model",
            "/domain/devices/interfaces/0/model",
            json!("ne3000"),
            "uses model ne3000 that is not supported",
        ),
        not(
            "an odd address",
            "/domain/devices/interfaces/0/macAddress",
            json!("xy"),
            "has malformed MAC address (xy)",
        ),
        is(
            "a port",
            "/domain/devices/interfaces/0/ports",
            json!([{"port": 80}]),
        ),
        not(
            "a port beyond all",
            "/domain/devices/interfaces/0/ports",
            json!([{"port": 65536}]),
            "Port field must be in range 0 < x < 65536",
        ),
        not(
            "two ports of a name",
            "/domain/devices/interfaces/0/ports",
            json!([{"name": "a", "port": 1}, {"name": "a", "port": 2}]),
            "Duplicate name of the port: a",
        ),
    ]
}

fn volumes() -> Vec<Variant> {
    let user_data = json!({"userData": "x", "secretRef": {"name": "s"}});
    vec![
        not(
            "a volume of no kind",
            "/volumes/0",
            json!({"name": "root"}),
            "spec.volumes[0] must have exactly one source type set",
        ),
        not(
            "a volume of two kinds",
            "/volumes/1/containerDisk",
            json!({"image": "i"}),
            "spec.volumes[1] must have exactly one source type set",
        ),
        is(
            "a disk from nowhere",
            "/volumes/0/containerDisk/image",
            Value::Null,
        ),
        not(
            "a path out of the image",
            "/volumes/0/containerDisk/path",
            json!("../x"),
            "must be an absolute path to a file without relative components",
        ),
        not(
            "a scratch disk of no size",
            "/volumes/1/emptyDisk/capacity",
            Value::Null,
            "spec.volumes.emptyDisk.capacity in body is required",
        ),
        not(
            "two seeds in one",
            "/volumes/2/cloudInitNoCloud",
            user_data,
            "must have only one userdatasource set",
        ),
        not(
            "an empty seed",
            "/volumes/2/cloudInitNoCloud",
            json!({}),
            "must have at least one userdatasource",
        ),
        is(
            "a seed without a network",
            "/volumes/2/cloudInitNoCloud/networkDataSecretRef",
            Value::Null,
        ),
        is(
            "a volume that no disk uses",
            "/domain/devices/disks/1",
            Value::Null,
        ),
    ]
}

fn pod() -> Vec<Variant> {
    let toleration = json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]);
    vec![
        not(
            "an unknown eviction",
            "/evictionStrategy",
            json!("Sometimes"),
            "spec.evictionStrategy is set with an unrecognized option: Sometimes",
        ),
        is(
            "an eviction that migrates",
            "/evictionStrategy",
            json!("LiveMigrate"),
        ),
        is("a negative grace", "/terminationGracePeriodSeconds", json!(-1)),
        not("a host name in capitals", "/hostname", json!("A_B"), "hostname"),
        is("a host", "/nodeSelector", json!({"a": "b"})),
        is("a toleration", "/tolerations", toleration),
        not(
            "a toleration that is odd",
            "/tolerations",
            json!([{"key": "k", "operator": "Perhaps"}]),
            "spec.tolerations.operator in body should be one of",
        ),
        is(
            "a priority class that may not exist",
            "/priorityClassName",
            json!("none"),
        ),
        is("a scheduler", "/schedulerName", json!("s")),
        is(
            "an affinity",
            "/affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}}),
        ),
        is(
            "a spread",
            "/topologySpreadConstraints",
            json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}}]),
        ),
        not(
            "names that nobody resolves",
            "/dnsPolicy",
            json!("None"),
            "must provide `dnsConfig` when `dnsPolicy` is None",
        ),
    ]
}
