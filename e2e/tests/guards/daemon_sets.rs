//! `DaemonSet`s: one that tolerates every taint counts marooned nodes as its own, which they are not, and its other pods
//! are fine; and one in a namespace where, since, no pod may opt out.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually, refused};
use maroonedpods_e2e::api::read::{node, runs};
use maroonedpods_e2e::harness::fixtures::{daemon_set, marooned, spec};
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

use crate::placement::binding_refused;

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_that_tolerates_everything_is_well_on_the_hosts() {
    logs();
    // Alone: the marooned nodes of other tests would be counted.
    let env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    for name in ["one", "two"] {
        tenant.creates(&marooned(name)).await.unwrap();
        tenant.sees_running(name).await.unwrap();
    }
    let mut template = spec();
    template["tolerations"] = json!([{"operator": "Exists"}]);
    let agent = json!({
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": template},
        },
    });
    tenant.applies::<DaemonSet>(agent).await.unwrap();
    let sets: Api<DaemonSet> = tenant.api();
    let counts = |desired: i32| {
        move |set: &DaemonSet| {
            let status = set.status.clone().unwrap_or_default();
            status.number_ready == 3 && status.desired_number_scheduled == desired
        }
    };
    becomes(&sets, "agent", "3 of 5 ready", SOON, counts(5))
        .await
        .unwrap();
    let events: Api<Event> = tenant.api();
    let stuck = tenant
        .sees(2, "kept off", |pod| node(pod).is_empty())
        .await
        .unwrap();
    let name = stuck[0].metadata.name.clone().unwrap();
    let message = binding_refused(&events, &name).await;
    assert!(message.contains("a required node affinity"), "{message}");

    // The remedy that the message names.
    let off = json!([{"key": names::CLASS_LABEL, "operator": "DoesNotExist"}]);
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": off}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"affinity": affinity}}}}));
    sets.patch("agent", &PatchParams::default(), &patch)
        .await
        .unwrap();
    becomes(&sets, "agent", "3 of 3 ready", SOON, counts(3))
        .await
        .unwrap();
    tenant.sees(5, "running", runs).await.unwrap();
    drop(tenant);
    env.stop().await.unwrap();
}

/// Its controller writes its status, and users what is not its spec; a pod that is lost is made again.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_from_before_its_namespace_was_enforced_continues() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    tenant.applies::<DaemonSet>(daemon_set()).await.unwrap();
    let sets: Api<DaemonSet> = tenant.api();
    let ready = |set: &DaemonSet| set.status.as_ref().is_some_and(|status| status.number_ready == 3);
    becomes(&sets, "agent", "3 ready", SOON, ready).await.unwrap();

    let params = PatchParams::default();
    let enforce = json!({"metadata": {"labels": {"maroonedpods.io/maroon": "enforced"}}});
    Api::<Namespace>::all(tenant.admin.clone())
        .patch(tenant.namespace(), &params, &Patch::Merge(enforce))
        .await
        .unwrap();
    let change = Patch::Merge(json!({"spec": {"minReadySeconds": 1}}));
    let dry_run = PatchParams::default().dry_run();
    let message = eventually("the label to be known", SOON, || async {
        Ok(refused(sets.patch("agent", &dry_run, &change).await).ok())
    })
    .await
    .unwrap();
    assert!(
        message.contains("a DaemonSet's pods are never marooned"),
        "{message}"
    );

    let label = Patch::Merge(json!({"metadata": {"labels": {"example.com/team": "a"}}}));
    sets.patch("agent", &params, &label).await.unwrap();
    // A user's error in its status, which its controller makes good.
    let error = Patch::Merge(json!({"status": {"numberMisscheduled": 7}}));
    let set = sets.patch_status("agent", &params, &error).await.unwrap();
    assert_eq!(set.status.unwrap().number_misscheduled, 7);
    let misscheduled = |set: &DaemonSet| set.status.as_ref().map(|status| status.number_misscheduled);
    let corrected = |set: &DaemonSet| misscheduled(set) == Some(0);
    becomes(&sets, "agent", "corrected", SOON, corrected)
        .await
        .unwrap();

    let pods = tenant.sees(3, "running", runs).await.unwrap();
    let lost = pods[0].name_any();
    let condition = json!({"type": "example.com/Seen", "status": "True"});
    let seen = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    let pod = tenant.pods.patch_status(&lost, &params, &seen).await.unwrap();
    let mut conditions = pod.status.unwrap().conditions.unwrap_or_default();
    conditions.retain(|condition| condition.type_ == "example.com/Seen");
    assert_eq!(conditions.len(), 1);
    tenant.pods.delete(&lost, &DeleteParams::default()).await.unwrap();
    let others = |pod: &Pod| runs(pod) && pod.name_any() != lost;
    tenant.sees(3, "running, one of them new", others).await.unwrap();
    tenant.leaves().await.unwrap();
}
