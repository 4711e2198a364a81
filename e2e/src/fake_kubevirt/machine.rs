//! The life of one VMI, as virt-controller and virt-handler make it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::crd::{pods, vmis};
use super::guest::Guest;
use super::launcher::{self, CREATED_BY, Hardware, Launcher};
use super::log::GuestLog;
use super::qemu::{self, Accelerator};
use super::retry::{code, persist};
use super::script::{SCRIPT_ANNOTATION, Script, attempt_of, seconds};
use super::vmi::{Ending, Phase, condition, now};

const FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// Annotation on our VMIs: `<namespace>/<name>` of the pod.
const POD_ANNOTATION: &str = "maroonedpods.io/pod";
/// What a launcher takes to define and start a domain.
const START_TIME: Duration = Duration::from_millis(100);
/// When the guest's own interfaces become known.
const INTERFACES_TIME: Duration = Duration::from_millis(300);
const SEED_RETRY: Duration = Duration::from_millis(200);
const GONE: u16 = 404;
const GONE_POLL: Duration = Duration::from_millis(250);

/// What virt-controller's informers know of one VMI.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) deleting: bool,
    pub(super) launcher: Launcher,
}

/// What a domain is: where real and simulated guests differ.
#[derive(Clone, Copy, Debug)]
pub(super) enum Domains {
    /// A task of this process, beside a launcher that does nothing.
    Simulated {
        /// See [`super::FakeKubeVirtOptions::seed`].
        seed: u64,
    },
    /// The launcher itself: it runs QEMU, and ends with it.
    Qemu {
        /// What QEMU is to use.
        accelerator: Accelerator,
    },
}

/// One VMI.
pub(super) struct Vm {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) domains: Domains,
    pub(super) log: GuestLog,
    pub(super) vmi: DynamicObject,
    pub(super) seen: watch::Receiver<Seen>,
    /// Phases so far, with their times.
    pub(super) phases: Mutex<Vec<(Phase, String)>>,
}

impl Vm {
    /// Lives until the VMI is final and its finalizer is off.
    pub(super) async fn run(self) {
        match Box::pin(self.live()).await {
            // It was deleted before it had a finalizer.
            Err(error) if code(&error) == Some(GONE) => {}
            Err(error) => tracing::warn!(vmi = self.name(), error = format!("{error:#}"), "a VM failed"),
            Ok(()) => {}
        }
    }

    async fn live(&self) -> Result<()> {
        // In reality a mutating webhook does this before the object is stored.
        self.patch(json!({"metadata": {"finalizers": [FINALIZER]}}))
            .await?;
        self.enter(Phase::Pending, json!({})).await?;
        let script = match self.script().await {
            Ok(script) => script,
            Err(error) => {
                let reason = json!({"reason": format!("{error:#}")});
                self.enter(Phase::Failed, reason).await?;
                return self.let_go().await;
            }
        };
        let mut seen = self.seen.clone();
        let deleted = async {
            seen.wait_for(|seen| seen.deleting).await?;
            self.power_off(&script).await
        };
        // Whichever future ends first, the guest ends here: it is part of the other future.
        let ending = tokio::select! {
            ending = self.power_on(&script) => ending?,
            ending = deleted => ending?,
        };
        // A launcher that has ended stays for its log until its VMI goes, as KubeVirt's do.
        if let Domains::Simulated { .. } = self.domains {
            self.delete_launchers(0).await?;
        }
        self.enter(self.phase().after(ending), json!({})).await?;
        self.let_go().await
    }

    /// From nothing to a running guest; returns when that has ended by itself.
    async fn power_on(&self, script: &Script) -> Result<Ending> {
        let mut launcher = launcher::render(&self.vmi, script.unschedulable)?;
        if let Domains::Qemu { accelerator } = self.domains {
            launcher = qemu::in_launcher(launcher, &self.vmi, accelerator)?;
        }
        let pods = pods(&self.client, &self.namespace);
        let params = PostParams::default();
        persist("creating a launcher", || pods.create(&params, &launcher)).await;
        self.enter(Phase::Scheduling, json!({})).await?;
        let (host, address) = match self.wait_for_launcher().await? {
            Ok(placed) => placed,
            Err(ending) => return Ok(ending),
        };
        self.patch(json!({"metadata": {"labels": {"kubevirt.io/nodeName": host}}}))
            .await?;
        self.enter(Phase::Scheduled, json!({"nodeName": host})).await?;
        tokio::select! {
            ended = self.run_domain(script, &address) => ended,
            ended = self.launcher_ends() => ended,
        }
    }

    /// Asks the guest to power off, because its VMI is being deleted, and destroys it when it does not react.
    async fn power_off(&self, script: &Script) -> Result<Ending> {
        match self.domains {
            Domains::Simulated { .. } if script.slow_delete > 0.0 => {
                sleep(seconds(script.slow_delete)).await;
                Ok(Ending::Destroyed)
            }
            Domains::Simulated { .. } => Ok(Ending::PoweredOff),
            // The kubelet sends SIGTERM, which the launcher hands on, and kills when the grace is over.
            Domains::Qemu { .. } => {
                self.delete_launchers(launcher::grace_seconds(&self.vmi)).await?;
                Ok(match self.seen.borrow().launcher {
                    Launcher::Ended(ending) => ending,
                    _ => Ending::Destroyed,
                })
            }
        }
    }

    async fn launcher_ends(&self) -> Result<Ending> {
        let mut seen = self.seen.clone();
        loop {
            if let Launcher::Ended(ending) = seen.borrow_and_update().launcher {
                return Ok(ending);
            }
            seen.changed().await?;
        }
    }

    /// Host and address of the launcher once it is ready, or how it ended before.
    async fn wait_for_launcher(&self) -> Result<Result<(String, String), Ending>> {
        let mut seen = self.seen.clone();
        let mut said = None;
        loop {
            let launcher = seen.borrow_and_update().launcher.clone();
            match launcher {
                Launcher::Ready { host, address } => return Ok(Ok((host, address))),
                Launcher::Ended(ending) => return Ok(Err(ending)),
                Launcher::Waiting {
                    unschedulable: Some(why),
                } if said.as_ref() != Some(&why) => {
                    let blocked = condition("PodScheduled", "False", "Unschedulable", &why);
                    let conditions = json!([Phase::Scheduling.ready(), blocked]);
                    self.patch(json!({"status": {"conditions": conditions}})).await?;
                    said = Some(why);
                }
                Launcher::None | Launcher::Waiting { .. } => {}
            }
            seen.changed().await?;
        }
    }

    /// Says that the domain is up, and returns when it has ended by itself.
    async fn run_domain(&self, script: &Script, address: &str) -> Result<Ending> {
        let own = json!({"name": "default", "podInterfaceName": "eth0", "ipAddress": address,
            "ipAddresses": [address], "linkState": "up", "queueCount": 1, "infoSource": "domain"});
        match self.domains {
            Domains::Simulated { .. } => self.simulate_domain(script, own).await,
            Domains::Qemu { .. } => {
                self.enter(Phase::Running, json!({"interfaces": [own]})).await?;
                self.launcher_ends().await
            }
        }
    }

    async fn simulate_domain(&self, script: &Script, own: Value) -> Result<Ending> {
        if script.never_boots {
            return std::future::pending().await;
        }
        let user_data = self.user_data().await?;
        sleep(START_TIME + seconds(script.boot_delay)).await;
        let guest = Guest {
            hardware: Hardware::of(&self.vmi)?,
            user_data,
            script: script.clone(),
            powered: Instant::now(),
            log: self.log.clone(),
        };
        self.enter(Phase::Running, json!({"interfaces": [own]})).await?;
        let crash = async {
            match script.dies_at {
                Some(after) => sleep(seconds(after)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = async { tokio::join!(guest.live(), self.list_guest_interfaces(&own)); } => Ok(Ending::Crashed),
            () = crash => Ok(Ending::Crashed),
        }
    }

    /// KubeVirt lists interfaces that only the guest knows as well, in no order that means anything.
    async fn list_guest_interfaces(&self, own: &Value) {
        sleep(INTERFACES_TIME).await;
        let foreign = json!({"interfaceName": "mp0", "ipAddress": "169.254.1.1", "ipAddresses": ["169.254.1.1"],
            "infoSource": "guest-agent"});
        if let Err(error) = self
            .patch(json!({"status": {"interfaces": [foreign, own]}}))
            .await
        {
            tracing::debug!(vmi = self.name(), %error, "listing a guest's interfaces failed");
        }
    }

    async fn user_data(&self) -> Result<String> {
        loop {
            if let Some(text) = launcher::user_data(&self.client, &self.namespace, &self.vmi).await? {
                return Ok(text);
            }
            sleep(SEED_RETRY).await;
        }
    }

    /// The script on the pod that the VM is for; none when the pod is gone.
    async fn script(&self) -> Result<Script> {
        let pod = self
            .vmi
            .annotations()
            .get(POD_ANNOTATION)
            .and_then(|pod| pod.split_once('/'));
        let pod: Option<Pod> = match pod {
            Some((namespace, name)) => pods(&self.client, namespace).get_opt(name).await?,
            None => None,
        };
        let script = match pod
            .as_ref()
            .and_then(|pod| pod.annotations().get(SCRIPT_ANNOTATION))
        {
            Some(text) => {
                serde_json::from_str(text).with_context(|| format!("{SCRIPT_ANNOTATION}: {text}"))?
            }
            None => Script::default(),
        };
        let script = script.for_attempt(attempt_of(&self.name()));
        Ok(match self.domains {
            Domains::Simulated { seed } => script.jittered(seed, &self.vmi.uid().unwrap_or_default()),
            Domains::Qemu { .. } => script,
        })
    }

    /// Deletes the launcher, by its label, and waits until it is gone. Without a grace that is at once, wherever it is.
    async fn delete_launchers(&self, grace_seconds: u32) -> Result<()> {
        let pods = pods(&self.client, &self.namespace);
        let ours =
            ListParams::default().labels(&format!("{CREATED_BY}={}", self.vmi.uid().unwrap_or_default()));
        let deletion = DeleteParams::default().grace_period(grace_seconds);
        loop {
            let found = pods.list_metadata(&ours).await?;
            if found.items.is_empty() {
                return Ok(());
            }
            for pod in found {
                match pods.delete(&pod.name_any(), &deletion).await {
                    Err(kube::Error::Api(status)) if status.code == GONE => {}
                    deleted => drop(deleted?),
                }
            }
            if grace_seconds > 0 {
                sleep(GONE_POLL).await;
            }
        }
    }

    /// Takes KubeVirt's finalizer off, which happens at the end of a VM whether it is being deleted or not.
    async fn let_go(&self) -> Result<()> {
        let vmi = vmis(&self.client, &self.namespace).get(&self.name()).await?;
        let others: Vec<_> = vmi
            .finalizers()
            .iter()
            .filter(|name| *name != FINALIZER)
            .collect();
        self.patch(json!({"metadata": {"finalizers": others}})).await
    }

    fn phase(&self) -> Phase {
        self.phases().last().map_or(Phase::Pending, |(phase, _)| *phase)
    }

    fn phases(&self) -> MutexGuard<'_, Vec<(Phase, String)>> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self, phase: Phase, more: Value) -> Result<()> {
        self.phases().push((phase, now()));
        let stamps: Vec<_> = self
            .phases()
            .iter()
            .map(|(phase, at)| json!({"phase": phase.name(), "phaseTransitionTimestamp": at}))
            .collect();
        let mut status = more;
        status["phase"] = json!(phase.name());
        status["phaseTransitionTimestamps"] = json!(stamps);
        status["conditions"] = json!([phase.ready()]);
        self.patch(json!({"status": status})).await
    }

    async fn patch(&self, body: Value) -> Result<()> {
        let vmis = vmis(&self.client, &self.namespace);
        vmis.patch(&self.name(), &PatchParams::default(), &Patch::Merge(body))
            .await?;
        Ok(())
    }

    fn name(&self) -> String {
        self.vmi.name_any()
    }
}
