//! What root in a guest tries with its kubelet's identity. Each attack is refused, and the administrator sees that it
//! changed nothing.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::credentials::Credentials;
use crate::sizes::Size;
use crate::user::{User, shell};

/// The node authorizer's word for objects that no pod of the node's refers to.
const UNRELATED: &str = "no relationship found between node";
/// What marks a status that the attacker wrote.
const BY_HAND: &str = "written by hand";

/// Who holds a guest's certificate.
pub struct Guest<'a> {
    pub client: Client,
    pub user: &'a User<'a>,
    pub pod: &'a MaroonedPod,
}

impl Guest<'_> {
    /// The API server must refuse the attempt, in words that contain `says`.
    async fn refused<T: Debug + Serialize>(
        &self,
        attempt: &str,
        says: &str,
        answer: impl Future<Output = kube::Result<T>>,
    ) {
        let message = maroonedpods_e2e::api::check::refused(answer.await).unwrap();
        assert!(message.contains(says), "{attempt}: {message}");
        self.user.says(&format!("{attempt}: {message}"));
    }

    /// The administrator reads the object before and after: the guest is refused what is there.
    async fn may_not_read<K>(&self, attempt: &str, says: &str, namespace: &str, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let admin: Api<K> = Api::namespaced(self.user.setup.env.admin.clone(), namespace);
        let before = admin.get(name).await.unwrap();
        let guest: Api<K> = Api::namespaced(self.client.clone(), namespace);
        self.refused(attempt, says, guest.get(name)).await;
        assert_eq!(admin.get(name).await.unwrap().uid(), before.uid(), "{attempt}");
    }

    /// The administrator finds some: the guest is refused what is there.
    async fn may_not_list<K>(&self, attempt: &str, which: &ListParams)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let all: Api<K> = Api::all(self.user.setup.env.admin.clone());
        assert!(!all.list(which).await.unwrap().items.is_empty(), "{attempt}");
        let guest: Api<K> = Api::all(self.client.clone());
        self.refused(attempt, "is forbidden", guest.list(which)).await;
    }

    pub async fn reads(&self, own: &str, foreign: &MaroonedPod, victim: &str) {
        // What it may: else the refusals below would say little.
        let secrets = |namespace| Api::<Secret>::namespaced(self.client.clone(), namespace);
        secrets(&self.user.namespace).get(own).await.unwrap();
        let pods: Api<Pod> = Api::all(self.client.clone());
        let of_node =
            |pod: &MaroonedPod| ListParams::default().fields(&format!("spec.nodeName={}", pod.node_name()));
        assert_eq!(pods.list(&of_node(self.pod)).await.unwrap().items.len(), 1);

        let namespace = foreign.pods.namespace().unwrap();
        self.may_not_read::<Secret>("read another guest's pod's Secret", UNRELATED, namespace, victim)
            .await;
        self.may_not_read::<Pod>(
            "read another guest's pod",
            "is forbidden",
            namespace,
            &foreign.name,
        )
        .await;
        // Those that are running have none any more. The next test reads one that is there.
        for (whose, pod) in [("another guest's", foreign), ("its own", self.pod)] {
            let join = names::join_secret_name(&pod.uid.as_str().into(), 1);
            let attempt = format!("read {whose} join Secret of before");
            let read = secrets(names::VM_NAMESPACE);
            self.refused(&attempt, UNRELATED, read.get(&join)).await;
        }
        let all = ListParams::default();
        self.may_not_list::<Secret>("list all Secrets", &all).await;
        self.may_not_list::<Pod>("list all pods", &all).await;
        let foreign = of_node(foreign);
        self.may_not_list::<Pod>("list the pods of another guest's Node", &foreign)
            .await;
    }

    /// The join data of a guest that has not joined. There is no host for its VM, so it never does.
    pub async fn reads_what_joins_another(&self, other: &User<'_>) {
        let spec = json!({
            "automountServiceAccountToken": false,
            "containers": [shell("main", "sleep 3600")],
        });
        let waits = other.creates("waits", Size("100m", "1Ti"), spec).await;
        let join = Credentials::of(other, &waits).await;
        for (what, namespace, secret) in [
            ("seed", names::VM_NAMESPACE, &join.seed),
            ("bootstrap token", names::TOKEN_NAMESPACE, &join.token),
        ] {
            let attempt = format!("read the {what} of a guest that has not joined");
            self.may_not_read::<Secret>(&attempt, UNRELATED, namespace, &secret.name_any())
                .await;
        }
        join.are_there().await;
        waits.ends().await.unwrap();
    }

    /// The guest is refused a change of a Node, which is afterwards as it was before.
    async fn may_not_change<T: Debug + Serialize>(
        &self,
        attempt: &str,
        says: &str,
        node: &str,
        answer: impl Future<Output = kube::Result<T>>,
    ) {
        let all: Api<Node> = Api::all(self.user.setup.env.admin.clone());
        let before = steady(&all.get(node).await.unwrap());
        self.refused(attempt, says, answer).await;
        let after = steady(&all.get(node).await.unwrap());
        assert_eq!(before, after, "{attempt}");
    }

    pub async fn changes_nodes(&self, foreign: &MaroonedPod) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let own = self.pod.node_name();
        let patch = PatchParams::default();
        let change = |body: Value| Patch::Strategic(body);
        // What every kubelet writes.
        let beat = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": BY_HAND});
        let beat = change(json!({"status": {"conditions": [beat]}}));
        let beaten = nodes.patch_status(&own, &patch, &beat).await.unwrap();
        assert!(json!(beaten.status).to_string().contains(BY_HAND), "{beaten:?}");

        let label = change(json!({"metadata": {"labels": {"example.com/gpu": "true"}}}));
        let says = "a marooned node cannot change its labels";
        let answer = nodes.patch(&own, &patch, &label);
        self.may_not_change("relabel its Node", says, &own, answer).await;
        let answer = nodes.patch_status(&own, &patch, &label);
        self.may_not_change("relabel it by way of its status", says, &own, answer)
            .await;
        let stolen = change(json!({"metadata": {"labels": {names::IDENTITY_LABEL: foreign.uid}}}));
        let says = "is not allowed to modify labels";
        let answer = nodes.patch(&own, &patch, &stolen);
        self.may_not_change("relabel its Node as another pod's", says, &own, answer)
            .await;
        let free = change(json!({"spec": {"taints": [{"$patch": "replace"}]}}));
        let says = "is not allowed to modify taints";
        let answer = nodes.patch(&own, &patch, &free);
        self.may_not_change("untaint its Node", says, &own, answer).await;
        let address = json!([{"type": "InternalIP", "address": "10.96.0.1"}]);
        let moved = change(json!({"status": {"addresses": address}}));
        let says = "a marooned node cannot change its addresses";
        let answer = nodes.patch_status(&own, &patch, &moved);
        self.may_not_change("set its Node's address", says, &own, answer)
            .await;
        let other = foreign.node_name();
        let answer = nodes.patch_status(&other, &patch, &beat);
        self.may_not_change("report for another guest's Node", "is forbidden", &other, answer)
            .await;
        let seen = foreign.nodes().get(&other).await.unwrap();
        assert!(!json!(seen.status).to_string().contains(BY_HAND), "{seen:?}");
        let delete = async { nodes.delete(&own, &DeleteParams::default()).await.map(drop) };
        self.may_not_change("delete its Node", "is forbidden", &own, delete)
            .await;
        let again: Node = serde_json::from_value(json!({"metadata": {"name": own}})).unwrap();
        let says = "the Node of a marooned pod is made and deleted by the reconciler";
        let (as_usual, created) = (PostParams::default(), "create its Node again");
        let answer = nodes.create(&as_usual, &again);
        self.may_not_change(created, says, &own, answer).await;
    }
}

/// What an attack on a Node would change, and what its kubelet and the cluster leave as it is.
fn steady(node: &Node) -> Value {
    let mut spec = json!(node.spec);
    if let Some(taints) = spec["taints"].as_array_mut() {
        // These come and go with the Node's conditions.
        taints.retain(|taint| {
            !taint["key"]
                .as_str()
                .unwrap_or_default()
                .starts_with("node.kubernetes.io/")
        });
    }
    let metadata = &node.metadata;
    json!({
        "uid": metadata.uid,
        "labels": metadata.labels,
        "annotations": metadata.annotations,
        "owners": metadata.owner_references,
        "finalizers": metadata.finalizers,
        "deleted": metadata.deletion_timestamp,
        "spec": spec,
        "addresses": node.status.as_ref().and_then(|status| status.addresses.as_ref()),
    })
}
