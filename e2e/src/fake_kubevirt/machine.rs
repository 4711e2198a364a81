//! The life of one VMI, as virt-controller and virt-handler make it.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::DynamicObject;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::accounts::Parts;
use super::crd::pods;
use super::domains::Domains;
use super::guest::Guest;
use super::launcher::{self, CREATED_BY, Hardware, Launcher};
use super::log::GuestLog;
use super::retry::{code, persist};
use super::script::{SCRIPT_ANNOTATION, Script, attempt_of, seconds};
use super::vmi::{Ending, Phase, condition, launcher_ends, launcher_gone};
use super::writes::Part;

/// KubeVirt's finalizer (1.7 and later), which virt-api sets and virt-controller takes off.
pub(super) const FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// Annotation on our VMIs: `<namespace>/<name>` of the pod.
const POD_ANNOTATION: &str = "maroonedpods.io/pod";
/// What a launcher takes to define and start a domain.
const START_TIME: Duration = Duration::from_millis(100);
/// When the guest's own interfaces become known.
const INTERFACES_TIME: Duration = Duration::from_millis(300);
const SEED_RETRY: Duration = Duration::from_millis(200);
const GONE: u16 = 404;
const FORBIDDEN: u16 = 403;
/// How soon it is looked again whether a launcher is gone, if no watch tells.
const GONE_POLL: Duration = Duration::from_secs(2);

/// What virt-controller's informers know of one VMI.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) deleting: bool,
    pub(super) launcher: Launcher,
    /// The launcher is being deleted, and has time to shut its guest down.
    pub(super) launcher_told_to_stop: bool,
    /// The launcher's object is gone.
    pub(super) launcher_gone: bool,
}

/// One VMI.
pub(super) struct Vm {
    pub(super) parts: Parts,
    /// Whether virt-controller is at work.
    pub(super) controller_works: watch::Receiver<bool>,
    /// The clients of the simulated hosts' kubelets, by the hosts' names.
    pub(super) kubelets: Arc<HashMap<String, Client>>,
    pub(super) domains: Domains,
    /// See [`super::FakeKubeVirtOptions::teardown`].
    pub(super) teardown: Duration,
    pub(super) namespace: String,
    /// See [`super::FakeKubeVirtOptions::seed`].
    pub(super) seed: u64,
    pub(super) log: GuestLog,
    pub(super) vmi: DynamicObject,
    pub(super) seen: watch::Receiver<Seen>,
    /// Phases so far, with the times that are noted.
    pub(super) phases: Mutex<Vec<(Phase, Option<String>)>>,
}

impl Vm {
    /// Lives until the VMI is final and its finalizer is off.
    pub(super) async fn run(self) {
        let lived = tokio::select! {
            lived = Box::pin(self.live()) => lived,
            minded = Box::pin(self.mind_launcher()) => minded,
        };
        match lived {
            // A person took its finalizer off.
            Err(error) if code(&error) == Some(GONE) => {}
            Err(error) => tracing::warn!(vmi = self.name(), error = format!("{error:#}"), "a VM failed"),
            Ok(()) => {}
        }
    }

    async fn live(&self) -> Result<()> {
        let script = match self.script().await {
            Ok(script) => script,
            Err(error) => {
                let reason = json!({"reason": format!("{error:#}")});
                self.enter(Part::Controller, Phase::Failed, reason).await?;
                return self.let_go().await;
            }
        };
        let mut seen = self.seen.clone();
        let deleted = async {
            seen.wait_for(|seen| seen.deleting || seen.launcher_told_to_stop)
                .await?;
            self.power_off(&script).await
        };
        // Whichever future ends first, the guest ends here: it is part of the other future.
        let ending = tokio::select! {
            ending = self.power_on(&script) => ending?,
            ending = deleted => ending?,
        };
        self.end(ending).await?;
        self.domains.end(&self.uid());
        let mut seen = self.seen.clone();
        let deleting = seen
            .wait_for(|seen| seen.deleting || seen.launcher_gone)
            .await?
            .deleting;
        if deleting {
            self.say_that_launcher_ends().await?;
            // One may have been in the making.
            while self.delete_launchers().await? {
                let _: Result<_, _> = timeout(GONE_POLL, seen.wait_for(|seen| seen.launcher_gone)).await;
            }
        }
        self.let_go().await
    }

    /// Says so where there is one. What kept it from being made is not said any more.
    async fn say_that_launcher_ends(&self) -> Result<()> {
        if self.seen.borrow().launcher == Launcher::None {
            let only = json!({"status": {"conditions": [launcher_gone()]}});
            return self.patch(only, &[]).await;
        }
        self.patch(json!({}), &[launcher_ends()]).await
    }

    /// virt-controller's part beside the VM's own life: it deletes the launcher of a VMI that is being deleted, and says of
    /// one that ends that it does. Never returns but for an error.
    async fn mind_launcher(&self) -> Result<()> {
        let mut seen = self.seen.clone();
        seen.wait_for(|seen| {
            let ends = seen.launcher_told_to_stop || matches!(seen.launcher, Launcher::Ended(_));
            seen.deleting || (ends && !seen.launcher_gone)
        })
        .await?;
        if seen.borrow().deleting {
            self.delete_launchers().await?;
        }
        self.say_that_launcher_ends().await?;
        std::future::pending().await
    }

    /// From nothing to a running guest; returns when that has ended by itself.
    async fn power_on(&self, script: &Script) -> Result<Ending> {
        let launcher = launcher::render(&self.vmi, script.unschedulable)?;
        self.create(&launcher).await?;
        self.enter(Part::Controller, Phase::Scheduling, json!({})).await?;
        let (host, address) = match self.wait_for_launcher().await? {
            Ok(placed) => placed,
            Err(ending) => return Ok(ending),
        };
        self.patch(
            json!({"metadata": {"labels": {"kubevirt.io/nodeName": host}}}),
            &[],
        )
        .await?;
        self.enter(Part::Controller, Phase::Scheduled, json!({"nodeName": host}))
            .await?;
        tokio::select! {
            ended = self.run_domain(script, &host, &address) => ended,
            ended = self.launcher_ends() => ended,
        }
    }

    /// Creates the launcher. While the API server refuses it, the VMI says why.
    async fn create(&self, launcher: &Pod) -> Result<()> {
        let pods = pods(&self.parts.controller, &self.namespace);
        let was_refused = AtomicBool::new(false);
        persist("creating a launcher", || async {
            self.controller().await?;
            if let Err(error) = pods.create(&PostParams::default(), launcher).await {
                was_refused.store(true, Relaxed);
                let why = match &error {
                    kube::Error::Api(status) => status.message.clone(),
                    error => error.to_string(),
                };
                let why = format!("failed to create virtual machine pod: {why}");
                let refused = condition("Synchronized", "False", "FailedCreate", &why);
                self.patch(json!({}), &[launcher_gone(), refused]).await?;
                return Err(error.into());
            }
            anyhow::Ok(())
        })
        .await;
        if was_refused.into_inner() {
            // There are no others yet.
            self.patch(json!({"status": {"conditions": []}}), &[]).await?;
        }
        Ok(())
    }

    /// Asks the guest to power off, because its VMI is being deleted, and destroys it when it does not react.
    async fn power_off(&self, script: &Script) -> Result<Ending> {
        if script.slow_delete > 0.0 {
            sleep(seconds(script.slow_delete)).await;
            return Ok(Ending::Destroyed);
        }
        sleep(self.teardown).await;
        Ok(Ending::PoweredOff)
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
                    self.patch(json!({}), &[blocked]).await?;
                    said = Some(why);
                }
                Launcher::None | Launcher::Waiting { .. } => {}
            }
            seen.changed().await?;
        }
    }

    /// Says that the domain is up, and returns when it has ended by itself.
    async fn run_domain(&self, script: &Script, host: &str, address: &str) -> Result<Ending> {
        let own = json!({"name": "default", "podInterfaceName": "eth0", "ipAddress": address,
            "ipAddresses": [address], "linkState": "up", "queueCount": 1, "infoSource": "domain"});
        if script.never_boots {
            return std::future::pending().await;
        }
        let user_data = self.user_data(host).await?;
        sleep(START_TIME + seconds(script.boot_delay)).await;
        let guest = Guest {
            hardware: Hardware::of(&self.vmi)?,
            user_data,
            script: script.clone(),
            powered: Instant::now(),
            log: self.log.clone(),
        };
        self.enter(Part::Handler, Phase::Running, json!({"interfaces": [own]}))
            .await?;
        let crash = async {
            match script.dies_at {
                Some(after) => sleep(seconds(after)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = async { tokio::join!(guest.live(), self.list_guest_interfaces(&own)); } => Ok(Ending::PoweredOff),
            () = crash => Ok(Ending::Crashed),
        }
    }

    /// KubeVirt lists interfaces that only the guest knows as well, in no order that means anything.
    async fn list_guest_interfaces(&self, own: &Value) {
        sleep(INTERFACES_TIME).await;
        let foreign = json!({"interfaceName": "mp0", "ipAddress": "169.254.1.1", "ipAddresses": ["169.254.1.1"],
            "infoSource": "guest-agent"});
        let both = json!({"interfaces": [foreign, own]});
        if let Err(error) = self.report_domain(&both, &[]).await {
            tracing::debug!(vmi = self.name(), %error, "listing a guest's interfaces failed");
        }
    }

    /// As the host's kubelet mounts it: until it has seen the launcher, its API server lets it read no Secret.
    async fn user_data(&self, host: &str) -> Result<String> {
        let kubelet = self
            .kubelets
            .get(host)
            .with_context(|| format!("{host} is no simulated host"))?;
        loop {
            match launcher::user_data(kubelet, &self.namespace, &self.vmi).await {
                Ok(Some(text)) => return Ok(text),
                Ok(None) => {}
                Err(error) if code(&error) == Some(FORBIDDEN) => {}
                Err(error) => return Err(error),
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
            Some((namespace, name)) => pods(&self.parts.controller, namespace).get_opt(name).await?,
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
        Ok(script.jittered(self.seed, &self.vmi.uid().unwrap_or_default()))
    }

    /// Deletes the launcher, by its label; whether there was one.
    async fn delete_launchers(&self) -> Result<bool> {
        self.controller().await?;
        let pods = pods(&self.parts.controller, &self.namespace);
        let own = ListParams::default().labels(&format!("{CREATED_BY}={}", self.uid()));
        let found = pods.list_metadata(&own).await?.items;
        let any = !found.is_empty();
        for pod in found {
            match pods.delete(&pod.name_any(), &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == GONE => {}
                deleted => drop(deleted?),
            }
        }
        Ok(any)
    }

    fn uid(&self) -> String {
        self.vmi.uid().unwrap_or_default()
    }

    pub(super) fn name(&self) -> String {
        self.vmi.name_any()
    }
}
