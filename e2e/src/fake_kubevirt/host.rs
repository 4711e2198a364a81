//! The fake KubeVirt as a whole: hosts, and one task per VMI.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::{self, AbortHandle, JoinSet};

use super::crd::{pods, vmis};
use super::eviction;
use super::launcher::{CREATED_BY, Launcher};
use super::log::{GuestEvent, GuestLog};
use super::machine::{Domains, Seen, Vm};
use super::nodes::HostNode;
use super::qemu::{self, Kvm};
use super::vmi::Ending;
use crate::api::check::becomes;
use crate::api::read::node_is_ready;

const HOSTS_LIMIT: Duration = Duration::from_secs(30);

/// The options of the fake KubeVirt.
pub struct FakeKubeVirtOptions {
    /// Speaks as KubeVirt. It gets and patches VMIs, gets Secrets, creates and deletes pods in the VM namespace, gets
    /// pods everywhere (for their scripts) and Nodes.
    pub client: Client,
    /// Where VMIs are. It must exist.
    pub vm_namespace: String,
    /// Name and client of each simulated host node; the client is that of a kubelet, `system:node:<name>`.
    pub hosts: Vec<(String, Client)>,
    /// Draws a boot delay of up to a second for each simulated guest; 0 for none.
    pub seed: u64,
    /// What the launchers run.
    pub guests: Guests,
}

/// What the launchers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    /// Nothing; the guests are simulated here, as scripts say. Launchers go to the simulated hosts.
    Simulated,
    /// QEMU. Launchers go to the cluster's real nodes, which need [`super::launcher_image`]; there must be no
    /// simulated hosts. Of a [`super::script::Script`], only `unschedulable` takes effect.
    Qemu(Kvm),
}

/// The fake KubeVirt with its hosts and guests. Dropping it cuts the power: nothing of it runs on, and nothing is
/// cleaned up. Real guests run on, in their pods, as KubeVirt's do when its controllers are gone.
pub struct FakeKubeVirt {
    client: Client,
    namespace: String,
    log: GuestLog,
    _tasks: JoinSet<()>,
}

impl FakeKubeVirt {
    /// Starts the hosts, waits until they are ready, and looks after VMIs from then on. The CRD must be installed
    /// ([`super::install_crd`]), and a scheduler must run: launchers are placed by it.
    pub async fn start(options: FakeKubeVirtOptions) -> Result<Self> {
        let FakeKubeVirtOptions {
            client,
            vm_namespace,
            hosts,
            seed,
            guests,
        } = options;
        let mut tasks = JoinSet::new();
        let domains = match guests {
            Guests::Simulated => Domains::Simulated { seed },
            Guests::Qemu(kvm) => {
                ensure!(hosts.is_empty(), "real guests need real hosts");
                qemu::serve_nodes(&client).await?;
                tasks.spawn(eviction::interceptor(client.clone(), vm_namespace.clone()).await?);
                let accelerator = task::spawn_blocking(move || qemu::accelerator(kvm)).await??;
                Domains::Qemu { accelerator }
            }
        };
        let log = GuestLog::default();
        let nodes = Api::all(client.clone());
        let mut names = Vec::new();
        for (index, (name, host)) in hosts.into_iter().enumerate() {
            names.push(name.clone());
            let host = HostNode {
                index,
                name,
                client: host,
                log: log.clone(),
            };
            tasks.spawn(host.run());
        }
        for name in &names {
            becomes(&nodes, name, "the host to be ready", HOSTS_LIMIT, node_is_ready).await?;
        }
        let controller = Controller {
            client: client.clone(),
            namespace: vm_namespace.clone(),
            domains,
            log: log.clone(),
            known: HashMap::new(),
            running: JoinSet::new(),
        };
        tasks.spawn(controller.run());
        Ok(Self {
            client,
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
        eviction::mark(&vmis(&self.client, &self.namespace), vmi).await
    }
}

/// virt-controller: tells each VMI's task what the informers see.
struct Controller {
    client: Client,
    namespace: String,
    domains: Domains,
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
        let vmis = vmis(&self.client, &self.namespace);
        let mut vmi_events = watcher(vmis, watcher::Config::default())
            .default_backoff()
            .boxed();
        let launchers = watcher::Config::default().labels(CREATED_BY);
        let mut pod_events = watcher(pods(&self.client, &self.namespace), launchers)
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
                    Ok(Event::Apply(pod) | Event::InitApply(pod)) => self.see_launcher(&pod, Launcher::of(&pod)),
                    Ok(Event::Delete(pod)) => self.see_launcher(&pod, Launcher::Ended(Ending::LauncherLost)),
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
        let vm = Vm {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            domains: self.domains,
            log: self.log.clone(),
            vmi,
            seen: seen.subscribe(),
            phases: Mutex::default(),
        };
        let task = self.running.spawn(vm.run());
        self.known.insert(uid, Known { seen, task });
    }

    fn see_launcher(&self, pod: &Pod, launcher: Launcher) {
        if let Some(known) = pod.labels().get(CREATED_BY).and_then(|uid| self.known.get(uid)) {
            known.seen.send_if_modified(|seen| {
                // A launcher ends once, whatever becomes of its pod.
                let news = seen.launcher != launcher && !matches!(seen.launcher, Launcher::Ended(_));
                if news {
                    seen.launcher = launcher;
                }
                news
            });
        }
    }

    /// The VMI's object is gone, and with it whatever was left of the VM.
    fn forget(&mut self, vmi: &DynamicObject) {
        if let Some(known) = vmi.uid().and_then(|uid| self.known.remove(&uid)) {
            known.task.abort();
        }
    }
}
