//! What a VM joins with, from its creation until it has been used: nothing of it is left while the pod runs.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually, gone};
use maroonedpods_e2e::api::read::phase;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::install::{RECONCILER_ACCOUNT, SYSTEM_NAMESPACE};
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_reconciler::token_id;

#[tokio::test(flavor = "multi_thread")]
async fn token_and_seed_exist_until_the_node_has_joined_and_are_gone_while_its_pod_runs() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    // Time to look at both before they are used.
    let late = Script {
        join_delay: 2.0,
        ..Script::default()
    };
    let pod = MaroonedPod::create(&tenant.admin, tenant.namespace(), "late", &late)
        .await
        .unwrap();
    let record = pod.record("there", |_| true).await.unwrap();
    let secrets = |namespace| Api::<Secret>::namespaced(tenant.admin.clone(), namespace);
    let credentials = [
        (
            names::TOKEN_NAMESPACE,
            format!("bootstrap-token-{}", token_id(&record, 1)),
        ),
        (names::VM_NAMESPACE, format!("marooned-{}-join", pod.uid)),
    ];
    for (namespace, name) in &credentials {
        becomes(&secrets(namespace), name, "there", SOON, |_| true)
            .await
            .unwrap();
    }

    pod.running().await.unwrap();
    for (namespace, name) in &credentials {
        gone(&secrets(namespace), name, SOON).await.unwrap();
    }
    let still = pod.pods.get(&pod.name).await.unwrap();
    assert_eq!(phase(&still), "Running");
    assert_eq!(still.metadata.deletion_timestamp, None);

    // The reconciler found them, rather than having asked for what was never there.
    let reconciler = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{RECONCILER_ACCOUNT}");
    for (namespace, name) in &credentials {
        let what = format!("the deletion of {name} in the audit log");
        eventually(&what, SOON, || async {
            let log = tenant.env.control_plane().audit()?;
            let deleted = log.iter().any(|event| {
                let of_secret = event.verb == "delete" && event.resource == "secrets" && event.name == *name;
                of_secret && event.namespace == *namespace && event.user == reconciler && event.code == 200
            });
            Ok(deleted.then_some(()))
        })
        .await
        .unwrap();
    }
    pod.ends().await.unwrap();
    tenant.leaves().await.unwrap();
}
