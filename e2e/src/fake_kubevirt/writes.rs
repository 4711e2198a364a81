//! What KubeVirt's parts write to a VMI, each with its own rights.

use std::sync::{MutexGuard, PoisonError};

use anyhow::Result;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::crd::vmis;
use super::machine::{FINALIZER, Vm};
use super::retry::persist_while_there;
use super::vmi::{Phase, now};

/// The part of KubeVirt that writes to a VMI.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// virt-controller: until the domain is up, and after its end.
    Controller,
    /// virt-handler: what becomes of the domain.
    Handler,
}

impl Vm {
    /// Takes KubeVirt's finalizer off, which happens at the end of a VM whether it is being deleted or not.
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
        self.patch(json!({"metadata": {"finalizers": others}})).await
    }

    pub(super) fn phase(&self) -> Phase {
        self.phases().last().map_or(Phase::Pending, |(phase, _)| *phase)
    }

    fn phases(&self) -> MutexGuard<'_, Vec<(Phase, String)>> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn enter(&self, part: Part, phase: Phase, more: Value) -> Result<()> {
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
        match part {
            Part::Controller => self.patch(json!({"status": status})).await,
            Part::Handler => self.report_domain(&status).await,
        }
    }

    /// Waits until virt-controller is at work.
    pub(super) async fn controller(&self) -> Result<()> {
        self.controller_works.clone().wait_for(|works| *works).await?;
        Ok(())
    }

    /// virt-controller's write.
    pub(super) async fn patch(&self, body: Value) -> Result<()> {
        self.controller().await?;
        let vmis = vmis(&self.parts.controller, &self.namespace);
        let (name, params, body) = (self.name(), PatchParams::default(), Patch::Merge(body));
        persist_while_there("virt-controller's write", || async {
            vmis.patch(&name, &params, &body).await.map(drop)
        })
        .await?;
        Ok(())
    }

    /// virt-handler's write of fields of the status. It may update VMIs and list them, but neither get nor patch them.
    pub(super) async fn report_domain(&self, fields: &Value) -> Result<()> {
        let vmis = vmis(&self.parts.handler, &self.namespace);
        let name = self.name();
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        persist_while_there("virt-handler's write", || async {
            let Some(mut vmi) = vmis.list(&only).await?.items.pop() else {
                return Ok(());
            };
            for (field, value) in fields.as_object().into_iter().flatten() {
                vmi.data["status"][field] = value.clone();
            }
            vmis.replace(&name, &PostParams::default(), &vmi).await.map(drop)
        })
        .await?;
        Ok(())
    }
}
