//! Pods of higher priority preempt no pod on a marooned node, where they could never run.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::accepts;
use maroonedpods_e2e::api::read::{node, runs};
use maroonedpods_e2e::control_plane::audit::AuditEvent;
use maroonedpods_e2e::harness::fixtures::{marooned, ordinary, spec};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::fixtures::{dry_run, from};
use crate::table::Table;

const SCHEDULER: &str = "system:kube-scheduler";
const URGENT: &str = "urgent";
/// Without a guard, half of it is enough for ten victims.
const WATCHED: Duration = Duration::from_secs(20);

async fn urgent(tenant: &Tenant<'_>) {
    let class: PriorityClass = from(json!({"metadata": {"name": URGENT}, "value": 1000}));
    accepts(&Api::all(tenant.admin.clone()), &class).await.unwrap();
}

/// `spec` with a request for memory.
fn asking(memory: &str) -> Value {
    let mut spec = spec();
    spec["containers"][0]["resources"] = json!({"requests": {"memory": memory}});
    spec
}

/// The same for a pod that goes before all others and tolerates everything.
fn urgently(memory: &str) -> Value {
    let mut spec = asking(memory);
    spec["priorityClassName"] = json!(URGENT);
    spec["tolerations"] = json!([{"operator": "Exists"}]);
    spec
}

fn workload(name: &str, labels: &Value, spec: &Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_urgent_daemon_set_and_an_urgent_tenant_kill_no_marooned_pod() {
    logs();
    // Alone: the marooned nodes of other tests would be attacked too.
    let env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    urgent(&tenant).await;

    let ours = json!({"app": "victim", names::MAROON_LABEL: "true"});
    let set: Deployment = tenant
        .applies(workload("victim", &ours, &asking("600Mi")))
        .await
        .unwrap();
    assert_eq!(set.spec.unwrap().replicas, Some(1));
    let victim = tenant.sees(1, "running", runs).await.unwrap().remove(0);

    let agent = workload("agent", &json!({"app": "agent"}), &urgently("100Mi"));
    tenant.applies::<DaemonSet>(agent).await.unwrap();
    let mut tenants_own = urgently("100Mi");
    let class = json!([{"key": names::CLASS_LABEL, "operator": "Exists"}]);
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": class}]});
    tenants_own["affinity"] =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    let own: Pod = from(json!({"metadata": {"name": "own"}, "spec": tenants_own}));
    tenant.creates(&own).await.unwrap();
    tenant
        .sees(4, "running: the victim and an agent on each host", runs)
        .await
        .unwrap();

    let since = jiff::Timestamp::now();
    sleep(WATCHED).await;
    let now = tenant.pods.get(&victim.name_any()).await.unwrap();
    assert_eq!(now.uid(), victim.uid(), "the replica was replaced");
    assert!(runs(&now) && now.metadata.deletion_timestamp.is_none());
    assert_eq!(tenant.records().await.unwrap().len(), 1, "one VM");
    let stuck = tenant
        .sees(2, "kept off", |pod| node(pod).is_empty())
        .await
        .unwrap();
    let mut names: Vec<_> = stuck.iter().map(ResourceExt::name_any).collect();
    names.sort();
    assert!(names[0].starts_with("agent-") && names[1] == "own", "{names:?}");

    // What is refused is not asked for all the time.
    let tried = |event: &&AuditEvent| event.user == SCHEDULER && event.is_write() && event.received >= since;
    let audit = env.control_plane().audit().unwrap();
    let tries = audit.iter().filter(tried).count();
    assert!(
        tries < 60,
        "the scheduler wrote {tries} times in {} s: {:#?}",
        WATCHED.as_secs(),
        audit.iter().filter(tried).take(20).collect::<Vec<_>>()
    );
    drop(tenant);
    env.stop().await.unwrap();
}

/// What a scheduler would do to make room, tried by hand: by the cluster's own, by one of another name, by a user.
#[tokio::test(flavor = "multi_thread")]
async fn no_scheduler_makes_room_on_a_marooned_node() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    let control_plane = tenant.env.control_plane();
    tenant.creates(&marooned("victim")).await.unwrap();
    tenant.creates(&ordinary("twin")).await.unwrap();
    // The API server takes nominations of pods that are not bound.
    let mut unbound = ordinary("unbound");
    unbound.spec.as_mut().unwrap().scheduler_name = Some("tenants-own".to_owned());
    tenant.creates(&unbound).await.unwrap();
    let victim = tenant.sees_running("victim").await.unwrap();
    tenant.sees_running("twin").await.unwrap();
    let namespace = tenant.namespace();
    let user = |name: &'static str, group: &'static str| async move {
        let client = control_plane.user(name, group).await.unwrap();
        Api::<Pod>::namespaced(client, namespace)
    };
    let scheduler = user(SCHEDULER, SCHEDULER).await;
    let other = user("another-scheduler", "system:masters").await;
    let tried = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let status = |status: Value| Patch::Strategic(json!({"status": status}));
    let disrupted = |reason: &str| {
        status(json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]}))
    };
    let preempted = disrupted("PreemptionByScheduler");

    let mut table = Table::of("schedulers");
    for pod in ["victim", "unbound"] {
        table.aims_at(&tenant.pods, pod);
    }
    table.settles().await;
    let says = "a marooned pod is not preempted";
    for (attempt, pods) in [
        (
            "preempt a marooned pod (the condition DisruptionTarget)",
            &scheduler,
        ),
        ("… as a scheduler of another name", &other),
    ] {
        let attack = pods.patch_status("victim", &tried, &preempted);
        table
            .refuses(
                attempt,
                says,
                attack,
                pods.patch_status("twin", &tried, &preempted),
            )
            .await;
    }
    let gone = DeleteParams {
        dry_run: true,
        ..DeleteParams::default()
    };
    table
        .refuses(
            "… by deleting it, as the cluster's scheduler",
            says,
            scheduler.delete("victim", &gone),
            scheduler.delete("twin", &gone),
        )
        .await;
    let own_node = names::node_name(&victim.uid().unwrap().into());
    let nominated = |node: &str| status(json!({"nominatedNodeName": node}));
    let (ours, hosts) = (nominated(&own_node), nominated("host-1"));
    table
        .refuses(
            "nominate a foreign pod to a marooned node",
            "do not nominate another to it",
            other.patch_status("unbound", &tried, &ours),
            other.patch_status("unbound", &tried, &hosts),
        )
        .await;
    table.print();

    // All others go on as ever.
    other.delete("victim", &gone).await.unwrap();
    let evict = EvictParams {
        delete_options: Some(gone),
        post_options: dry_run(),
    };
    other.evict("victim", &evict).await.unwrap();
    for reason in [
        "EvictionByEvictionAPI",
        "DeletionByTaintManager",
        "TerminationByKubelet",
    ] {
        other
            .patch_status("victim", &tried, &disrupted(reason))
            .await
            .unwrap();
    }
    scheduler.patch_status("unbound", &tried, &ours).await.unwrap();
    tenant.leaves().await.unwrap();
}
