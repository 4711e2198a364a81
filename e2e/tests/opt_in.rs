//! Which pods are marooned, and that all others are left alone.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Pod, PodSchedulingGate, Toleration};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::check::{accepts, becomes, rejects};
use maroonedpods_e2e::drafts::{bears_our_mark, gates, labelled, marooned, node, ordinary, runs, spec};
use maroonedpods_e2e::install::{RECONCILER_ACCOUNT, SYSTEM_NAMESPACE};
use maroonedpods_e2e::logs::logs;
use maroonedpods_e2e::pods::SOON;
use maroonedpods_e2e::tenant::Tenant;
use serde_json::json;

const FOREIGN_GATE: &str = "example.com/quota";

fn gated(mut pod: Pod, gate: &str) -> Pod {
    let gate = PodSchedulingGate {
        name: gate.to_owned(),
    };
    pod.spec.as_mut().unwrap().scheduling_gates = Some(vec![gate]);
    pod
}

async fn is_served(tenant: &Tenant<'_>, name: &str) {
    let pod = tenant.sees_running(name).await.unwrap();
    assert_eq!(node(&pod), names::node_name(&pod.uid().unwrap()));
    let label = pod.labels().get(names::MAROON_LABEL).map(String::as_str);
    assert_eq!(label, Some(names::MAROON_TRUE));
}

/// It runs on a host, and neither the webhook nor the reconciler had a hand in it.
async fn is_left_alone(tenant: &Tenant<'_>, name: &str) {
    let pod = tenant.sees_running(name).await.unwrap();
    assert!(node(&pod).starts_with("host-"), "{pod:?}");
    assert!(!bears_our_mark(&pod), "{pod:?}");
    not_written_by_us(tenant, name);
}

/// Proves only what has been: callers wait first for something that the reconciler did later.
fn not_written_by_us(tenant: &Tenant<'_>, name: &str) {
    let reconciler = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{RECONCILER_ACCOUNT}");
    let written = tenant.world.plane().audit().unwrap().into_iter().filter(|event| {
        event.is_write()
            && event.user == reconciler
            && event.namespace == tenant.namespace()
            && event.name == name
    });
    assert_eq!(written.collect::<Vec<_>>(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_opts_its_pods_in_and_a_pod_may_opt_out() {
    logs();
    let tenant = Tenant::shared(Some(names::MAROON_TRUE)).await.unwrap();
    let out = labelled(ordinary("out"), names::MAROON_FALSE);
    tenant.creates(&out).await.unwrap();
    tenant.creates(&ordinary("in")).await.unwrap();
    is_served(&tenant, "in").await;
    is_left_alone(&tenant, "out").await;
    assert_eq!(tenant.records().await.unwrap().len(), 1);
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enforced_namespace_overrules_the_opt_out() {
    let tenant = Tenant::shared(Some(names::MAROON_ENFORCED)).await.unwrap();
    let out = labelled(ordinary("out"), names::MAROON_FALSE);
    tenant.creates(&out).await.unwrap();
    tenant.creates(&ordinary("silent")).await.unwrap();
    is_served(&tenant, "out").await;
    is_served(&tenant, "silent").await;
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_sets_pods_stay_on_the_hosts() {
    let tenant = Tenant::shared(Some(names::MAROON_TRUE)).await.unwrap();
    tenant.creates(&ordinary("in")).await.unwrap();
    is_served(&tenant, "in").await;
    let agent = json!({
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": spec()},
        },
    });
    tenant.applies::<DaemonSet>(agent).await.unwrap();
    let settled = |set: &DaemonSet| {
        let status = set.status.as_ref();
        status.is_some_and(|s| s.number_ready == 3 && s.desired_number_scheduled == 3)
    };
    becomes(&tenant.api(), "agent", "on three hosts", SOON, settled)
        .await
        .unwrap();
    let daemons = ListParams::default().labels("app=agent");
    for pod in tenant.pods.list(&daemons).await.unwrap() {
        is_left_alone(&tenant, &pod.name_any()).await;
    }
    assert_eq!(tenant.records().await.unwrap().len(), 1, "the bare pod's alone");
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_opt_in_is_never_touched() {
    let tenant = Tenant::shared(None).await.unwrap();
    let mut tolerant = ordinary("tolerant");
    // Marooned nodes, of other tests, are no place for it, whatever it tolerates.
    tolerant.spec.as_mut().unwrap().tolerations = Some(vec![Toleration {
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    }]);
    for pod in [&tolerant, &ordinary("plain")] {
        tenant.creates(pod).await.unwrap();
    }
    // The guards let no such pod come to be in a tenant's namespace.
    let excluded: Api<Pod> = Api::namespaced(tenant.admin.clone(), SYSTEM_NAMESPACE);
    let held = accepts(&excluded, &gated(ordinary("held"), names::GATE))
        .await
        .unwrap();
    // Whatever the reconciler would do to them, it would have begun before this one is served.
    tenant.creates(&marooned("later")).await.unwrap();
    is_served(&tenant, "later").await;

    is_left_alone(&tenant, "plain").await;
    is_left_alone(&tenant, "tolerant").await;
    assert_eq!(excluded.get("held").await.unwrap(), held);
    assert_eq!(tenant.records().await.unwrap().len(), 1);
    excluded.delete("held", &DeleteParams::default()).await.unwrap();
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preset_node_is_refused_with_advice() {
    let tenant = Tenant::shared(None).await.unwrap();
    let mut pod = marooned("preset");
    pod.spec.as_mut().unwrap().node_name = Some("host-1".to_owned());
    let message = rejects(&tenant.pods, &pod).await.unwrap();
    assert!(
        message.contains("a marooned pod runs on a node that is made for it: remove spec.nodeName"),
        "{message}"
    );
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_gate_is_waited_for() {
    let tenant = Tenant::shared(None).await.unwrap();
    tenant
        .creates(&gated(marooned("queued"), FOREIGN_GATE))
        .await
        .unwrap();
    let pod = tenant
        .sees_reason("queued", "WaitingForOtherGates")
        .await
        .unwrap();
    assert_eq!(gates(&pod), [FOREIGN_GATE, names::GATE]);
    assert_eq!(tenant.records().await.unwrap(), []);

    let admit = json!([
        {"op": "test", "path": "/spec/schedulingGates/0/name", "value": FOREIGN_GATE},
        {"op": "remove", "path": "/spec/schedulingGates/0"},
    ]);
    let admit = Patch::Json::<()>(serde_json::from_value(admit).unwrap());
    tenant
        .pods
        .patch("queued", &PatchParams::default(), &admit)
        .await
        .unwrap();
    is_served(&tenant, "queued").await;
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_brings_our_gate_is_completed_and_served() {
    let tenant = Tenant::shared(None).await.unwrap();
    let created = tenant
        .creates(&gated(marooned("ready-made"), names::GATE))
        .await
        .unwrap();
    assert_eq!(gates(&created), [names::GATE]);
    let selector = created.spec.unwrap().node_selector.unwrap();
    assert!(selector.contains_key(names::CLASS_LABEL), "{selector:?}");
    is_served(&tenant, "ready-made").await;
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_gate_and_leaves_nothing() {
    let tenant = Tenant::shared(None).await.unwrap();
    let label = format!("--labels={}={}", names::MAROON_LABEL, names::MAROON_TRUE);
    let (kubectl, namespace) = (tenant.world.plane(), tenant.namespace());
    let shown = kubectl
        .kubectl(&[
            "run",
            "dry",
            "--image=registry.example/app",
            &label,
            "--dry-run=server",
            "--namespace",
            namespace,
            "--output",
            "jsonpath={.spec.schedulingGates[*].name}",
        ])
        .await
        .unwrap();
    assert_eq!(shown, names::GATE);
    // What a dry run might set off would have begun before this pod is served.
    tenant.creates(&marooned("wet")).await.unwrap();
    is_served(&tenant, "wet").await;
    let records = tenant.records().await.unwrap();
    let served: Vec<_> = records.iter().map(|r| r.spec.pod_ref.name.as_str()).collect();
    assert_eq!(served, ["wet"]);
    let pods = tenant.sees(1, "running", runs).await.unwrap();
    assert_eq!(pods[0].name_any(), "wet");
    tenant.leaves().await.unwrap();
}
