//! An environment whose cluster tests break and repair.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, Patch, PatchParams};
use maroonedpods_common::api::{Condition, MaroonedPodsConfig};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually};
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::{Running, TestEnv};
use maroonedpods_reconciler::Cluster;
use maroonedpods_reconciler::{Report, preflight};
use serde_json::json;

pub const VMI_CRD: &str = "virtualmachineinstances.kubevirt.io";

/// An environment with a reconciler, and a tenant in it.
pub struct Setup<'w> {
    pub tenant: Tenant<'w>,
    pub reconciler: Running,
    pub cluster: Cluster,
}

impl<'w> Setup<'w> {
    pub async fn new(env: &'w TestEnv) -> Self {
        let tenant = Tenant::new(env, None).await.unwrap();
        let cluster = Cluster {
            client: tenant.admin.clone(),
            vm_namespace: names::VM_NAMESPACE.to_owned(),
        };
        Self {
            reconciler: env.reconciler(false).await.unwrap(),
            tenant,
            cluster,
        }
    }

    /// A change of the configuration has the cluster checked at once; waiting for the next check takes longer.
    pub async fn touch(&self) {
        let configs: Api<MaroonedPodsConfig> = Api::all(self.tenant.admin.clone());
        let config = configs.get(names::CONFIG_NAME).await.unwrap();
        let attempts = 2 + config.spec.max_attempts % 2;
        let patch = Patch::Merge(json!({"spec": {"maxAttempts": attempts}}));
        configs
            .patch(names::CONFIG_NAME, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Waits until the configuration says so of the cluster; its message.
    pub async fn says(&self, status: &str, reason: &str) -> String {
        self.says_of("ClusterReady", status, reason).await
    }

    /// Waits until the condition of this type on the configuration says so; its message.
    pub async fn says_of(&self, type_: &str, status: &str, reason: &str) -> String {
        let configs: Api<MaroonedPodsConfig> = Api::all(self.tenant.admin.clone());
        let said = |c: &Condition| c.status == status && c.reason == reason;
        let config = becomes(&configs, names::CONFIG_NAME, reason, SOON, |config| {
            condition(config, type_).is_some_and(said)
        })
        .await
        .unwrap();
        condition(&config, type_).unwrap().message.clone()
    }

    /// Waits until `/readyz` answers with this code, and this text in it.
    pub async fn is_ready(&self, code: &str, text: &str) {
        eventually(&format!("/readyz: {code} {text}"), SOON, || async {
            let answer = self.reconciler.get("/readyz").await?;
            let is_so = answer.starts_with(&format!("HTTP/1.0 {code}")) && answer.contains(text);
            anyhow::ensure!(is_so, "{answer}");
            Ok(Some(()))
        })
        .await
        .unwrap();
    }

    pub async fn preflight(&self) -> Report {
        preflight(&self.cluster, None).await.unwrap()
    }

    /// While `reason` keeps VMs from being started: every report says so, with this text, and a pod waits without end.
    pub async fn is_held(&self, reason: &str, text: &str, pod: &str) {
        let message = self.says("False", reason).await;
        assert!(message.contains(text), "{message}");
        self.is_ready("503", text).await;
        let report = self.preflight().await;
        let shown = report.to_string();
        assert!(
            !report.passed() && shown.contains(&format!("fail  {reason}: ")) && shown.contains(text),
            "{shown}"
        );
        let created = self.tenant.creates(&marooned(pod)).await.unwrap();
        let waiting = MaroonedPod::of(&self.tenant.admin, &created).unwrap();
        let message = waiting.reports("ClusterNotReady").await.unwrap();
        assert!(message.contains(text), "{message}");
        let tokens: Api<Secret> = Api::namespaced(self.tenant.admin.clone(), names::TOKEN_NAMESPACE);
        let ours = ListParams::default().labels(names::POD_UID_LABEL);
        assert_eq!(tokens.list(&ours).await.unwrap().items, []);
        assert_eq!(self.tenant.records().await.unwrap(), []);
    }

    /// Once the cluster is repaired: every report says so, and the pod that waited runs.
    pub async fn is_repaired(&self, pod: &str) {
        self.says("True", "Checked").await;
        self.is_ready("200", "ok").await;
        assert!(self.preflight().await.passed());
        self.tenant.sees_running(pod).await.unwrap();
        self.tenant.deletes(pod).await.unwrap();
        eventually("no record", SOON, || async {
            Ok(self.tenant.records().await?.is_empty().then_some(()))
        })
        .await
        .unwrap();
    }
}

fn condition<'a>(config: &'a MaroonedPodsConfig, type_: &str) -> Option<&'a Condition> {
    let conditions = &config.status.as_ref()?.conditions;
    conditions.iter().find(|c| c.type_ == type_)
}
