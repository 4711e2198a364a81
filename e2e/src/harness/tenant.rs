//! A user of the cluster: a namespace, the pods in it, and what the user waits for.

use std::fmt::Debug;

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::check::{accepts, becomes, eventually, gone};
use crate::api::namespace::TestNamespace;
use crate::api::read;
use crate::harness::marooned_pod::{MaroonedPod, SOON};
use crate::harness::test_env::TestEnv;

/// Label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The environment's hosts, and the zone of each after [`Tenant::has_a_zone_for_each_host`].
pub const HOSTS: [(&str, &str); 3] = [("host-1", "zone-a"), ("host-2", "zone-b"), ("host-3", "zone-c")];

/// A fresh namespace in an environment, and the user whose it is.
pub struct Tenant<'w> {
    /// The environment.
    pub env: &'w TestEnv,
    /// A client that may do everything, of the calling runtime.
    pub admin: Client,
    /// The namespace's pods.
    pub pods: Api<Pod>,
    namespace: TestNamespace,
}

impl Tenant<'static> {
    /// A tenant of the one environment of this process, in a namespace whose opt-in label is `opt_in`.
    pub async fn shared(opt_in: Option<&str>) -> Result<Self> {
        Self::new(TestEnv::shared().await?, opt_in).await
    }
}

impl<'w> Tenant<'w> {
    /// A tenant of `env`, in a namespace whose opt-in label is `opt_in`.
    pub async fn new(env: &'w TestEnv, opt_in: Option<&str>) -> Result<Self> {
        let admin = env.control_plane().admin().await?;
        let labels: Vec<_> = opt_in
            .map(|value| (names::MAROON_LABEL, value))
            .into_iter()
            .collect();
        let namespace = TestNamespace::new(&admin, &labels).await?;
        Ok(Self {
            env,
            pods: Api::namespaced(admin.clone(), &namespace.name),
            admin,
            namespace,
        })
    }

    /// Name of the namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace.name
    }

    /// Objects of another kind in the namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), self.namespace())
    }

    /// Creates a pod, which must be accepted.
    pub async fn creates(&self, pod: &Pod) -> Result<Pod> {
        accepts(&self.pods, pod).await
    }

    /// Creates an object of another kind, which must be accepted.
    pub async fn applies<K>(&self, object: serde_json::Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        accepts(&self.api(), &serde_json::from_value(object)?).await
    }

    /// Waits until the pod is Running and Ready.
    pub async fn sees_running(&self, name: &str) -> Result<Pod> {
        becomes(&self.pods, name, "a running pod", SOON, read::runs).await
    }

    /// Waits until our condition on the pod gives this reason.
    pub async fn sees_reason(&self, name: &str, reason: &str) -> Result<Pod> {
        let says = |pod: &Pod| read::reason(pod) == reason;
        becomes(&self.pods, name, &format!("the reason {reason}"), SOON, says).await
    }

    /// Waits until exactly `count` pods of the namespace are as `condition` says, and gives them.
    pub async fn sees(&self, count: usize, what: &str, condition: impl Fn(&Pod) -> bool) -> Result<Vec<Pod>> {
        eventually(&format!("{count} pods: {what}"), SOON, || async {
            let mut found = self.pods.list(&ListParams::default()).await?.items;
            found.retain(&condition);
            Ok((found.len() == count).then_some(found))
        })
        .await
    }

    /// Deletes the pod as a user does, and waits until it is gone.
    pub async fn deletes(&self, name: &str) -> Result<()> {
        self.pods.delete(name, &DeleteParams::default()).await?;
        gone(&self.pods, name, SOON).await
    }

    /// The Node of a marooned pod.
    pub async fn node_of(&self, pod: &Pod) -> Result<Node> {
        let nodes: Api<Node> = Api::all(self.admin.clone());
        Ok(nodes
            .get(&names::node_name(&pod.uid().unwrap_or_default().into()))
            .await?)
    }

    /// The host that runs the VM of the pod's first attempt.
    pub async fn host_of(&self, pod: &Pod) -> Result<String> {
        read::vm_host(&self.admin, pod)
            .await?
            .with_context(|| format!("the VM of {} has no host", pod.name_any()))
    }

    /// Sets labels of a host, or takes off those that are null.
    pub async fn labels_host(&self, host: &str, labels: &Value) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.admin.clone());
        let labels = Patch::Merge(json!({"metadata": {"labels": labels}}));
        nodes.patch(host, &PatchParams::default(), &labels).await?;
        Ok(())
    }

    /// Puts each host into a zone of its own.
    pub async fn has_a_zone_for_each_host(&self) -> Result<()> {
        for (host, zone) in HOSTS {
            self.labels_host(host, &json!({ZONE: zone})).await?;
        }
        Ok(())
    }

    /// The record of the pod with this name, once there is one.
    pub async fn sees_record(&self, name: &str) -> Result<MaroonedNode> {
        eventually(&format!("a record of {name}"), SOON, || async {
            let records = self.records().await?;
            Ok(records
                .into_iter()
                .find(|record| record.spec.pod_ref.name == name))
        })
        .await
    }

    /// The records of this namespace's pods.
    pub async fn records(&self) -> Result<Vec<MaroonedNode>> {
        let mut records = Api::<MaroonedNode>::all(self.admin.clone())
            .list(&ListParams::default())
            .await?
            .items;
        records.retain(|record| record.spec.pod_ref.namespace == self.namespace());
        Ok(records)
    }

    /// Deletes the namespace, and waits until it and everything of ours that was for its pods is gone.
    pub async fn leaves(self) -> Result<()> {
        let pods = self.pods.list(&ListParams::default()).await?.items;
        let admin = self.admin;
        self.namespace.close(&admin).await?;
        for pod in &pods {
            MaroonedPod::of(&admin, pod)?.leaves_nothing().await?;
        }
        Ok(())
    }
}
