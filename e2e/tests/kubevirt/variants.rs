//! What `KubeVirt`'s API says to VMIs: the same ones for the real one and for the stand-in.

use http::Request;
use kube::Client;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cases::variants;

/// A VMI in the shape of the reconciler's, and a watchdog; disk and kernel are in `image`.
pub fn vmi(name: &str, image: &str) -> Value {
    let disk = |name: &str| json!({"name": name, "serial": name, "disk": {"bus": "virtio"}});
    let secret = json!({"name": format!("{name}-join")});
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": name},
        "spec": {
            "architecture": "amd64",
            "hostname": name,
            "terminationGracePeriodSeconds": 30,
            "evictionStrategy": "External",
            "domain": {
                "machine": {"type": "q35"},
                "cpu": {"sockets": 1, "cores": 1, "threads": 1, "maxSockets": 1},
                "memory": {"guest": "256Mi", "maxGuest": "256Mi"},
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
                "firmware": {
                    "uuid": Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string(),
                    "kernelBoot": {
                        "kernelArgs": "console=ttyS0 panic=1 no_timer_check",
                        "container": {"image": image, "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"},
                    },
                },
                "rebootPolicy": "Terminate",
                "devices": {
                    "disableHotplug": true,
                    "autoattachGraphicsDevice": false,
                    "autoattachMemBalloon": false,
                    "logSerialConsole": true,
                    "watchdog": {"name": "watchdog", "i6300esb": {"action": "poweroff"}},
                    "disks": [disk("root"), disk("scratch"), disk("seed")],
                    "interfaces": [{"name": "default", "model": "virtio", "masquerade": {}}],
                },
            },
            "networks": [{"name": "default", "pod": {}}],
            "volumes": [
                {"name": "root", "containerDisk": {"image": image, "path": "/disk/node.img"}},
                {"name": "scratch", "emptyDisk": {"capacity": "3Gi"}},
                {"name": "seed", "cloudInitNoCloud": {"secretRef": secret, "networkDataSecretRef": secret}},
            ],
        },
    })
}

/// A VMI that differs from [`vmi`] at one place, and what is said to it.
pub struct Variant {
    pub what: &'static str,
    /// Where, as a JSON pointer into the spec.
    pub at: &'static str,
    /// What stands there; nothing, if null.
    pub value: Value,
    /// A part of the refusal, as the real one words it; none of one that is accepted.
    pub refusal: Option<&'static str>,
}

/// What is said to a variant, and what the table says.
pub struct Answer {
    pub what: &'static str,
    /// Part of the refusal, as the real one words it.
    pub wanted: Option<&'static str>,
    pub said: Option<String>,
}

/// Tries each variant, and creates none. Fields that there are not are refused (`fieldValidation=Strict`).
pub async fn answers(admin: &Client, namespace: &str) -> Vec<Answer> {
    let mut answers = Vec::new();
    for variant in variants() {
        answers.push(Answer {
            what: variant.what,
            wanted: variant.refusal,
            said: answer(admin, namespace, &variant).await,
        });
    }
    answers
}

/// The refusal of a variant; none if it is accepted.
async fn answer(admin: &Client, namespace: &str, variant: &Variant) -> Option<String> {
    let mut tried = vmi("variant", "localhost/any:1");
    put(&mut tried["spec"], variant.at, variant.value.clone());
    let path = format!(
        "/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances?dryRun=All&fieldValidation=Strict"
    );
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(tried.to_string().into_bytes())
        .unwrap();
    match admin.request_text(request).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message.clone()),
        Err(error) => panic!("{}: {error}", variant.what),
    }
}

/// Puts a value where the pointer leads, or takes away what is there.
pub fn put(spec: &mut Value, at: &str, value: Value) {
    if at.is_empty() {
        return;
    }
    let (parent, key) = at.rsplit_once('/').unwrap();
    let parent = spec.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(list) => match key.parse::<usize>() {
            Ok(index) if value.is_null() => drop(list.remove(index)),
            Ok(index) => list[index] = value,
            Err(_) => list.push(value),
        },
        Value::Object(fields) if value.is_null() => drop(fields.remove(key)),
        parent => parent[key] = value,
    }
}
