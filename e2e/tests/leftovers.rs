//! What a lost record leaves behind is found and removed; what only looks like it stays.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually};
use maroonedpods_e2e::api::leftovers::nothing_left_of;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::install::config;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Takes the owner off an object, so that garbage collection does not take them before we can.
async fn disown<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let disowned = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    api.patch(name, &PatchParams::default(), &disowned).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_and_look_alikes_stay() {
    let env = TestEnv::start(0).await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    let nodes: Api<Node> = Api::all(admin.clone());
    let tokens: Api<Secret> = Api::namespaced(admin.clone(), names::TOKEN_NAMESPACE);
    let seeds: Api<Secret> = Api::namespaced(admin.clone(), names::VM_NAMESPACE);

    // Real objects of a real attempt, whose record and pod then vanish behind the reconciler's back.
    let reconciler = env.reconciler(false).await.unwrap();
    let held = Script {
        never_joins: true,
        ..Script::default()
    };
    let pod = MaroonedPod::create(&admin, &namespace.name, "pod", &held)
        .await
        .unwrap();
    // The last thing that is made for it.
    becomes(&nodes, &pod.node_name(), "there", SOON, |_: &Node| true)
        .await
        .unwrap();
    drop(reconciler);
    let ours = ListParams::default().labels(&format!("{}={}", names::POD_UID_LABEL, pod.uid));
    for secrets in [&tokens, &seeds] {
        let found = secrets.list(&ours).await.unwrap().items;
        assert_eq!(found.len(), 1);
        disown(secrets, &found[0].name_any()).await;
    }
    disown(&nodes, &pod.node_name()).await;
    disown(&pod.vmis(), &pod.node_name()).await;
    pod.delete().await.unwrap();
    let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pod.records()
        .patch(&pod.node_name(), &PatchParams::default(), &released)
        .await
        .unwrap();
    pod.records()
        .delete(&pod.node_name(), &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(
        nothing_left_of(&admin, &pod.uid).await.unwrap().len(),
        4,
        "VMI, Node and two Secrets"
    );

    let ordinary = serde_json::from_value(json!({"metadata": {"name": "worker-1"}})).unwrap();
    let unmarked =
        serde_json::from_value(json!({"metadata": {"name": names::node_name(&flipped(&pod.uid).into())}}))
            .unwrap();
    for node in [&ordinary, &unmarked] {
        accepts(&nodes, node).await.unwrap();
    }
    let kubeadm = serde_json::from_value(json!({
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef"},
    }));
    let kubeadm = accepts(&tokens, &kubeadm.unwrap()).await.unwrap();
    let other = serde_json::from_value(json!({"metadata": {"name": "pull-secret"}})).unwrap();
    let other = accepts(&seeds, &other).await.unwrap();

    let reconciler = env.reconciler(false).await.unwrap();
    // A Node goes with the sweep after the one that finds its VM gone.
    eventually("the orphans to be gone", SOON * 3, || async {
        let left = nothing_left_of(&admin, &pod.uid).await?;
        anyhow::ensure!(left.is_empty(), "left: {}", left.join(", "));
        Ok(Some(()))
    })
    .await
    .unwrap();
    for kind in ["vmi", "node", "join_secret", "token"] {
        let metric = format!("maroonedpods_orphans_deleted_total{{kind=\"{kind}\"}}");
        eventually(&metric, SOON, || async {
            Ok((reconciler.metric(&metric).await?.to_string() == "1").then_some(()))
        })
        .await
        .unwrap();
    }
    nodes.get(&Node::name_any(&ordinary)).await.unwrap();
    nodes.get(&Node::name_any(&unmarked)).await.unwrap();
    assert_eq!(
        tokens.get(&kubeadm.name_any()).await.unwrap().uid(),
        kubeadm.uid()
    );
    assert_eq!(seeds.get(&other.name_any()).await.unwrap().uid(), other.uid());
}

/// A name proves nothing: a client that may create Secrets there may use one of our names.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_alike_of_a_credential_is_not_revoked() {
    let tenant = Tenant::shared(None).await.unwrap();
    let seeds: Api<Secret> = Api::namespaced(tenant.admin.clone(), names::VM_NAMESPACE);
    let patient = json!({"deadlines": {"boot": "1m", "join": "1m"}});
    config::change(&tenant.admin, &patient).await.unwrap();
    let slow = Script {
        join_delay: 6.0,
        ..Script::default()
    };
    let pod = MaroonedPod::create(&tenant.admin, tenant.namespace(), "pod", &slow)
        .await
        .unwrap();
    pod.vmi(1, "Running").await.unwrap();
    // The guest has read its own. Garbage collection has nothing to do with the other, which has no owner.
    let name = names::join_secret_name(&pod.uid.as_str().into(), 1);
    seeds.delete(&name, &DeleteParams::default()).await.unwrap();
    let stranger = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let stranger = accepts(&seeds, &stranger).await.unwrap();
    pod.running().await.unwrap();
    assert_eq!(seeds.get(&name).await.unwrap().uid(), stranger.uid());
    seeds.delete(&name, &DeleteParams::default()).await.unwrap();
    pod.ends().await.unwrap();
    tenant.leaves().await.unwrap();
}

/// Another UID of the same form.
fn flipped(uid: &str) -> String {
    uid.chars().rev().collect::<String>().replace('-', "0")
}
