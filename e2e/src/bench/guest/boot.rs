//! One boot, from a pod's creation to a pod that has been left alone for a while.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::DynamicObject;
use kube::runtime::wait::await_condition;
use maroonedpods_common::names::{self, BOOTSTRAP_USER_PREFIX, NODE_USER_PREFIX, VM_NAMESPACE};
use maroonedpods_common::quantity;
use serde::Serialize;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::console::{self, Stages};
use super::launcher::Helpers;
use super::monitor;
use super::qemu::Qemu;
use crate::api::check::eventually;
use crate::api::leftovers::nothing_left_of;
use crate::api::read::node_is_ready;
use crate::api::read::phase;
use crate::control_plane::audit::AuditEvent;
use crate::harness::marooned_pod::MaroonedPod;
use crate::harness::real_env::{RealEnv, TOOLBOX};
use crate::kubevirt::RealVm;

/// For a launcher to start QEMU.
const LAUNCH_LIMIT: Duration = Duration::from_secs(120);
/// For a machine to go, when its pod is deleted.
const GONE_LIMIT: Duration = Duration::from_secs(180);
/// From the pod's start until its guest is called idle.
const SETTLE: Duration = Duration::from_secs(10);

/// What a boot is measured with.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// For the pod to run.
    pub limit: Duration,
    /// How long the idle guest is watched.
    pub idle: Duration,
    /// What its console says, by stage.
    pub markers: &'static [(&'static str, &'static str)],
}

/// The figures of one boot.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// Seconds from the pod's creation to its launcher's, and from there to QEMU's start.
    pub created_to_launcher: Option<f64>,
    /// See above.
    pub launcher_to_power_on: Option<f64>,
    /// Seconds from QEMU's start to each stage, in the order of [`super::tables::STAGES`].
    pub stages: Vec<(&'static str, f64)>,
    /// QEMU's processor time until the Node was ready, and until the pod ran, in seconds.
    pub cpu_until_ready: f64,
    /// See above.
    pub cpu_until_running: f64,
    /// QEMU's processor time while the pod did nothing, in percent of one processor.
    pub idle_percent: f64,
    /// The guest's memory, in MiB, and what it uses of it (`MemTotal` − `MemAvailable`).
    pub memory_mi: u64,
    /// See above.
    pub used_mi: f64,
    /// What QEMU keeps in RAM, in MiB: of the guest's memory, of what emulation makes of its code, and else.
    pub resident_guest_mi: f64,
    /// See above.
    pub resident_translated_mi: f64,
    /// See above.
    pub resident_other_mi: f64,
    /// What the launcher's other processes keep in RAM, in MiB; what they share counts once.
    pub helpers_mi: f64,
    /// Their processor time while the pod did nothing, in percent of one processor.
    pub helpers_idle_percent: f64,
    /// Whether KVM ran it, as QEMU says.
    pub kvm: bool,
    /// QEMU's version.
    pub qemu: String,
}

/// Boots a guest with a pod that does nothing, measures, and waits until nothing is left of it.
pub async fn boot(env: &RealEnv<'_>, namespace: &str, watch: Watch) -> Result<Boot> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "idle", "labels": {names::MAROON_LABEL: "true"}},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": TOOLBOX, "imagePullPolicy": "Never",
                "command": ["/bin/busybox", "sleep", "86400"]}],
        },
    }))?;
    let created = Timestamp::now();
    let pod = MaroonedPod::create_pod(&env.admin, namespace, &pod).await?;
    let measured = match measure(env, namespace, &pod, created, watch).await {
        Ok(boot) => Ok(boot),
        Err(error) => Err(anyhow!("{error:#}\n{}", env.state().await)),
    };
    pod.delete().await?;
    eventually("nothing to be left", GONE_LIMIT, || async {
        Ok(nothing_left_of(&env.admin, &pod.uid)
            .await?
            .is_empty()
            .then_some(()))
    })
    .await?;
    measured
}

async fn measure(
    env: &RealEnv<'_>,
    namespace: &str,
    pod: &MaroonedPod,
    created: Timestamp,
    watch: Watch,
) -> Result<Boot> {
    let node = pod.node_name();
    let (qemu, memory) = eventually("QEMU to start", LAUNCH_LIMIT, || async {
        let vmi = pod.vmis().get_opt(&node).await?;
        let Some((uuid, memory)) = vmi.as_ref().and_then(machine) else {
            return Ok(None);
        };
        Ok(Qemu::find(uuid)?.zip(Some(memory)))
    })
    .await?;
    let memory_mi = quantity::units(&memory)? >> 20;
    let ready = await_condition(pod.nodes(), &node, |node: Option<&Node>| {
        node.is_some_and(node_is_ready)
    });
    timeout(watch.limit, ready)
        .await
        .context("the Node did not become ready")??;
    let (ready, cpu_until_ready) = (Timestamp::now(), qemu.cpu_time()?);
    let running = await_condition(pod.pods.clone(), &pod.name, |pod: Option<&Pod>| {
        pod.is_some_and(|pod| phase(pod) == "Running")
    });
    timeout(watch.limit, running)
        .await
        .context("the pod did not run")??;
    let (running, cpu_until_running) = (Timestamp::now(), qemu.cpu_time()?);

    sleep(SETTLE).await;
    let control_plane = env.cluster().control_plane();
    let vm = RealVm::find(control_plane, &node).await?;
    let helpers = Helpers::find(&vm.pod_uid().await?, qemu.id)?;
    let before = (qemu.cpu_time()?, helpers.cpu_time()?);
    sleep(watch.idle).await;
    let idle = qemu.cpu_time()?.saturating_sub(before.0);
    let helpers_idle = helpers.cpu_time()?.saturating_sub(before.1);
    let resident = qemu.memory(memory_mi)?;

    let inside = [
        "--namespace",
        namespace,
        "exec",
        &pod.name,
        "--",
        "/bin/busybox",
        "cat",
        "/proc/meminfo",
    ];
    let used = used_kib(&control_plane.kubectl(&inside).await?).context("the guest's /proc/meminfo")?;
    let mut reached = console::stages(&vm.timed_console().await?, watch.markers);
    let audit = control_plane.audit()?;
    reached.extend(asked(&audit, created, &node));
    reached.extend([("Node Ready", ready), ("pod Running", running)]);
    let launcher = launched(&audit, created);
    Ok(Boot {
        created_to_launcher: launcher.map(|launcher| seconds(created, launcher)),
        launcher_to_power_on: launcher.map(|launcher| seconds(launcher, qemu.started)),
        stages: reached
            .into_iter()
            .map(|(stage, at)| (stage, seconds(qemu.started, at)))
            .collect(),
        cpu_until_ready: cpu_until_ready.as_secs_f64(),
        cpu_until_running: cpu_until_running.as_secs_f64(),
        idle_percent: percent(idle, watch.idle),
        memory_mi,
        used_mi: mebibytes(used),
        resident_guest_mi: mebibytes(resident.guest),
        resident_translated_mi: mebibytes(resident.translated),
        resident_other_mi: mebibytes(resident.other),
        helpers_mi: mebibytes(helpers.memory()? / 1024),
        helpers_idle_percent: percent(helpers_idle, watch.idle),
        kvm: monitor::kvm(&vm).await?,
        qemu: monitor::version(&vm).await?,
    })
}

/// Firmware UUID and memory of a VMI's machine.
fn machine(vmi: &DynamicObject) -> Option<(&str, Quantity)> {
    let uuid = vmi.data.pointer("/spec/domain/firmware/uuid")?.as_str()?;
    let memory = vmi.data.pointer("/spec/domain/memory/guest")?.as_str()?;
    Some((uuid, Quantity(memory.to_owned())))
}

/// What the guest asked the API server for: its certificate, and then something with it.
fn asked(audit: &[AuditEvent], since: Timestamp, node: &str) -> Stages {
    let user = format!("{NODE_USER_PREFIX}{node}");
    // The boots are one after the other, so the token is this one's.
    let request = audit.iter().find(|event| {
        event.received >= since
            && event.user.starts_with(BOOTSTRAP_USER_PREFIX)
            && event.resource == "certificatesigningrequests"
            && event.verb == "create"
    });
    let with_certificate = audit.iter().find(|event| event.user == user);
    [("client CSR", request), ("certificate", with_certificate)]
        .into_iter()
        .filter_map(|(stage, event)| Some((stage, event?.received)))
        .collect()
}

/// When the launcher was created. The server makes its name, so the request has none.
fn launched(audit: &[AuditEvent], since: Timestamp) -> Option<Timestamp> {
    let event = audit.iter().find(|event| {
        event.received >= since
            && event.namespace == VM_NAMESPACE
            && event.resource == "pods"
            && event.subresource.is_empty()
            && event.verb == "create"
    })?;
    Some(event.completed)
}

/// `MemTotal` − `MemAvailable`.
fn used_kib(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    field("MemTotal:")?.checked_sub(field("MemAvailable:")?)
}

fn percent(used: Duration, of: Duration) -> f64 {
    used.as_secs_f64() / of.as_secs_f64() * 100.0
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Of less than 2^52.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(user: &str, verb: &str, resource: &str, name: &str, received: &str) -> AuditEvent {
        let received = received.parse().unwrap();
        AuditEvent {
            user: user.to_owned(),
            verb: verb.to_owned(),
            impersonated: Vec::new(),
            group: String::new(),
            resource: resource.to_owned(),
            subresource: String::new(),
            namespace: VM_NAMESPACE.to_owned(),
            name: name.to_owned(),
            code: 201,
            denied: false,
            user_agent: String::new(),
            field_manager: String::new(),
            body: serde_json::Value::Null,
            dry_run: false,
            policy_failures: String::new(),
            received,
            completed: received,
        }
    }

    #[test]
    fn memory_in_use_is_what_is_not_available() {
        let meminfo = "MemTotal:         500000 kB\nMemFree:  1 kB\nMemAvailable:     400000 kB\n";
        assert_eq!(used_kib(meminfo), Some(100_000));
        assert_eq!(used_kib("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn the_guests_own_requests_are_found() {
        let audit = [
            event(
                "system:bootstrap:old",
                "create",
                "certificatesigningrequests",
                "a",
                "2026-01-01T00:00:01Z",
            ),
            event("kubevirt", "create", "pods", "", "2026-01-01T00:00:02Z"),
            event(
                "system:bootstrap:new",
                "create",
                "certificatesigningrequests",
                "b",
                "2026-01-01T00:00:03Z",
            ),
            event("system:node:n", "get", "nodes", "n", "2026-01-01T00:00:04Z"),
        ];
        let moment = |second: u32| {
            format!("2026-01-01T00:00:0{second}Z")
                .parse::<Timestamp>()
                .unwrap()
        };
        let asked = asked(&audit, moment(2), "n");
        assert_eq!(asked, [("client CSR", moment(3)), ("certificate", moment(4))]);
        assert_eq!(launched(&audit, moment(2)), Some(moment(2)));
    }
}
