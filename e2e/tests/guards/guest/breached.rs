//! A guest in which an attacker is root.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::api::storage::v1::CSINode;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::StolenCredentials;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::test_env::TestEnv;
use serde_json::{Value, json};

use crate::fixtures::{from, pod};

/// A pod that mounts a Secret of its own, and what is found in its guest.
pub struct Guest {
    pub pod: MaroonedPod,
    pub namespace: TestNamespace,
    pub stolen: StolenCredentials,
    pub client: Client,
    pub uid: String,
}

impl Guest {
    pub async fn breached(env: &TestEnv, admin: &Client) -> Self {
        let namespace = TestNamespace::new(admin, &[]).await.unwrap();
        let secrets: Api<Secret> = Api::namespaced(admin.clone(), &namespace.name);
        accepts(&secrets, &from(json!({"metadata": {"name": "own"}})))
            .await
            .unwrap();
        let mounts = json!({"volumes": [{"name": "own", "secret": {"secretName": "own"}}]});
        let labels = json!({"name": "pod", "labels": {names::MAROON_LABEL: "true"}});
        let pod = MaroonedPod::create_pod(admin, &namespace.name, &pod(&labels, &mounts))
            .await
            .unwrap();
        pod.running().await.unwrap();
        let csi_nodes: Api<CSINode> = Api::all(admin.clone());
        becomes(&csi_nodes, &pod.node_name(), "there", SOON, |_| true)
            .await
            .unwrap();
        let stolen = env
            .kubevirt()
            .guests()
            .stolen_credentials(&pod.node_name())
            .unwrap();
        let client = env.control_plane().certified(&stolen.identity).await.unwrap();
        Self {
            uid: pod.uid.clone(),
            pod,
            namespace,
            stolen,
            client,
        }
    }

    pub fn node(&self) -> String {
        self.pod.node_name()
    }

    pub fn api_in<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub async fn change(&self, body: Value) -> kube::Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes
            .patch(&self.node(), &PatchParams::default(), &Patch::Strategic(body))
            .await
    }

    pub async fn report(&self, body: Value) -> kube::Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes
            .patch_status(&self.node(), &PatchParams::default(), &Patch::Strategic(body))
            .await
    }

    /// What every kubelet writes.
    pub async fn heartbeat(&self) -> kube::Result<Node> {
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z"});
        self.report(json!({"status": {"conditions": [ready]}})).await
    }
}

pub async fn host(env: &TestEnv, name: &str) -> Client {
    let user = format!("{}{name}", names::NODE_USER_PREFIX);
    env.control_plane().user(&user, names::NODES_GROUP).await.unwrap()
}
