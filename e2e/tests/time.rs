//! Delays that are longer than a controller waits or a certificate lasts.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::api::{MaroonedPodsConfig, MaroonedPodsConfigSpec};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually, gone};
use maroonedpods_e2e::api::read::{phase, report};
use maroonedpods_e2e::control_plane::ControlPlaneOptions;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::fake_kubevirt::{Ask, GuestEvent};
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON, pod};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;
use rcgen::KeyPair;
use serde_json::json;

/// How long each certificate lasts that the cluster signs.
const LIFETIME: Duration = Duration::from_secs(45);

fn config(server_url: &str) -> anyhow::Result<MaroonedPodsConfigSpec> {
    Ok(serde_json::from_value(json!({
        "nodeImage": "registry.example/marooned-node@sha256:0000",
        "join": {"serverURL": server_url},
        "deadlines": {"boot": "30s", "join": "60s", "finishedPodTTL": "3s"},
        "maxAttempts": 1,
    }))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_patience_of_others() {
    logs();
    let options = ControlPlaneOptions {
        controller_manager_flags: vec![
            "--node-startup-grace-period=3s".to_owned(),
            format!("--cluster-signing-duration={}s", LIFETIME.as_secs()),
        ],
        ..ControlPlaneOptions::default()
    };
    let env = TestEnv::start_on(options, 0, config).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    tokio::join!(
        a_slow_boot_does_not_evict_the_pod(&env),
        a_pod_outlives_its_kubelets_certificate(&env),
        a_rejected_pods_owner_backs_off(&env),
    );
    another_configuration_is_tried_at_once(&env).await;
    env.stop().await.unwrap();
}

/// The node controller taints a Node whose VM boots for long, and takes its taint off seconds after the Node is ready.
async fn a_slow_boot_does_not_evict_the_pod(env: &TestEnv) {
    let tenant = Tenant::new(env, None).await.unwrap();
    let script = Script {
        join_delay: 12.0,
        ..Script::default()
    };
    let mut brief = pod("brief", &script).unwrap();
    let tolerations = ["not-ready", "unreachable"].map(|key| {
        json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 1})
    });
    brief.spec.as_mut().unwrap().tolerations = Some(serde_json::from_value(json!(tolerations)).unwrap());
    let brief = MaroonedPod::create_pod(&tenant.admin, tenant.namespace(), &brief)
        .await
        .unwrap();
    let evicts = |node: &Node| {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        taints
            .into_iter()
            .any(|taint| taint.key.starts_with("node.kubernetes.io/") && taint.effect == "NoExecute")
    };
    becomes(&brief.nodes(), &brief.node_name(), "tainted", SOON, evicts)
        .await
        .unwrap();
    brief.running().await.unwrap();
    assert!(!evicts(&brief.nodes().get(&brief.node_name()).await.unwrap()));
    tokio::time::sleep(Duration::from_secs(7)).await;
    let runs = brief.running().await.unwrap();
    assert_eq!(runs.metadata.deletion_timestamp, None);
    let events = tenant.api::<Event>().list(&ListParams::default()).await.unwrap();
    let evictions: Vec<_> = events
        .iter()
        .filter(|e| e.reason.as_deref() == Some("TaintManagerEviction"))
        .collect();
    assert!(evictions.is_empty(), "{evictions:?}");

    let stolen = env
        .kubevirt()
        .guests()
        .stolen_credentials(&brief.node_name())
        .unwrap();
    brief.ends().await.unwrap();
    no_one_renews_what_is_over(env, &brief, &stolen.identity).await;
    tenant.leaves().await.unwrap();
}

/// A certificate outlives its Node, and with it the right to ask. No one else answers, and the request is deleted.
async fn no_one_renews_what_is_over(
    env: &TestEnv,
    pod: &MaroonedPod,
    stolen: &maroonedpods_e2e::system::pki::Pair,
) {
    let thief: Api<CertificateSigningRequest> =
        Api::all(env.control_plane().certified(stolen).await.unwrap());
    let ask = Ask::client(&pod.node_name(), &[])
        .request(&KeyPair::generate().unwrap())
        .unwrap();
    let csrs: Api<CertificateSigningRequest> = Api::all(env.control_plane().admin().await.unwrap());
    let approval = Patch::Strategic(json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "AutoApproved", "message": "Auto approving"}]}}));
    // An approver may come too late for one that is taken away; never is it let through.
    eventually("an approval that is refused", SOON, || async {
        let filed = thief.create(&PostParams::default(), &ask).await?;
        let approved = csrs
            .patch_subresource("approval", &filed.name_any(), &PatchParams::default(), &approval)
            .await;
        let Err(kube::Error::Api(refused)) = approved else {
            panic!("approved by another than the reconciler: {approved:?}")
        };
        let by_guard = refused.message.contains("approved by the reconciler only");
        assert!(by_guard || refused.code == 404, "{}", refused.message);
        gone(&csrs, &filed.name_any(), SOON).await?;
        Ok(by_guard.then_some(()))
    })
    .await
    .unwrap();
}

async fn a_pod_outlives_its_kubelets_certificate(env: &TestEnv) {
    let tenant = Tenant::new(env, None).await.unwrap();
    let script = Script {
        renews_at: Some(20.0),
        ..Script::default()
    };
    let pod = MaroonedPod::create(&tenant.admin, tenant.namespace(), "lasts", &script)
        .await
        .unwrap();
    pod.running().await.unwrap();
    let joined = Instant::now();
    let guests = env.kubevirt().guests();
    eventually("a new certificate", SOON, || async {
        Ok(guests
            .of(&pod.node_name())
            .contains(&GuestEvent::Renewed)
            .then_some(()))
    })
    .await
    .unwrap();
    tokio::time::sleep((LIFETIME + Duration::from_secs(5)).saturating_sub(joined.elapsed())).await;
    // With the first certificate alone the kubelet could not confirm it, and grace and margin would pass.
    let deleted = Instant::now();
    pod.ends().await.unwrap();
    assert!(
        deleted.elapsed() < Duration::from_secs(30),
        "{:?}",
        deleted.elapsed()
    );
    let denied = |event: &GuestEvent| {
        matches!(
            event,
            GuestEvent::ClientRequestDenied(_) | GuestEvent::Forbidden { .. }
        )
    };
    let log = guests.of(&pod.node_name());
    assert!(!log.iter().any(denied), "{log:?}");
    tenant.leaves().await.unwrap();
}

async fn a_rejected_pods_owner_backs_off(env: &TestEnv) {
    let tenant = Tenant::new(env, None).await.unwrap();
    let script = Script {
        rejects: Some("SysctlForbidden".to_owned()),
        ..Script::default()
    };
    let template = pod("web", &script).unwrap();
    let web = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": template.metadata.labels, "annotations": template.metadata.annotations},
            "spec": template.spec}}});
    tenant.applies::<Deployment>(web).await.unwrap();
    let waits = |pod: &Pod| {
        let (why, what) = report(pod);
        why == "BackingOff" && what.contains("SysctlForbidden")
    };
    let waiting = tenant.sees(1, "backing off", waits).await.unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    let records = tenant.records().await.unwrap();
    assert!(
        records
            .iter()
            .all(|record| Some(record.spec.pod_ref.uid.as_str()) != waiting[0].metadata.uid.as_deref())
    );
    let failed = tenant.pods.list(&ListParams::default()).await.unwrap();
    let failed = failed.iter().filter(|pod| phase(pod) == "Failed").count();
    assert!(failed <= 1, "{failed} VMs for one pod that no kubelet takes");
    let deployments = tenant.api::<Deployment>();
    deployments
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    tenant.leaves().await.unwrap();
}

async fn another_configuration_is_tried_at_once(env: &TestEnv) {
    let tenant = Tenant::new(env, None).await.unwrap();
    let configs: Api<MaroonedPodsConfig> = Api::all(tenant.admin.clone());
    let patient = |boot: &str| Patch::Merge(json!({"spec": {"deadlines": {"boot": boot}}}));
    configs
        .patch(names::CONFIG_NAME, &PatchParams::default(), &patient("2s"))
        .await
        .unwrap();
    let script = Script {
        boot_delay: 5.0,
        ..Script::default()
    };
    let pod = MaroonedPod::create(&tenant.admin, tenant.namespace(), "stranded", &script)
        .await
        .unwrap();
    let message = pod.reports("AttemptsExhausted").await.unwrap();
    assert!(message.contains("; the next is made at 20"), "{message}");
    configs
        .patch(names::CONFIG_NAME, &PatchParams::default(), &patient("30s"))
        .await
        .unwrap();
    pod.running().await.unwrap();
    pod.ends().await.unwrap();
    tenant.leaves().await.unwrap();
}
