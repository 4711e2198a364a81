//! Pods of other users, and other controllers, notice as little as possible of marooned Nodes.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, ResourceQuota, Secret};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually, gone, refused};
use maroonedpods_e2e::api::leftovers::nothing_left_of;
use maroonedpods_e2e::api::read::{node, runs};
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::{marooned, marooned_with, ordinary, spec, with_spec};
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON, pod};
use maroonedpods_e2e::harness::tenant::{Tenant, ZONE};
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::system::logs::logs;
use serde_json::{Value, json};

const HOSTNAME: &str = "kubernetes.io/hostname";
/// Grace of the node controller in these tests, its own rhythm of 5 s, and the pod's second, with room for a busy
/// machine; by far less than what a wait behind eight other Nodes takes, 10 s each.
const EVICTED_WITHIN: Duration = Duration::from_secs(50);

fn over_hosts(labels: &Value) -> Value {
    json!([{"maxSkew": 1, "topologyKey": HOSTNAME, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels}}])
}

fn deployment(name: &str, replicas: u32, maroon: &str) -> Value {
    let labels = json!({"app": name});
    let mut pod = json!({"metadata": {"labels": labels}, "spec": spec()});
    pod["metadata"]["labels"][names::MAROON_LABEL] = json!(maroon);
    pod["spec"]["topologySpreadConstraints"] = over_hosts(&labels);
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels}, "template": pod}})
}

fn of(name: &'static str) -> impl Fn(&Pod) -> bool {
    move |pod| pod.labels().get("app").map(String::as_str) == Some(name) && runs(pod)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_rollout_over_hosts_does_not_wait_for_marooned_nodes() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    tenant.creates(&marooned("bystander")).await.unwrap();
    tenant.sees_running("bystander").await.unwrap();
    tenant
        .applies::<Deployment>(deployment("web", 3, "false"))
        .await
        .unwrap();
    tenant.sees(3, "running", of("web")).await.unwrap();
    let six = Patch::Merge(json!({"spec": {"replicas": 6}}));
    let deployments: Api<Deployment> = tenant.api();
    deployments
        .patch("web", &PatchParams::default(), &six)
        .await
        .unwrap();
    let pods = tenant.sees(6, "running", of("web")).await.unwrap();
    assert!(pods.iter().all(|pod| node(pod).starts_with("host-")));
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn marooned_pods_that_require_hosts_of_their_own_or_in_common_run() {
    let tenant = Tenant::shared(None).await.unwrap();
    tenant
        .applies::<Deployment>(deployment("apart", 3, "true"))
        .await
        .unwrap();
    let zones = json!({"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "both"}}});
    let both = json!({
        "topologySpreadConstraints": [over_hosts(&json!({"app": "both"}))[0], zones],
        "nodeSelector": {"kubernetes.io/os": "linux"},
    });
    let together = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": {"app": "together"}}}]}}});
    for (name, spec) in [("both", both), ("together", together)] {
        tenant.creates(&marooned_with(name, &spec)).await.unwrap();
    }
    for pod in tenant.sees(5, "running", runs).await.unwrap() {
        assert_eq!(node(&pod), names::node_name(&pod.uid().unwrap().into()));
    }
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reconciler_binds_a_pod_to_its_own_node_and_no_other() {
    let tenant = Tenant::shared(None).await.unwrap();
    let identity = tenant.env.reconciler_identity().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(identity.client, tenant.namespace());
    let mut wanted = ordinary("stranger");
    wanted.spec.as_mut().unwrap().scheduler_name = Some("none".to_owned());
    let stranger = tenant.creates(&wanted).await.unwrap();
    let binding = json!({"metadata": {"name": "stranger", "uid": stranger.uid()},
        "target": {"kind": "Node", "name": "host-1"}});
    let answer = pods
        .create_subresource::<_, Value>("binding", "stranger", &kube::api::PostParams::default(), &binding)
        .await;
    let said = refused(answer).unwrap();
    assert!(said.contains("maroonedpods-binding"), "{said}");
    tenant.leaves().await.unwrap();
}

async fn zone_becomes(nodes: &Api<Node>, name: &str, zone: Option<&str>) {
    let says = |node: &Node| node.labels().get(ZONE).map(String::as_str) == zone;
    becomes(nodes, name, &format!("zone {zone:?}"), SOON, says)
        .await
        .unwrap();
}

/// One scenario after the other: each changes what the whole cluster does.
#[tokio::test(flavor = "multi_thread")]
async fn controllers_of_the_whole_cluster_go_on() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let patient = json!({"deadlines": {"boot": "10m", "join": "10m"}, "vm": {"priorityClasses": ["gold"]}});
    let changed = config::change(&tenant.admin, &patient).await.unwrap();
    config::seen(&tenant.admin, &changed).await.unwrap();
    a_refused_vm_leaves_no_node_and_no_secret(&tenant).await;
    a_pods_priority_is_its_vms(&tenant).await;
    a_node_says_what_its_vms_host_says(&tenant).await;
    node_ranges_are_allocated(&tenant).await;
    booting_vms_hold_up_no_eviction(&tenant).await;
    a_zone_goes_with_its_host(&tenant).await;
    tenant.leaves().await.unwrap();
    env.stop().await.unwrap();
}

async fn a_refused_vm_leaves_no_node_and_no_secret(tenant: &Tenant<'_>) {
    let quotas: Api<ResourceQuota> = Api::namespaced(tenant.admin.clone(), names::VM_NAMESPACE);
    let none = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/virtualmachineinstances.kubevirt.io": "0"}}});
    accepts(&quotas, &serde_json::from_value(none).unwrap())
        .await
        .unwrap();
    let seen = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|s| s.hard.is_some());
    becomes(&quotas, "none", "seen", SOON, seen).await.unwrap();
    let pod = tenant.creates(&marooned("refused")).await.unwrap();
    tenant.sees_reason("refused", "Refused").await.unwrap();
    let (uid, secrets) = (
        pod.uid().unwrap(),
        Api::<Secret>::namespaced(tenant.admin.clone(), names::VM_NAMESPACE),
    );
    let record = [format!("MaroonedNode {}", names::node_name(&uid.as_str().into()))];
    eventually("what was made to be taken back", SOON, || async {
        let left = nothing_left_of(&tenant.admin, &uid).await?;
        anyhow::ensure!(left == record, "{left:?}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    // It is tried again, and each time nothing is made.
    let since = ListParams::default();
    let version = secrets.list(&since).await.unwrap().metadata.resource_version;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(nothing_left_of(&tenant.admin, &uid).await.unwrap(), record);
    let seen = secrets.list(&since).await.unwrap();
    assert!(seen.items.is_empty(), "{version:?}");
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    tenant.sees_running("refused").await.unwrap();
    MaroonedPod::of(&tenant.admin, &pod)
        .unwrap()
        .ends()
        .await
        .unwrap();
}

async fn a_pods_priority_is_its_vms(tenant: &Tenant<'_>) {
    let classes: Api<PriorityClass> = Api::all(tenant.admin.clone());
    for (name, value) in [("gold", 1000), ("silver", 500)] {
        let class = json!({"metadata": {"name": name}, "value": value});
        accepts(&classes, &serde_json::from_value(class).unwrap())
            .await
            .unwrap();
    }
    let launchers: Api<Pod> = Api::namespaced(tenant.admin.clone(), names::VM_NAMESPACE);
    for (name, priority) in [("gold", Some(1000)), ("silver", Some(0))] {
        let mut wanted = marooned(name);
        wanted.spec.as_mut().unwrap().priority_class_name = Some(name.to_owned());
        tenant.creates(&wanted).await.unwrap();
        let pod = tenant.sees_running(name).await.unwrap();
        let own = format!("{}={}", names::POD_UID_LABEL, pod.uid().unwrap());
        let found = launchers.list(&ListParams::default().labels(&own)).await.unwrap();
        assert_eq!(found.items[0].spec.as_ref().unwrap().priority, priority, "{name}");
        tenant.deletes(name).await.unwrap();
    }
}

async fn a_node_says_what_its_vms_host_says(tenant: &Tenant<'_>) {
    let nodes: Api<Node> = Api::all(tenant.admin.clone());
    tenant.creates(&marooned("zoned")).await.unwrap();
    let pod = tenant.sees_running("zoned").await.unwrap();
    let (host, own) = (tenant.host_of(&pod).await.unwrap(), node(&pod).to_owned());
    zone_becomes(&nodes, &own, Some("zone-a")).await;
    for zone in [Some("zone-b"), None, Some("zone-a")] {
        tenant.labels_host(&host, &json!({ZONE: zone})).await.unwrap();
        zone_becomes(&nodes, &own, zone).await;
    }
    tenant.deletes("zoned").await.unwrap();
}

/// A Node outside the cluster's range would keep kube-controller-manager from starting.
async fn node_ranges_are_allocated(tenant: &Tenant<'_>) {
    let nodes: Api<Node> = Api::all(tenant.admin.clone());
    tenant.creates(&marooned("ranged")).await.unwrap();
    let pod = tenant.sees_running("ranged").await.unwrap();
    let has_range = |node: &Node| node.spec.as_ref().is_some_and(|s| s.pod_cidr.is_some());
    for host in ["late-1", "late-2"] {
        // The first time beside a Node without a range, the second beside one that has got it.
        let flags = ["--allocate-node-cidrs", "--cluster-cidr=10.244.0.0/16"];
        tenant
            .env
            .control_plane()
            .restart_controller_manager(&flags)
            .unwrap();
        let new = json!({"metadata": {"name": host}});
        accepts(&nodes, &serde_json::from_value(new).unwrap())
            .await
            .unwrap();
        becomes(&nodes, host, "a range", SOON, has_range).await.unwrap();
        becomes(&nodes, node(&pod), "a range", SOON, has_range)
            .await
            .unwrap();
    }
    for host in ["late-1", "late-2"] {
        nodes.delete(host, &DeleteParams::default()).await.unwrap();
    }
    tenant.deletes("ranged").await.unwrap();
}

/// Hosts without zones. A host dies beside VMs that do not boot, or whose kubelets do not speak.
async fn booting_vms_hold_up_no_eviction(tenant: &Tenant<'_>) {
    let nodes: Api<Node> = Api::all(tenant.admin.clone());
    // Not those of VMs: the last one's may be on its way out.
    let hosts = ListParams::default().labels(&format!("!{}", names::CLASS_LABEL));
    for host in nodes.list(&hosts).await.unwrap() {
        let bare = Patch::Merge(
            json!({"metadata": {"labels": {ZONE: null, "topology.kubernetes.io/region": null}}}),
        );
        nodes
            .patch(&host.name_any(), &PatchParams::default(), &bare)
            .await
            .unwrap();
    }
    let flags = [
        "--node-monitor-grace-period=20s",
        "--node-startup-grace-period=5s",
    ];
    tenant
        .env
        .control_plane()
        .restart_controller_manager(&flags)
        .unwrap();
    let never_boots = Script {
        never_boots: true,
        ..Script::default()
    };
    let never_joins = Script {
        never_joins: true,
        ..Script::default()
    };
    for index in 0..8 {
        let waits = pod(&format!("boots-{index}"), &never_boots).unwrap();
        tenant.creates(&waits).await.unwrap();
    }
    let dead = json!({"metadata": {"name": "dead-1"}, "status": {"conditions": [{"type": "Ready", "status": "True",
        "reason": "Test", "message": "once", "lastHeartbeatTime": "2026-01-01T00:00:00Z",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    accepts(&nodes, &serde_json::from_value(dead).unwrap())
        .await
        .unwrap();
    let mut victim = spec();
    victim["nodeName"] = json!("dead-1");
    victim["terminationGracePeriodSeconds"] = json!(0);
    victim["tolerations"] = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
        "effect": "NoExecute", "tolerationSeconds": 1}, {"operator": "Exists", "effect": "NoSchedule"}]);
    tenant.creates(&with_spec("victim", victim)).await.unwrap();
    let begun = Instant::now();
    gone(&tenant.pods, "victim", Duration::from_secs(180))
        .await
        .unwrap();
    assert!(begun.elapsed() < EVICTED_WITHIN, "{:?}", begun.elapsed());
    nodes.delete("dead-1", &DeleteParams::default()).await.unwrap();

    for index in 0..8 {
        let waits = pod(&format!("joins-{index}"), &never_joins).unwrap();
        tenant.creates(&waits).await.unwrap();
    }
    let sick = |node: &Node| {
        let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|c| c.type_ == "Ready" && c.status == "Unknown")
    };
    eventually("eight Nodes without a kubelet", SOON, || async {
        let all = nodes.list(&ListParams::default()).await?;
        Ok((all.iter().filter(|node| sick(node)).count() >= 8).then_some(()))
    })
    .await
    .unwrap();
    // Twice the node controller's rhythm.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let log = tenant.env.control_plane().controller_manager_log().unwrap();
    assert!(!log.contains("PartialDisruption"), "the zone is called sick");
    for pod in tenant.pods.list(&ListParams::default()).await.unwrap() {
        tenant.deletes(&pod.name_any()).await.unwrap();
    }
}

async fn a_zone_goes_with_its_host(tenant: &Tenant<'_>) {
    let nodes: Api<Node> = Api::all(tenant.admin.clone());
    tenant.creates(&marooned("last")).await.unwrap();
    let pod = tenant.sees_running("last").await.unwrap();
    let (host, own) = (tenant.host_of(&pod).await.unwrap(), node(&pod).to_owned());
    tenant.labels_host(&host, &json!({ZONE: "zone-x"})).await.unwrap();
    zone_becomes(&nodes, &own, Some("zone-x")).await;
    nodes.delete(&host, &DeleteParams::default()).await.unwrap();
    eventually("no Node in the zone that has no host", SOON, || async {
        let all = nodes.list(&ListParams::default()).await?;
        let zone = |node: &Node| node.labels().get(ZONE).map(String::as_str) == Some("zone-x");
        Ok((!all.iter().any(zone)).then_some(()))
    })
    .await
    .unwrap();
}
