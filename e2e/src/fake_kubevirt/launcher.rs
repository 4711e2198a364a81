//! The launcher pod: what virt-controller makes of a VMI, and what the VM finds in it.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::quantity;
use super::vmi::Ending;

/// Label on a launcher: the UID of its VMI.
pub(super) const CREATED_BY: &str = "kubevirt.io/created-by";
/// Annotation on a launcher: the name of its VMI.
pub(super) const DOMAIN: &str = "kubevirt.io/domain";
/// Label on nodes that virt-handler serves; launchers select it.
pub(super) const SCHEDULABLE: &str = "kubevirt.io/schedulable";
/// What virt-controller adds to the guest's grace for the launcher's own: +15 s twice.
const GRACE_MARGIN_SECONDS: i64 = 30;
const DEFAULT_GRACE_SECONDS: i64 = 30;
const MI: u64 = 1 << 20;
/// Local storage that a launcher asks for beside what its VMI does.
const OWN_STORAGE: u64 = 50_000_000;

/// What the VMI's launcher makes of it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) enum Launcher {
    /// None was seen yet.
    #[default]
    None,
    /// It exists; the scheduler's message when there is no room for it.
    Waiting { unschedulable: Option<String> },
    /// It runs on this host and has this address.
    Ready { host: String, address: String },
    /// It ended, like this, or its object is gone.
    Ended(Ending),
}

impl Launcher {
    /// What a launcher's pod says of it.
    pub(super) fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let host = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let conditions = status.conditions.unwrap_or_default();
        let is =
            |type_: &str, wanted: &str| conditions.iter().find(|c| c.type_ == type_ && c.status == wanted);
        match (status.phase.as_deref(), host, status.pod_ip) {
            (Some("Succeeded"), _, _) => Self::Ended(Ending::PoweredOff),
            (Some("Failed"), _, _) => Self::Ended(Ending::Crashed),
            (_, Some(host), Some(address)) if is("Ready", "True").is_some() => Self::Ready { host, address },
            _ => Self::Waiting {
                unschedulable: is("PodScheduled", "False")
                    .filter(|c| c.reason.as_deref() == Some("Unschedulable"))
                    .map(|c| c.message.clone().unwrap_or_default()),
            },
        }
    }
}

/// Renders the launcher of `vmi`. Labels and annotations of the VMI are copied to it, placement is handed on, as
/// KubeVirt does. `nowhere` makes it select a node that does not exist.
pub(super) fn render(vmi: &DynamicObject, nowhere: bool) -> Result<Pod> {
    let (name, uid) = (vmi.name_any(), vmi.uid().unwrap_or_default());
    let spec = &vmi.data["spec"];
    let mut labels = vmi.labels().clone();
    labels.insert("kubevirt.io".to_owned(), "virt-launcher".to_owned());
    labels.insert(CREATED_BY.to_owned(), uid.clone());
    let mut annotations = vmi.annotations().clone();
    annotations.insert(DOMAIN.to_owned(), name.clone());
    let mut selector = spec["nodeSelector"].as_object().cloned().unwrap_or_default();
    selector.insert(SCHEDULABLE.to_owned(), json!("true"));
    if nowhere {
        selector.insert("fake-kubevirt.test/room".to_owned(), json!("none"));
    }
    // What its guest gets to power off.
    let grace = spec["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_GRACE_SECONDS);
    let seed = volumes(spec).find_map(|volume| volume.pointer("/cloudInitNoCloud/secretRef/name"));
    let volumes: Vec<_> = seed
        .map(|secret| json!({"name": "seed", "secret": {"secretName": secret}}))
        .into_iter()
        .collect();
    let mut pod = json!({
        "metadata": {
            "generateName": format!("virt-launcher-{name}-"),
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": name,
                "uid": uid, "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": grace + GRACE_MARGIN_SECONDS,
            "nodeSelector": selector,
            "containers": [{"name": "compute", "image": "virt-launcher", "resources": {"requests": requests(vmi)?}}],
            "volumes": volumes,
        },
    });
    for handed_on in [
        "hostname",
        "affinity",
        "topologySpreadConstraints",
        "tolerations",
        "priorityClassName",
        "schedulerName",
        "dnsPolicy",
    ] {
        if let Some(value) = spec.get(handed_on) {
            pod["spec"][handed_on] = value.clone();
        }
    }
    serde_json::from_value(pod).context("rendering a launcher")
}

/// What a launcher asks for: as its VMI, and what virt-controller adds for KubeVirt's own processes (1.9,
/// `GetMemoryOverhead`): a fixed part, one for each vCPU, one for the I/O thread, and page tables for the memory that the
/// VMI requests, which it counts in kilobytes. A VMI that requests no CPU gets a tenth of one for each vCPU.
fn requests(vmi: &DynamicObject) -> Result<Value> {
    let domain = &vmi.data["spec"]["domain"];
    let hardware = Hardware::of(vmi)?;
    let asked = &domain["resources"]["requests"];
    let memory = match &asked["memory"] {
        Value::Null => None,
        memory => Some(units(memory).context("the memory request")?),
    };
    let graphics_mi = match domain["devices"]["autoattachGraphicsDevice"].as_bool() {
        Some(false) => 0,
        _ => 32,
    };
    let page_tables = memory.unwrap_or_default().div_ceil(1000) * 1000 / 512;
    let overhead = (220 + 8 * hardware.cpus + 8 + graphics_mi) * MI + page_tables;
    let storage = match &asked["ephemeral-storage"] {
        Value::Null => 0,
        storage => units(storage).context("the request for storage")?,
    };
    let cpu = match &asked["cpu"] {
        Value::Null => json!(format!("{}m", 100 * hardware.cpus)),
        cpu => cpu.clone(),
    };
    Ok(json!({
        "cpu": cpu,
        "memory": (memory.unwrap_or(hardware.memory_mi * MI) + overhead).to_string(),
        "ephemeral-storage": (storage + OWN_STORAGE).to_string(),
    }))
}

/// A machine as its guest finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hardware {
    /// `local-hostname` of the seed's metadata.
    pub(super) hostname: String,
    pub(super) firmware_uuid: String,
    pub(super) cpus: u64,
    pub(super) memory_mi: u64,
    pub(super) disk_mi: u64,
    /// A reset is its end (`rebootPolicy: Terminate`); else the guest starts again.
    pub(super) ends_on_reset: bool,
}

impl Hardware {
    /// The machine that a VMI asks for.
    pub(super) fn of(vmi: &DynamicObject) -> Result<Self> {
        let spec = &vmi.data["spec"];
        let cpu = &spec["domain"]["cpu"];
        let factor = |part: &str| cpu[part].as_u64().unwrap_or(1).max(1);
        let scratch = volumes(spec).find_map(|volume| volume.pointer("/emptyDisk/capacity"));
        Ok(Self {
            hostname: spec["hostname"]
                .as_str()
                .map_or_else(|| vmi.name_any(), str::to_owned),
            firmware_uuid: text(spec, "/domain/firmware/uuid")?.to_owned(),
            cpus: factor("sockets") * factor("cores") * factor("threads"),
            memory_mi: mebibytes(&spec["domain"]["memory"]["guest"]).context("the guest's memory")?,
            disk_mi: scratch
                .map(mebibytes)
                .transpose()
                .context("the scratch disk")?
                .unwrap_or_default(),
            ends_on_reset: spec["domain"]["rebootPolicy"] == "Terminate",
        })
    }
}

/// The user data of the VMI's seed, read with the rights of the host's kubelet, which mounts it into the launcher; `None`
/// while its Secret is missing, which only delays a launcher's start.
pub(super) async fn user_data(
    kubelet: &Client,
    namespace: &str,
    vmi: &DynamicObject,
) -> Result<Option<String>> {
    let secret = volumes(&vmi.data["spec"])
        .find_map(|volume| volume.pointer("/cloudInitNoCloud/secretRef/name")?.as_str())
        .context("the VMI has no seed in a Secret")?;
    let found = Api::<Secret>::namespaced(kubelet.clone(), namespace)
        .get_opt(secret)
        .await?;
    let Some(mut data) = found.and_then(|secret| secret.data) else {
        return Ok(None);
    };
    let text = data.remove("userdata").or_else(|| data.remove("userData"));
    let text = text.with_context(|| format!("Secret {secret} has no key userdata"))?;
    Ok(Some(String::from_utf8(text.0).context("user data is not text")?))
}

pub(super) fn volumes(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["volumes"].as_array().into_iter().flatten()
}

fn text<'a>(spec: &'a Value, pointer: &str) -> Result<&'a str> {
    spec.pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("the VMI has no {pointer}"))
}

fn mebibytes(quantity: &Value) -> Result<u64> {
    Ok(units(quantity)? / MI)
}

/// A quantity in whole units; KubeVirt's API takes numbers as well as texts.
pub(super) fn units(quantity: &Value) -> Result<u64> {
    match quantity {
        Value::String(text) => quantity::units(text),
        number => quantity::units(&number.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmi() -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "v", "uid": "u", "labels": {"a": "b"}},
            "spec": {
                "nodeSelector": {"zone": "1"},
                "tolerations": [{"operator": "Exists"}],
                "domain": {
                    "cpu": {"sockets": 1, "cores": 2},
                    "memory": {"guest": "1Gi"},
                    "firmware": {"uuid": "f"},
                    "resources": {"requests": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi"}},
                },
                "volumes": [{"name": "scratch", "emptyDisk": {"capacity": "2Gi"}}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_launcher_carries_what_its_vmi_says() {
        let pod = render(&vmi(), false).unwrap();
        assert_eq!(pod.labels()["a"], "b");
        assert_eq!(pod.labels()[CREATED_BY], "u");
        let spec = pod.spec.unwrap();
        let selector = spec.node_selector.unwrap();
        assert_eq!(selector["zone"], "1");
        assert_eq!(selector["kubevirt.io/schedulable"], "true");
        assert_eq!(spec.tolerations.unwrap().len(), 1);
        assert_eq!(spec.termination_grace_period_seconds, Some(60));
    }

    /// Requests as virt-controller 1.9.0 made them. The first was measured; the others differ from it by what the source of
    /// that release says.
    #[test]
    fn a_launcher_asks_for_what_virt_controller_asks_for() {
        let asks = |cores: u64, requests: Value, more: Value| {
            let mut vmi = vmi();
            let domain = &mut vmi.data["spec"]["domain"];
            domain["cpu"]["cores"] = json!(cores);
            domain["memory"]["guest"] = json!("544Mi");
            domain["resources"]["requests"] = requests;
            domain["devices"] = more;
            let pod = serde_json::to_value(render(&vmi, false).unwrap()).unwrap();
            pod["spec"]["containers"][0]["resources"]["requests"].clone()
        };
        let no_screen = json!({"autoattachGraphicsDevice": false});
        assert_eq!(
            asks(
                1,
                json!({"cpu": "1", "memory": "544Mi", "ephemeral-storage": "20Gi"}),
                no_screen.clone()
            ),
            json!({"cpu": "1", "memory": "819003393", "ephemeral-storage": "21524836480"})
        );
        // 8 MiB more for the second vCPU; no page tables (1114113), for no memory is requested; the usual tenth of a CPU.
        assert_eq!(
            asks(2, json!({}), no_screen),
            json!({"cpu": "200m", "memory": "826277888", "ephemeral-storage": "50000000"})
        );
        // 32 MiB for the screen.
        assert_eq!(
            asks(1, json!({"cpu": "1", "memory": "544Mi"}), json!({}))["memory"],
            "852557825"
        );
    }

    #[test]
    fn the_launcher_mounts_the_seed() {
        let mut vmi = vmi();
        vmi.data["spec"]["volumes"] =
            json!([{"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "s"}}}]);
        let pod = serde_json::to_value(render(&vmi, false).unwrap()).unwrap();
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "seed", "secret": {"secretName": "s"}}])
        );
    }

    #[test]
    fn hardware_is_as_large_as_asked() {
        let hardware = Hardware::of(&vmi()).unwrap();
        assert_eq!(
            (hardware.cpus, hardware.memory_mi, hardware.disk_mi),
            (2, 1024, 2048)
        );
    }

    #[test]
    fn a_pod_says_what_its_launcher_does() {
        let of = |value: Value| Launcher::of(&serde_json::from_value(value).unwrap());
        assert_eq!(
            of(json!({"metadata": {}})),
            Launcher::Waiting { unschedulable: None }
        );
        let no_room = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m"}]});
        assert_eq!(
            of(json!({"status": no_room})),
            Launcher::Waiting {
                unschedulable: Some("m".to_owned())
            }
        );
        let ready = json!({"phase": "Running", "podIP": "192.0.2.1", "conditions": [{"type": "Ready", "status": "True"}]});
        let expected = Launcher::Ready {
            host: "h".to_owned(),
            address: "192.0.2.1".to_owned(),
        };
        assert_eq!(
            of(json!({"spec": {"nodeName": "h", "containers": []}, "status": ready})),
            expected
        );
        for (phase, ending) in [("Succeeded", Ending::PoweredOff), ("Failed", Ending::Crashed)] {
            assert_eq!(of(json!({"status": {"phase": phase}})), Launcher::Ended(ending));
        }
    }
}
