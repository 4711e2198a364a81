//! The fake KubeVirt as a whole: hosts, and one task per VMI.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::accounts::Parts;
use super::crd::{pods, vmis};
use super::domains::Domains;
use super::eviction;
use super::launcher::{CREATED_BY, Launcher};
use super::log::{GuestEvent, GuestLog};
use super::machine::{Seen, Vm};
use super::nodes::HostNode;
use super::virt_api::VirtApi;
use super::vmi::{Ending, Phase};
use crate::api::check::becomes;
use crate::api::read::node_is_ready;
use crate::control_plane::ControlPlane;

const HOSTS_LIMIT: Duration = Duration::from_secs(30);

/// [`FakeKubeVirtOptions::teardown`] for tests of many VMs: long enough for what comes between to be seen. A real KubeVirt
/// takes seconds: from a VMI's deletion until it was gone, 9.5 to 13 s were measured with a grace of 5 s.
pub const QUICK_TEARDOWN: Duration = Duration::from_millis(500);

/// The options of the fake KubeVirt.
pub struct FakeKubeVirtOptions<'a> {
    /// Where it is installed. Its parts speak to it as KubeVirt's accounts, which are made here.
    pub control_plane: &'a ControlPlane,
    /// Where VMIs are. It must exist.
    pub vm_namespace: String,
    /// Names of the simulated host nodes; the kubelet of each speaks as `system:node:<name>`.
    pub hosts: Vec<String>,
    /// What a deleted VM takes to go.
    pub teardown: Duration,
    /// Draws a boot delay of up to a second for each guest; 0 for none.
    pub seed: u64,
}

/// The fake KubeVirt with its hosts and guests. Dropping it cuts the power: nothing of it runs on, and nothing is
/// cleaned up.
pub struct FakeKubeVirt {
    parts: Parts,
    virt_api: VirtApi,
    controller_works: watch::Sender<bool>,
    namespace: String,
    log: GuestLog,
    _tasks: JoinSet<()>,
}

impl FakeKubeVirt {
    /// Starts the hosts, waits until they are ready, and looks after VMIs from then on. The CRD must be installed
    /// ([`super::install_crd`]), and a scheduler must run: launchers are placed by it.
    pub async fn start(options: FakeKubeVirtOptions<'_>) -> Result<Self> {
        let FakeKubeVirtOptions {
            control_plane,
            vm_namespace,
            hosts,
            teardown,
            seed,
        } = options;
        let mut tasks = JoinSet::new();
        let admin = control_plane.admin().await?;
        let parts = Parts::install(control_plane).await?;
        let virt_api = VirtApi::install(&admin, parts.api.clone(), vm_namespace.clone()).await?;
        let log = GuestLog::default();
        let nodes = Api::all(admin);
        let mut kubelets = HashMap::new();
        let domains = Domains::default();
        for (index, name) in hosts.into_iter().enumerate() {
            let client = control_plane
                .user(&format!("system:node:{name}"), "system:nodes")
                .await?;
            kubelets.insert(name.clone(), client.clone());
            let host = HostNode {
                index,
                name,
                client,
                domains: domains.clone(),
                log: log.clone(),
            };
            tasks.spawn(host.run());
        }
        for name in kubelets.keys() {
            becomes(&nodes, name, "the host to be ready", HOSTS_LIMIT, node_is_ready).await?;
        }
        let controller_works = watch::Sender::new(true);
        let controller = Controller {
            parts: parts.clone(),
            works: controller_works.subscribe(),
            kubelets: Arc::new(kubelets),
            domains,
            teardown,
            namespace: vm_namespace.clone(),
            seed,
            log: log.clone(),
            known: HashMap::new(),
            running: JoinSet::new(),
        };
        tasks.spawn(controller.run());
        Ok(Self {
            parts,
            virt_api,
            controller_works,
            namespace: vm_namespace,
            log,
            _tasks: tasks,
        })
    }

    /// What happened to the guests of this Node so far, in order.
    #[must_use]
    pub fn guest_log(&self, node_name: &str) -> Vec<GuestEvent> {
        self.log.of(node_name)
    }

    /// What happened to all guests; the log outlives this host.
    #[must_use]
    pub fn guests(&self) -> &GuestLog {
        &self.log
    }

    /// Acts out a drain of the VM's host. With `evictionStrategy: External`, the launcher's eviction is refused and the
    /// VMI is marked for evacuation; the client that created it must act.
    pub async fn evict(&self, vmi: &str) -> Result<()> {
        eviction::mark(&vmis(&self.parts.api, &self.namespace), vmi).await
    }

    /// virt-api goes down: VMIs can neither be created nor changed, by KubeVirt's own parts either.
    pub fn stop_virt_api(&self) {
        self.virt_api.stop();
    }

    /// virt-api comes back.
    pub async fn start_virt_api(&self) -> Result<()> {
        self.virt_api.start().await
    }

    /// virt-controller goes down: VMIs get no launcher and lose no finalizer. Domains run on, and virt-handler reports on
    /// them.
    pub fn stop_virt_controller(&self) {
        self.controller_works.send_replace(false);
    }

    /// virt-controller comes back.
    pub fn start_virt_controller(&self) {
        self.controller_works.send_replace(true);
    }
}

/// virt-controller: tells each VMI's task what the informers see.
struct Controller {
    parts: Parts,
    works: watch::Receiver<bool>,
    kubelets: Arc<HashMap<String, Client>>,
    domains: Domains,
    teardown: Duration,
    namespace: String,
    seed: u64,
    log: GuestLog,
    known: HashMap<String, Known>,
    running: JoinSet<()>,
}

struct Known {
    seen: watch::Sender<Seen>,
    task: AbortHandle,
}

impl Controller {
    async fn run(mut self) {
        let vmis = vmis(&self.parts.controller, &self.namespace);
        let mut vmi_events = watcher(vmis, watcher::Config::default())
            .default_backoff()
            .boxed();
        let launchers = watcher::Config::default().labels(CREATED_BY);
        let mut pod_events = watcher(pods(&self.parts.controller, &self.namespace), launchers)
            .default_backoff()
            .boxed();
        loop {
            tokio::select! {
                Some(event) = vmi_events.next() => match event {
                    Ok(Event::Apply(vmi) | Event::InitApply(vmi)) => self.see_vmi(vmi),
                    Ok(Event::Delete(vmi)) => self.forget(&vmi),
                    Ok(Event::Init | Event::InitDone) => {}
                    Err(error) => tracing::debug!(%error, "virt-controller's watch of VMIs failed"),
                },
                Some(event) = pod_events.next() => match event {
                    Ok(Event::Apply(pod) | Event::InitApply(pod)) => self.see_launcher(&pod, Launcher::of(&pod), false),
                    Ok(Event::Delete(pod)) => self.see_launcher(&pod, Launcher::Ended(Ending::LauncherLost), true),
                    Ok(Event::Init | Event::InitDone) => {}
                    Err(error) => tracing::debug!(%error, "virt-controller's watch of launchers failed"),
                },
                Some(_) = self.running.join_next() => {}
            }
        }
    }

    fn see_vmi(&mut self, vmi: DynamicObject) {
        let Some(uid) = vmi.uid() else { return };
        let deleting = vmi.metadata.deletion_timestamp.is_some();
        if let Some(known) = self.known.get(&uid) {
            known
                .seen
                .send_if_modified(|seen| std::mem::replace(&mut seen.deleting, deleting) != deleting);
            return;
        }
        let seen = watch::Sender::new(Seen {
            deleting,
            ..Seen::default()
        });
        let entered = vmi.data["status"]["phaseTransitionTimestamps"][0]["phaseTransitionTimestamp"].as_str();
        let entered = entered.map(str::to_owned);
        let vm = Vm {
            parts: self.parts.clone(),
            controller_works: self.works.clone(),
            kubelets: self.kubelets.clone(),
            domains: self.domains.clone(),
            teardown: self.teardown,
            namespace: self.namespace.clone(),
            seed: self.seed,
            log: self.log.clone(),
            vmi,
            seen: seen.subscribe(),
            phases: Mutex::new(vec![(Phase::Pending, entered)]),
        };
        let task = self.running.spawn(vm.run());
        self.known.insert(uid, Known { seen, task });
    }

    fn see_launcher(&self, pod: &Pod, launcher: Launcher, gone: bool) {
        if let Some(known) = pod.labels().get(CREATED_BY).and_then(|uid| self.known.get(uid)) {
            let told_to_stop = pod.metadata.deletion_grace_period_seconds > Some(0);
            known.seen.send_if_modified(|seen| {
                // A launcher ends once, whatever becomes of its pod.
                let news = seen.launcher != launcher && !matches!(seen.launcher, Launcher::Ended(_));
                if news {
                    seen.launcher = launcher;
                }
                let told = told_to_stop && !seen.launcher_told_to_stop;
                seen.launcher_told_to_stop |= told_to_stop;
                news | told | (std::mem::replace(&mut seen.launcher_gone, gone) != gone)
            });
        }
    }

    /// The VMI's object is gone, and with it whatever was left of the VM.
    fn forget(&mut self, vmi: &DynamicObject) {
        let Some(uid) = vmi.uid() else { return };
        if let Some(known) = self.known.remove(&uid) {
            known.task.abort();
            self.domains.end(&uid);
        }
    }
}
