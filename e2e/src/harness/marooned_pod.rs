//! Marooned pods under test: how they are made, and what tests wait for. As in [`crate::api::check`], errors show the
//! object; unwrap them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::names;
use serde_json::json;

use crate::api::check::{accepts, becomes, eventually, gone};
use crate::api::leftovers::nothing_left_of;
use crate::api::read::{condition, phase, report, vmis};
use crate::fake_kubevirt::refusals_of;
use crate::fake_kubevirt::script::{SCRIPT_ANNOTATION, Script};

/// How long tests wait for what should take a few seconds: a bound for giving up, not a measurement.
pub const SOON: Duration = Duration::from_secs(60);

/// An opted-in pod whose VM behaves by `script`.
pub fn pod(name: &str, script: &Script) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": {names::MAROON_LABEL: "true", "app": name},
            "annotations": {SCRIPT_ANNOTATION: serde_json::to_string(script)?},
        },
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    }))?)
}

/// One opted-in pod, from its creation until nothing is left of it.
pub struct MaroonedPod {
    /// Pods of its namespace.
    pub pods: Api<Pod>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    admin: Client,
}

impl MaroonedPod {
    /// Creates a pod whose VM behaves by `script`.
    pub async fn create(admin: &Client, namespace: &str, name: &str, script: &Script) -> Result<Self> {
        Self::create_pod(admin, namespace, &pod(name, script)?).await
    }

    /// Creates the given pod.
    pub async fn create_pod(admin: &Client, namespace: &str, pod: &Pod) -> Result<Self> {
        let pods = Api::namespaced(admin.clone(), namespace);
        Self::of(admin, &accepts(&pods, pod).await?)
    }

    /// A pod that another client created.
    pub fn of(admin: &Client, pod: &Pod) -> Result<Self> {
        let namespace = pod.namespace().context("a pod has a namespace")?;
        Ok(Self {
            pods: Api::namespaced(admin.clone(), &namespace),
            name: pod.name_any(),
            uid: pod.uid().context("a stored pod has a UID")?,
            admin: admin.clone(),
        })
    }

    /// Name of its Node, its record and its first VMI.
    #[must_use]
    pub fn node_name(&self) -> String {
        names::node_name(&self.uid.as_str().into())
    }

    /// Our records.
    #[must_use]
    pub fn records(&self) -> Api<MaroonedNode> {
        Api::all(self.admin.clone())
    }

    /// All Nodes.
    #[must_use]
    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.admin.clone())
    }

    /// The VMIs.
    #[must_use]
    pub fn vmis(&self) -> Api<DynamicObject> {
        vmis(&self.admin)
    }

    /// Waits until the pod is as `condition` says.
    pub async fn becomes(&self, what: &str, condition: impl Fn(&Pod) -> bool) -> Result<Pod> {
        self.becomes_within(SOON, what, condition).await
    }

    async fn becomes_within(
        &self,
        limit: Duration,
        what: &str,
        condition: impl Fn(&Pod) -> bool,
    ) -> Result<Pod> {
        becomes(&self.pods, &self.name, what, limit, |pod: &Pod| {
            pod.uid().as_ref() == Some(&self.uid) && condition(pod)
        })
        .await
    }

    /// Waits until the pod runs, which it must on its own node.
    pub async fn running(&self) -> Result<Pod> {
        self.running_within(SOON).await
    }

    /// [`Self::running`] with another limit.
    pub async fn running_within(&self, limit: Duration) -> Result<Pod> {
        let pod = self
            .becomes_within(limit, "Running", |pod| phase(pod) == "Running")
            .await?;
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        ensure!(
            node.as_ref() == Some(&self.node_name()),
            "{} runs on {node:?}",
            self.name
        );
        Ok(pod)
    }

    /// Waits until our condition on the pod is False for this reason, and gives its message.
    pub async fn reports(&self, reason: &str) -> Result<String> {
        let pod = self
            .becomes(reason, |pod| {
                condition(pod, names::NODE_READY_CONDITION) == Some(("False".to_owned(), reason.to_owned()))
            })
            .await?;
        Ok(report(&pod).1)
    }

    /// Waits until the pod has failed because its VM is gone.
    pub async fn fails(&self) -> Result<Pod> {
        let pod = self.becomes("Failed", |pod| phase(pod) == "Failed").await?;
        let disrupted = condition(&pod, "DisruptionTarget").map(|(status, _)| status);
        ensure!(
            disrupted.as_deref() == Some("True"),
            "{} failed without DisruptionTarget",
            self.name
        );
        Ok(pod)
    }

    /// Waits until its record is as `condition` says.
    pub async fn record(
        &self,
        what: &str,
        condition: impl Fn(&MaroonedNode) -> bool,
    ) -> Result<MaroonedNode> {
        becomes(&self.records(), &self.node_name(), what, SOON, condition).await
    }

    /// Waits until the VMI of an attempt (from 1) is in this phase.
    pub async fn vmi(&self, attempt: u32, phase: &str) -> Result<DynamicObject> {
        let name = names::vmi_name(&self.uid.as_str().into(), attempt);
        becomes(&self.vmis(), &name, phase, SOON, |vmi: &DynamicObject| {
            vmi.data["status"]["phase"] == phase
        })
        .await
    }

    /// Cuts the power of an attempt's VM: its launcher is gone at once, as when the host fails.
    pub async fn power_off(&self, attempt: u32) -> Result<()> {
        let vmi = names::vmi_name(&self.uid.as_str().into(), attempt);
        let launchers = Api::<Pod>::namespaced(self.admin.clone(), names::VM_NAMESPACE);
        let of_pod = ListParams::default().labels(&format!("{}={}", names::POD_UID_LABEL, self.uid));
        let found = launchers.list(&of_pod).await?.items.into_iter();
        let launcher = found
            .filter(|pod| pod.owner_references().iter().any(|owner| owner.name == vmi))
            .find_map(|pod| pod.metadata.name)
            .with_context(|| format!("{vmi} has no launcher"))?;
        let at_once = DeleteParams::default().grace_period(0);
        launchers.delete(&launcher, &at_once).await?;
        Ok(())
    }

    /// Deletes the pod as a user does.
    pub async fn delete(&self) -> Result<()> {
        self.pods.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until the pod object is gone.
    pub async fn gone(&self) -> Result<()> {
        gone(&self.pods, &self.name, SOON).await
    }

    /// Waits until nothing but the pod object itself may be left of it. Its kubelet, if it was an honest one, must not have
    /// been forbidden anything.
    pub async fn leaves_nothing(&self) -> Result<()> {
        let what = format!("nothing to be left of {}", self.name);
        eventually(&what, SOON, || async {
            let left = nothing_left_of(&self.admin, &self.uid).await?;
            ensure!(left.is_empty(), "left: {}", left.join(", "));
            Ok(Some(()))
        })
        .await?;
        let refusals = refusals_of(&self.node_name());
        ensure!(
            refusals.is_empty(),
            "forbidden to the honest kubelet of {}: {}",
            self.name,
            refusals.join(", ")
        );
        Ok(())
    }

    /// Deletes the pod and waits until everything is gone.
    pub async fn ends(&self) -> Result<()> {
        self.delete().await?;
        self.gone().await?;
        self.leaves_nothing().await
    }
}
