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

/// What virt-controller's informers tell of one VMI.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) deleting: bool,
    pub(super) launcher: Launcher,
}

/// One VMI.
pub(super) struct Vm {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) seed: u64,
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
            // It vanished under our hands: it was deleted before it had a finalizer.
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
            sleep(seconds(script.slow_delete)).await;
            let heeded_acpi = script.slow_delete == 0.0;
            anyhow::Ok(if heeded_acpi {
                Ending::PoweredOff
            } else {
                Ending::Destroyed
            })
        };
        // Whoever ends first, the guest ends here: it is part of the other future.
        let ending = tokio::select! {
            ending = self.power_on(&script) => ending?,
            ending = deleted => ending?,
        };
        self.delete_launchers().await?;
        self.enter(self.phase().after(ending), json!({})).await?;
        self.let_go().await
    }

    /// From nothing to a running guest; returns when that has ended by itself.
    async fn power_on(&self, script: &Script) -> Result<Ending> {
        let launcher = launcher::render(&self.vmi, script.unschedulable)?;
        let pods = pods(&self.client, &self.namespace);
        let params = PostParams::default();
        persist("creating a launcher", || pods.create(&params, &launcher)).await;
        self.enter(Phase::Scheduling, json!({})).await?;
        let Some((host, address)) = self.wait_for_launcher().await? else {
            return Ok(Ending::LauncherLost);
        };
        self.patch(json!({"metadata": {"labels": {"kubevirt.io/nodeName": host}}}))
            .await?;
        self.enter(Phase::Scheduled, json!({"nodeName": host})).await?;
        let mut seen = self.seen.clone();
        tokio::select! {
            ended = self.run_domain(script, &address) => ended,
            lost = seen.wait_for(|seen| seen.launcher == Launcher::Gone) => lost.map(|_| Ending::LauncherLost).map_err(Into::into),
        }
    }

    /// Host and address of the launcher once it is ready, `None` when it ended before.
    async fn wait_for_launcher(&self) -> Result<Option<(String, String)>> {
        let mut seen = self.seen.clone();
        let mut said = None;
        loop {
            let launcher = seen.borrow_and_update().launcher.clone();
            match launcher {
                Launcher::Ready { host, address } => return Ok(Some((host, address))),
                Launcher::Gone => return Ok(None),
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

    async fn run_domain(&self, script: &Script, address: &str) -> Result<Ending> {
        if script.never_boots {
            return std::future::pending().await;
        }
        let user_data = self.user_data().await?;
        sleep(START_TIME + seconds(script.boot_delay)).await;
        let own = json!({"name": "default", "podInterfaceName": "eth0", "ipAddress": address,
            "ipAddresses": [address], "linkState": "up", "queueCount": 1, "infoSource": "domain"});
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
        let uid = self.vmi.uid().unwrap_or_default();
        Ok(script
            .for_attempt(attempt_of(&self.name()))
            .jittered(self.seed, &uid))
    }

    /// Deletes the launcher at once, by its label, and waits until it is gone.
    async fn delete_launchers(&self) -> Result<()> {
        let pods = pods(&self.client, &self.namespace);
        let ours =
            ListParams::default().labels(&format!("{CREATED_BY}={}", self.vmi.uid().unwrap_or_default()));
        let at_once = DeleteParams::default().grace_period(0);
        loop {
            let found = pods.list_metadata(&ours).await?;
            if found.items.is_empty() {
                return Ok(());
            }
            for pod in found {
                match pods.delete(&pod.name_any(), &at_once).await {
                    Err(kube::Error::Api(status)) if status.code == GONE => {}
                    deleted => drop(deleted?),
                }
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
