//! What KubeVirt's parts write to a VMI, each with its own rights.

use std::sync::{MutexGuard, PoisonError};

use anyhow::Result;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::crd::vmis;
use super::machine::{FINALIZER, Vm};
use super::retry::persist_while_there;
use super::vmi::{Ending, Phase, launcher_gone, now, with};

/// The part of KubeVirt that writes to a VMI.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// virt-controller: until the domain is up, and after its end.
    Controller,
    /// virt-handler: what becomes of the domain.
    Handler,
}

impl Vm {
    /// Takes KubeVirt's finalizer off, which happens when the launcher of a VM that has ended is gone, whether the VMI is
    /// being deleted or not. One that stays says that it has no launcher any more.
    pub(super) async fn let_go(&self) -> Result<()> {
        self.controller().await?;
        let vmi = vmis(&self.parts.controller, &self.namespace)
            .get(&self.name())
            .await?;
        let others: Vec<_> = vmi
            .finalizers()
            .iter()
            .filter(|name| *name != FINALIZER)
            .collect();
        let said = match vmi.metadata.deletion_timestamp {
            Some(_) => Vec::new(),
            None => vec![launcher_gone()],
        };
        self.patch(json!({"metadata": {"finalizers": others}}), &said)
            .await
    }

    pub(super) fn phase(&self) -> Phase {
        self.phases().last().map_or(Phase::Pending, |(phase, _)| *phase)
    }

    fn phases(&self) -> MutexGuard<'_, Vec<(Phase, Option<String>)>> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn enter(&self, part: Part, phase: Phase, more: Value) -> Result<()> {
        self.moves_to(part, phase, Some(now()), more).await
    }

    /// Enters the final phase.
    pub(super) async fn end(&self, ending: Ending) -> Result<()> {
        let (before, after) = (self.phase(), self.phase().after(ending));
        match (before, ending) {
            (Phase::Running, Ending::PoweredOff | Ending::Destroyed | Ending::Crashed) => {
                self.enter(Part::Handler, after, json!({})).await
            }
            // virt-controller gives this one no time.
            (Phase::Running, Ending::LauncherLost) => {
                self.moves_to(Part::Controller, after, None, json!({})).await
            }
            _ => self.enter(Part::Controller, after, json!({})).await,
        }
    }

    async fn moves_to(&self, part: Part, phase: Phase, at: Option<String>, more: Value) -> Result<()> {
        self.phases().push((phase, at));
        let phases = self.phases().clone();
        let stamps: Vec<_> = phases
            .iter()
            .filter_map(|(phase, at)| {
                let at = at.as_ref()?;
                Some(json!({"phase": phase.name(), "phaseTransitionTimestamp": at}))
            })
            .collect();
        let mut status = more;
        status["phase"] = json!(phase.name());
        status["phaseTransitionTimestamps"] = json!(stamps);
        let conditions = phase.conditions();
        match part {
            Part::Controller => self.patch(json!({"status": status}), &conditions).await,
            Part::Handler => self.report_domain(&status, &conditions).await,
        }
    }

    /// Waits until virt-controller is at work.
    pub(super) async fn controller(&self) -> Result<()> {
        self.controller_works.clone().wait_for(|works| *works).await?;
        Ok(())
    }

    /// virt-controller's write, and conditions that it sets.
    pub(super) async fn patch(&self, body: Value, conditions: &[Value]) -> Result<()> {
        self.controller().await?;
        let vmis = vmis(&self.parts.controller, &self.namespace);
        change(&vmis, &self.name(), &body, conditions).await?;
        Ok(())
    }

    /// virt-handler's write of fields of the status. It may update VMIs and list them, but neither get nor patch them.
    pub(super) async fn report_domain(&self, fields: &Value, conditions: &[Value]) -> Result<()> {
        let vmis = vmis(&self.parts.handler, &self.namespace);
        let name = self.name();
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        let is_over = self.phase().is_final();
        persist_while_there("virt-handler's write", || async {
            let Some(mut vmi) = vmis.list(&only).await?.items.pop() else {
                return Ok(());
            };
            for (field, value) in fields.as_object().into_iter().flatten() {
                vmi.data["status"][field] = value.clone();
            }
            if let Some(conditions) = with(&vmi, conditions) {
                vmi.data["status"]["conditions"] = conditions;
            }
            let interfaces = vmi.data["status"]["interfaces"].as_array_mut();
            for interface in interfaces.filter(|_| is_over).into_iter().flatten() {
                for address in ["ipAddress", "ipAddresses"] {
                    interface.as_object_mut().map(|fields| fields.remove(address));
                }
            }
            vmis.replace(&name, &PostParams::default(), &vmi).await.map(drop)
        })
        .await?;
        Ok(())
    }
}

/// Patches a VMI, and sets conditions of it, for as long as it takes.
pub(super) async fn change(
    vmis: &Api<DynamicObject>,
    name: &str,
    body: &Value,
    conditions: &[Value],
) -> kube::Result<()> {
    persist_while_there("a write to a VMI", || async {
        let mut body = body.clone();
        if !conditions.is_empty() {
            let vmi = vmis.get(name).await?;
            match with(&vmi, conditions) {
                Some(conditions) => {
                    body["status"]["conditions"] = conditions;
                    body["metadata"]["resourceVersion"] = json!(vmi.resource_version());
                }
                None if body == json!({}) => return Ok(()),
                None => {}
            }
        }
        vmis.patch(name, &PatchParams::default(), &Patch::Merge(body))
            .await
            .map(drop)
    })
    .await
}
