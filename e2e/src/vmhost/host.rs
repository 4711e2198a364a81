//! virt-controller and virt-handler: the life of each VMI, its launcher pod, its guest's power.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::guest::{Guest, GuestLog};
use super::nodes;
use super::script::{SCRIPT_ANNOTATION, Script, seconds};
use crate::check::becomes;
use crate::install::apply_yaml;

const CRD: &str = include_str!("vmi-crd.yaml");
const FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
const CREATED_BY: &str = "kubevirt.io/created-by";
const NODES_LIMIT: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(100);

/// Installs the VMI CRD and waits until it is served.
pub async fn install_crd(client: &Client) -> Result<()> {
    apply_yaml(client, CRD).await.context("installing the VMI CRD")
}

/// What the played KubeVirt is given.
pub struct VmHostOptions {
    /// Speaks as KubeVirt: it may do in the VM namespace what KubeVirt may.
    pub client: Client,
    /// Where VMIs are.
    pub vm_namespace: String,
    /// A name and a kubelet's client for each simulated host node.
    pub hosts: Vec<(String, Client)>,
    /// Draws a boot delay of up to a second for each VM; 0 for none.
    pub seed: u64,
}

/// The played KubeVirt with its hosts and guests. Dropping it cuts the power.
pub struct VmHost {
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    client: Client,
    namespace: String,
    hosts: Vec<String>,
    seed: u64,
    log: GuestLog,
}

/// What an actor must hear of.
#[derive(Clone, Debug, Default, PartialEq)]
struct Signals {
    deleting: bool,
    launcher: Launcher,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Launcher {
    #[default]
    Starting,
    Running {
        address: String,
    },
    Gone,
}

impl VmHost {
    /// Starts the hosts, waits until they are ready, and looks after VMIs from then on.
    pub async fn start(options: VmHostOptions) -> Result<Self> {
        let VmHostOptions {
            client,
            vm_namespace,
            hosts,
            seed,
        } = options;
        let mut tasks = JoinSet::new();
        let names: Vec<_> = hosts.iter().map(|(name, _)| name.clone()).collect();
        for (index, (name, host)) in hosts.into_iter().enumerate() {
            tasks.spawn(async move {
                if let Err(error) = nodes::run(index, name, host).await {
                    tracing::error!(error = format!("{error:#}"), "a host node failed");
                }
            });
        }
        let nodes = Api::all(client.clone());
        for name in &names {
            becomes(
                &nodes,
                name,
                "Ready",
                NODES_LIMIT,
                |node: &k8s_openapi::api::core::v1::Node| {
                    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
                    conditions
                        .into_iter()
                        .any(|c| c.type_ == "Ready" && c.status == "True")
                },
            )
            .await?;
        }
        let state = Arc::new(State {
            client,
            namespace: vm_namespace,
            hosts: names,
            seed,
            log: GuestLog::default(),
        });
        tasks.spawn(watch_vmis(state.clone()));
        Ok(Self { state, _tasks: tasks })
    }

    /// What happened to the guests.
    #[must_use]
    pub fn guests(&self) -> &GuestLog {
        &self.state.log
    }

    /// Plays a drain of the VM's host: its launcher's eviction is refused and the VMI marked for evacuation.
    pub async fn evict(&self, vmi: &str) -> Result<()> {
        let evicted = json!({"status": {"evacuationNodeName": self.state.hosts[0]}});
        let vmis = vmis(&self.state);
        vmis.patch(vmi, &PatchParams::default(), &Patch::Merge(evicted))
            .await?;
        Ok(())
    }
}

pub(crate) fn resource() -> ApiResource {
    ApiResource {
        group: "kubevirt.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "kubevirt.io/v1".to_owned(),
        kind: "VirtualMachineInstance".to_owned(),
        plural: "virtualmachineinstances".to_owned(),
    }
}

fn vmis(state: &State) -> Api<DynamicObject> {
    Api::namespaced_with(state.client.clone(), &state.namespace, &resource())
}

fn launchers(state: &State) -> Api<Pod> {
    Api::namespaced(state.client.clone(), &state.namespace)
}

/// One actor per VMI; what happens to the VMI and its launcher reaches it as signals.
async fn watch_vmis(state: Arc<State>) {
    let mut vmi_events = watch_objects(vmis(&state), watcher::Config::default())
        .default_backoff()
        .boxed();
    let created = watcher::Config::default().labels(CREATED_BY);
    let mut pod_events = watch_objects(launchers(&state), created)
        .default_backoff()
        .boxed();
    let mut actors: HashMap<String, (watch::Sender<Signals>, AbortHandle)> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            event = vmi_events.next() => match event {
                Some(Ok(Event::Apply(vmi) | Event::InitApply(vmi))) => {
                    let Some(uid) = vmi.uid() else { continue };
                    let deleting = vmi.metadata.deletion_timestamp.is_some();
                    let (signals, _) = actors.entry(uid).or_insert_with(|| {
                        let (sender, signals) = watch::channel(Signals::default());
                        (sender, running.spawn(Actor::new(state.clone(), vmi, signals).run()))
                    });
                    signals.send_if_modified(|s| std::mem::replace(&mut s.deleting, deleting) != deleting);
                }
                Some(Ok(Event::Delete(vmi))) => {
                    if let Some((_, actor)) = vmi.uid().and_then(|uid| actors.remove(&uid)) {
                        actor.abort();
                    }
                }
                Some(Ok(Event::Init | Event::InitDone)) => {}
                Some(Err(error)) => tracing::debug!(%error, "virt-controller's VMI watch failed"),
                None => return,
            },
            event = pod_events.next() => {
                let (pod, gone) = match event {
                    Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => (pod, false),
                    Some(Ok(Event::Delete(pod))) => (pod, true),
                    Some(_) => continue,
                    None => return,
                };
                let owner = pod.labels().get(CREATED_BY).and_then(|uid| actors.get(uid));
                if let Some((signals, _)) = owner {
                    let launcher = launcher_state(&pod, gone);
                    signals.send_if_modified(|s| {
                        s.launcher != launcher && { s.launcher = launcher; true }
                    });
                }
            }
            Some(_) = running.join_next() => {}
        }
    }
}

fn launcher_state(pod: &Pod, gone: bool) -> Launcher {
    let status = pod.status.clone().unwrap_or_default();
    match (status.phase.as_deref(), status.pod_ip) {
        _ if gone => Launcher::Gone,
        (Some("Succeeded" | "Failed"), _) => Launcher::Gone,
        (Some("Running"), Some(address)) => Launcher::Running { address },
        _ => Launcher::Starting,
    }
}

/// The life of one VMI.
struct Actor {
    state: Arc<State>,
    vmi: DynamicObject,
    signals: watch::Receiver<Signals>,
    phases: Vec<Value>,
}

impl Actor {
    fn new(state: Arc<State>, vmi: DynamicObject, signals: watch::Receiver<Signals>) -> Self {
        Self {
            state,
            vmi,
            signals,
            phases: Vec::new(),
        }
    }

    async fn run(mut self) {
        if let Err(error) = self.live().await {
            tracing::warn!(
                vmi = self.vmi.name_any(),
                error = format!("{error:#}"),
                "virt-controller failed"
            );
        }
    }

    async fn live(&mut self) -> Result<()> {
        let script = self.script().await?;
        // A mutator does this in reality, before the object is stored.
        self.patch(json!({"metadata": {"finalizers": [FINALIZER]}}))
            .await?;
        self.phase("Pending", json!({})).await?;
        let mut signals = self.signals.clone();
        let end = tokio::select! {
            end = self.power_on(&script) => end?,
            _ = signals.wait_for(|s| s.deleting) => End::Deleted,
        };
        let phase = if end == End::Failed { "Failed" } else { "Succeeded" };
        if end == End::Deleted {
            tokio::time::sleep(seconds(script.slow_delete)).await;
        }
        self.delete_launcher().await?;
        self.phase(phase, json!({})).await?;
        signals
            .wait_for(|s| s.deleting)
            .await
            .context("the VMI is gone")?;
        self.patch(json!({"metadata": {"finalizers": null}})).await
    }

    /// From nothing to a running guest; returns when it has ended by itself.
    async fn power_on(&mut self, script: &Script) -> Result<End> {
        if script.unschedulable {
            let why = "0/3 nodes are available: 3 Insufficient memory.";
            let blocked = condition("PodScheduled", "False", "Unschedulable", why);
            self.phase("Scheduling", json!({"conditions": [blocked]})).await?;
            return std::future::pending().await;
        }
        let host = self.create_launcher().await?;
        self.phase("Scheduling", json!({})).await?;
        let mut signals = self.signals.clone();
        let launcher = signals
            .wait_for(|s| s.launcher != Launcher::Starting)
            .await?
            .launcher
            .clone();
        let Launcher::Running { address } = launcher else {
            return Ok(End::Failed);
        };
        self.phase("Scheduled", json!({"nodeName": host})).await?;
        if script.never_boots {
            signals.wait_for(|s| s.launcher == Launcher::Gone).await?;
            return Ok(End::Failed);
        }
        tokio::time::sleep(seconds(script.boot_delay)).await;
        let guest = self.guest(script).await?;
        let interface = json!({"name": "default", "ipAddress": address, "ipAddresses": [address], "infoSource": "domain"});
        let ready = condition("Ready", "True", "", "");
        self.phase(
            "Running",
            json!({"interfaces": [interface], "conditions": [ready]}),
        )
        .await?;
        let appended = self.append_guest_interface(&interface);
        tokio::select! {
            () = async { tokio::join!(guest.live(), appended); } => Ok(End::Succeeded),
            () = dies(script) => Ok(End::Failed),
            gone = signals.wait_for(|s| s.launcher == Launcher::Gone) => { gone?; Ok(End::Failed) }
        }
    }

    /// With an agent, KubeVirt lists interfaces that only the guest knows, in no order that means anything.
    async fn append_guest_interface(&self, own: &Value) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let foreign = json!({"name": "cni0", "ipAddress": "10.0.2.2", "infoSource": "guest-agent"});
        let listed = json!({"status": {"interfaces": [foreign, own]}});
        if let Err(error) = self.patch(listed).await {
            tracing::debug!(%error, "virt-handler could not list the guest's interfaces");
        }
    }

    async fn guest(&self, script: &Script) -> Result<Guest> {
        let spec = &self.vmi.data["spec"];
        let volumes = spec["volumes"].as_array().into_iter().flatten();
        let secret = volumes
            .filter_map(|v| v["cloudInitNoCloud"]["secretRef"]["name"].as_str())
            .next();
        let secret = secret.context("the VMI has no seed")?;
        let user_data = self.user_data(secret).await?;
        let mebibytes = |v: &Value| v.as_str().and_then(|t| t.strip_suffix("Mi")?.parse().ok());
        let scratch = spec["volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|v| mebibytes(&v["emptyDisk"]["capacity"]));
        Ok(Guest {
            user_data,
            system_uuid: spec["domain"]["firmware"]["uuid"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            cpu: spec["domain"]["cpu"]["cores"]
                .as_u64()
                .and_then(|n| n.try_into().ok())
                .unwrap_or(1),
            memory_mi: mebibytes(&spec["domain"]["memory"]["guest"])
                .context("the VMI has no memory in Mi")?,
            disk_mi: scratch.context("the VMI has no scratch disk in Mi")?,
            script: script.clone(),
            log: self.state.log.clone(),
        })
    }

    /// A missing Secret only delays a launcher: its kubelet retries the mount.
    async fn user_data(&self, secret: &str) -> Result<String> {
        let secrets = Api::<Secret>::namespaced(self.state.client.clone(), &self.state.namespace);
        loop {
            if let Some(secret) = secrets.get_opt(secret).await? {
                let data = secret
                    .data
                    .unwrap_or_default()
                    .remove("userdata")
                    .context("the seed has no userdata")?;
                return Ok(String::from_utf8(data.0)?);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn script(&self) -> Result<Script> {
        let (name, annotations) = (self.vmi.name_any(), self.vmi.annotations());
        let Some((namespace, pod)) = annotations
            .get("maroonedpods.io/pod")
            .and_then(|p| p.split_once('/'))
        else {
            return Ok(Script::default());
        };
        let pods = Api::<Pod>::namespaced(self.state.client.clone(), namespace);
        let pod = pods.get_opt(pod).await?;
        let text = pod.as_ref().and_then(|p| p.annotations().get(SCRIPT_ANNOTATION));
        let script: Script = match text {
            Some(text) => serde_json::from_str(text).with_context(|| format!("script of {name}: {text}"))?,
            None => Script::default(),
        };
        let attempt = name
            .rsplit_once("-r")
            .and_then(|(_, n)| n.parse().ok())
            .unwrap_or(1);
        Ok(script
            .for_attempt(attempt)
            .jittered(self.state.seed, &self.vmi.uid().unwrap_or_default()))
    }

    /// The launcher, bound by hand to one of the hosts; labels of the VMI are copied to it as KubeVirt does.
    async fn create_launcher(&self) -> Result<String> {
        let uid = self.vmi.uid().unwrap_or_default();
        let pick = uid.bytes().map(usize::from).sum::<usize>() % self.state.hosts.len();
        let host = self.state.hosts[pick].clone();
        let mut labels = self.vmi.labels().clone();
        labels.insert(CREATED_BY.to_owned(), uid.clone());
        labels.insert("kubevirt.io".to_owned(), "virt-launcher".to_owned());
        let launcher: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": format!("virt-launcher-{}", self.vmi.name_any()),
                "labels": labels,
                "annotations": {"vmhost.test/exit-after": "never"},
                "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                    "name": self.vmi.name_any(), "uid": uid, "controller": true}],
            },
            "spec": {
                "nodeName": host,
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "compute", "image": "virt-launcher"}],
            },
        }))?;
        launchers(&self.state)
            .create(&PostParams::default(), &launcher)
            .await
            .context("creating the launcher")?;
        Ok(host)
    }

    async fn delete_launcher(&self) -> Result<()> {
        let name = format!("virt-launcher-{}", self.vmi.name_any());
        match launchers(&self.state)
            .delete(&name, &DeleteParams::default().grace_period(0))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => Ok(deleted.map(drop)?),
        }
    }

    async fn phase(&mut self, phase: &str, more: Value) -> Result<()> {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.phases
            .push(json!({"phase": phase, "phaseTransitionTimestamp": now}));
        let mut status = more;
        status["phase"] = json!(phase);
        status["phaseTransitionTimestamps"] = json!(self.phases);
        if status.get("conditions").is_none() {
            status["conditions"] = json!([condition(
                "Ready",
                "False",
                "GuestNotRunning",
                "Guest VM is not reported as running"
            )]);
        }
        self.patch(json!({"status": status})).await
    }

    async fn patch(&self, body: Value) -> Result<()> {
        vmis(&self.state)
            .patch(&self.vmi.name_any(), &PatchParams::default(), &Patch::Merge(body))
            .await?;
        Ok(())
    }
}

/// How a VM's power went off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Succeeded,
    Failed,
    Deleted,
}

async fn dies(script: &Script) {
    match script.dies_at {
        Some(at) => tokio::time::sleep(seconds(at)).await,
        None => std::future::pending().await,
    }
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": Timestamp::now().to_string()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crd_is_the_one_that_we_speak() {
        let crd: Value = serde_yaml_ng::from_str(CRD).unwrap();
        assert_eq!(crd["spec"]["names"]["plural"], resource().plural);
    }
}
