//! The guest's pod, by way of its status.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use maroonedpods_common::names;
use serde_json::{Value, json};

use super::breached::Guest;
use crate::table::Table;

const METADATA: &str = "a marooned node cannot change its pod's metadata";
const CONDITIONS: &str = "a marooned node cannot change conditions of its pod that are not a kubelet's";
const ADDRESSES: &str = "a marooned node reports its own address only";

impl Guest {
    async fn tell(&self, body: Value) -> kube::Result<Pod> {
        let pods = self.api_in::<Pod>(&self.namespace.name);
        pods.patch_status("pod", &PatchParams::default(), &Patch::Merge(body))
            .await
    }

    /// The status patch that every kubelet sends for its pod: the difference of two versions, with all of its own conditions.
    async fn reports(&self) -> kube::Result<Pod> {
        let pods = self.api_in::<Pod>(&self.namespace.name);
        let (seen, address) = (pods.get("pod").await?, self.address().await);
        let conditions = [
            ("Initialized", "True"),
            ("PodReadyToStartContainers", "True"),
            ("ContainersReady", "False"),
            ("Ready", "False"),
        ];
        let conditions = conditions
            .map(|(type_, status)| json!({"type": type_, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}));
        let body = json!({
            "metadata": {"uid": seen.metadata.uid},
            "status": {
                "nominatedNodeName": null, "phase": "Running", "startTime": "2026-01-01T00:00:00Z", "qosClass": "BestEffort",
                "hostIP": address, "hostIPs": [{"ip": address}], "podIP": address, "podIPs": [{"ip": address}],
                "conditions": conditions,
                "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
            },
        });
        pods.patch_status("pod", &PatchParams::default(), &Patch::Strategic(body))
            .await
    }

    /// The address that the reconciler gave to its Node.
    async fn address(&self) -> String {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let addresses = nodes
            .get(&self.node())
            .await
            .unwrap()
            .status
            .unwrap()
            .addresses
            .unwrap();
        let internal = addresses.into_iter().find(|a| a.type_ == "InternalIP");
        internal.unwrap().address
    }
}

pub async fn changes_its_pod(table: &mut Table, guest: &Guest) {
    let own = guest.address().await;
    let foreign = "10.96.0.1";
    for (attempt, says, body) in [
        (
            "keep its pod by a finalizer",
            METADATA,
            json!({"metadata": {"finalizers": ["example.com/stay"]}}),
        ),
        (
            "annotate its pod",
            METADATA,
            json!({"metadata": {"annotations": {"example.com/colour": "blue"}}}),
        ),
        // Two guards refuse this, and the API server quotes either.
        (
            "give its pod another address to report",
            "denied request: ",
            json!({"metadata": {"annotations": {names::ADDRESS_ANNOTATION: foreign}}}),
        ),
        (
            "relabel its pod",
            "cannot update labels through pod status",
            json!({"metadata": {"labels": {"app": "victim"}}}),
        ),
        (
            "report a foreign address as its pod's",
            ADDRESSES,
            json!({"status": {"podIP": foreign, "podIPs": [{"ip": foreign}]}}),
        ),
        (
            "report a second address beside its pod's",
            ADDRESSES,
            json!({"status": {"podIPs": [{"ip": own}, {"ip": "2001:db8::1"}]}}),
        ),
        (
            "report a foreign address as its host's",
            ADDRESSES,
            json!({"status": {"hostIP": foreign, "hostIPs": [{"ip": foreign}]}}),
        ),
        (
            "nominate its pod for another node",
            "may not be set on pods that are already bound",
            json!({"status": {"nominatedNodeName": "host-1"}}),
        ),
    ] {
        table
            .refuses(attempt, says, guest.tell(body), guest.reports())
            .await;
    }
    says_what_others_say(table, guest).await;

    let pods = guest.api_in::<Pod>(&guest.namespace.name);
    let same = pods.get("pod").await.unwrap();
    let mut kept = same.clone();
    kept.metadata.finalizers = Some(vec!["example.com/stay".to_owned()]);
    let params = PostParams::default();
    table
        .refuses(
            "keep its pod by an update of the whole status",
            METADATA,
            pods.replace_status("pod", &params, &kept),
            pods.replace_status("pod", &params, &same),
        )
        .await;
}

/// Conditions that are not a kubelet's: ours, and that of a readiness gate.
async fn says_what_others_say(table: &mut Table, guest: &Guest) {
    let ours = names::NODE_READY_CONDITION;
    let patched = |condition: Value| {
        let pods = guest.api_in::<Pod>(&guest.namespace.name);
        async move {
            let body = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
            pods.patch_status("pod", &PatchParams::default(), &body).await
        }
    };
    for (attempt, condition) in [
        (
            "flip the condition NodeReady",
            json!({"type": ours, "status": "False"}),
        ),
        ("reword it", json!({"type": ours, "reason": "Mine"})),
        ("drop it", json!({"type": ours, "$patch": "delete"})),
        (
            "say what a readiness gate waits for",
            json!({"type": "example.com/serves", "status": "True"}),
        ),
    ] {
        table
            .refuses(attempt, CONDITIONS, patched(condition), guest.reports())
            .await;
    }
}
