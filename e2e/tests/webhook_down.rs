//! While the webhook is away, pods that opted in are refused, all others are created, and those that run go on.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::{node, runs};
use maroonedpods_e2e::harness::fixtures::{labelled, marooned, ordinary};
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;

#[tokio::test(flavor = "multi_thread")]
async fn opted_in_creates_fail_closed_and_others_pass() {
    logs();
    let mut env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let (namespace, before) = {
        let tenant = Tenant::new(&env, None).await.unwrap();
        tenant.creates(&marooned("before")).await.unwrap();
        let before = tenant.sees_running("before").await.unwrap();
        (tenant.namespace().to_owned(), before)
    };
    env.stop_webhook().await.unwrap();
    {
        let plain = Tenant::new(&env, None).await.unwrap();
        let opted_in = Tenant::new(&env, Some(names::MAROON_TRUE)).await.unwrap();
        let enforced = Tenant::new(&env, Some(names::MAROON_ENFORCED)).await.unwrap();
        let out = labelled(ordinary("out"), names::MAROON_FALSE);
        for (tenant, pod, entry) in [
            (&plain, &marooned("in"), "pods.maroonedpods.io"),
            (&opted_in, &ordinary("in"), "namespaces.maroonedpods.io"),
            (&enforced, &out, "enforced.maroonedpods.io"),
        ] {
            let refused = tenant.pods.create(&PostParams::default(), pod).await.unwrap_err();
            let named = format!("failed calling webhook \"{entry}\"");
            assert!(refused.to_string().contains(&named), "{refused}");
        }
        plain.creates(&ordinary("plain")).await.unwrap();
        opted_in.creates(&out).await.unwrap();
        for (tenant, name) in [(&plain, "plain"), (&opted_in, "out")] {
            let pod = tenant.sees_running(name).await.unwrap();
            assert!(node(&pod).starts_with("host-"), "{pod:?}");
        }
        let running: Api<Pod> = Api::namespaced(plain.admin.clone(), &namespace);
        let now = running.get("before").await.unwrap();
        assert_eq!(now.uid(), before.uid());
        assert!(runs(&now) && now.metadata.deletion_timestamp.is_none(), "{now:?}");
    }
    env.restart_webhook().await.unwrap();
    {
        let tenant = Tenant::new(&env, None).await.unwrap();
        let (pods, draft) = (&tenant.pods, marooned("in"));
        // The API server may hold a connection to the webhook that was.
        eventually("creates to pass again", SOON, || async {
            Ok(Some(pods.create(&PostParams::default(), &draft).await?))
        })
        .await
        .unwrap();
        let pod = tenant.sees_running("in").await.unwrap();
        assert_eq!(node(&pod), names::node_name(&pod.uid().unwrap().into()));
        tenant.leaves().await.unwrap();
    }
    env.stop().await.unwrap();
}
