//! Where a pod's VM goes, and which pods get none: three hosts, each in a zone of its own, on a real scheduler.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::api::read::{self, node, runs, vmis};
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::{labelled, ordinary, spec, with_spec};
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON, pod};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::{self, TestEnv};
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_image_build::node_image;
use serde_json::{Value, json};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";
const HOSTS: [(&str, &str); 3] = [("host-1", "zone-a"), ("host-2", "zone-b"), ("host-3", "zone-c")];

/// `images/build` knows nothing of the configuration, so the two lists are written twice.
#[test]
fn the_node_image_declares_what_a_configuration_counts_on() {
    let config = test_env::quick_config("https://192.0.2.1").unwrap();
    assert_eq!(config.guest_capabilities, node_image::CAPABILITIES);
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_go_where_their_pods_want_and_only_if_they_help() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let nodes: Api<Node> = Api::all(tenant.admin.clone());
    for (host, zone) in HOSTS {
        let disk = if host == "host-3" { "fast" } else { "slow" };
        label(&nodes, host, &json!({ZONE: zone, "disk": disk})).await;
    }
    let changed = json!({
        "deadlines": {"boot": "10m", "join": "10m"},
        "placement": {"hostLabels": ["disk"], "nodeLabels": {"pool": "vms"}, "hostTaints": ["team"]},
    });
    let changed = config::change(&tenant.admin, &changed).await.unwrap();
    config::seen(&tenant.admin, &changed).await.unwrap();
    each_shape_runs_in_its_place(&tenant).await;
    each_shape_that_cannot_run_waits_without_a_vm(&tenant).await;
    replicas_are_apart_as_they_ask(&tenant).await;
    replicas_are_apart_by_default(&tenant).await;
    Box::pin(a_pod_that_changes_while_it_waits_gets_the_vm_that_it_needs_now(
        &tenant,
    ))
    .await;
    a_zone_that_is_out_of_order_is_said_and_others_go_on(&tenant).await;
    a_pod_that_no_scheduler_binds_fails_and_frees_its_vm(&tenant).await;
    tenant.leaves().await.unwrap();
    env.stop().await.unwrap();
}

async fn label(nodes: &Api<Node>, host: &str, labels: &Value) {
    let labels = Patch::Merge(json!({"metadata": {"labels": labels}}));
    nodes.patch(host, &PatchParams::default(), &labels).await.unwrap();
}

/// The host that runs the pod's VM.
async fn host_of(tenant: &Tenant<'_>, pod: &Pod) -> String {
    let vmi = names::vmi_name(&pod.uid().unwrap().into(), 1);
    let vmi = vmis(&tenant.admin).get(&vmi).await.unwrap();
    vmi.data["status"]["nodeName"].as_str().unwrap().to_owned()
}

fn marooned(name: &str, more: &Value) -> Pod {
    let mut spec = spec();
    json_patch::merge(&mut spec, more);
    let mut pod = labelled(with_spec(name, spec), names::MAROON_TRUE);
    pod.labels_mut().insert("app".to_owned(), name.to_owned());
    pod
}

fn term(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

fn required(terms: &Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

fn near(kind: &str, app: &str, key: &str) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}]}}})
}

fn spread(key: &str, app: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": app}}}]})
}

async fn each_shape_runs_in_its_place(tenant: &Tenant<'_>) {
    // An ordinary pod in zone-b, for others to be near to or away from.
    let mut target = ordinary("target");
    target.labels_mut().insert("app".to_owned(), "target".to_owned());
    target.spec.as_mut().unwrap().node_selector = Some([(ZONE.to_owned(), "zone-b".to_owned())].into());
    tenant.creates(&target).await.unwrap();
    tenant.sees_running("target").await.unwrap();
    let not_b = [
        term(ZONE, "NotIn", &["zone-b"]),
        term(HOSTNAME, "NotIn", &["host-1"]),
    ];
    let mut neither = not_b[0].clone();
    neither["matchExpressions"]
        .as_array_mut()
        .unwrap()
        .extend(not_b[1]["matchExpressions"].as_array().unwrap().clone());
    let any = ["host-1", "host-2", "host-3"];
    let shapes = [
        ("zone", json!({"nodeSelector": {ZONE: "zone-b"}}), &any[1..2]),
        (
            "zones",
            required(&json!([term(ZONE, "In", &["zone-a", "zone-c"])])),
            &["host-1", "host-3"],
        ),
        ("neither", required(&json!([neither])), &any[2..]),
        ("by-label", json!({"nodeSelector": {"disk": "fast"}}), &any[2..]),
        (
            "second-term",
            required(&json!([
                term("gpu", "Exists", &[]),
                term(ZONE, "In", &["zone-a"])
            ])),
            &any[..1],
        ),
        (
            "promised",
            json!({"nodeSelector": {"pool": "vms", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}}),
            &any,
        ),
        ("near", near("podAffinity", "target", ZONE), &any[1..2]),
        ("near-host", near("podAffinity", "target", HOSTNAME), &any[1..2]),
        (
            "away",
            near("podAntiAffinity", "target", ZONE),
            &["host-1", "host-3"],
        ),
        ("first", near("podAffinity", "first", HOSTNAME), &any),
        ("over-hosts", spread(HOSTNAME, "over-hosts"), &any),
        ("over-disks", spread("disk", "over-disks"), &any),
        (
            "sysctl",
            json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "4096"}]}}),
            &any,
        ),
    ];
    for (name, spec, _) in &shapes {
        tenant.creates(&marooned(name, spec)).await.unwrap();
    }
    for (name, _, hosts) in &shapes {
        let pod = tenant.sees_running(name).await.unwrap();
        assert_eq!(node(&pod), names::node_name(&pod.uid().unwrap().into()), "{name}");
        let host = host_of(tenant, &pod).await;
        assert!(hosts.contains(&host.as_str()), "{name} is on {host}");
        let labels = tenant.node_of(&pod).await.unwrap().metadata.labels.unwrap();
        let zone = HOSTS.iter().find(|(name, _)| *name == host).unwrap().1;
        assert_eq!(labels[ZONE], zone, "{name}");
        assert_eq!(labels["pool"], "vms", "{name}");
        assert_eq!(
            labels.contains_key("disk"),
            ["by-label", "over-disks"].contains(name),
            "{name}: only what the pod asks for"
        );
        assert!(!labels.contains_key(HOSTNAME), "{name}");
    }
    for (name, ..) in &shapes {
        tenant.deletes(name).await.unwrap();
    }
    tenant.deletes("target").await.unwrap();
}

async fn each_shape_that_cannot_run_waits_without_a_vm(tenant: &Tenant<'_>) {
    let limits = |resource: &str| json!({"containers": [{"name": "app", "image": "i", "resources": {"limits": {resource: "1"}}}]});
    let shapes = [
        ("selector", json!({"nodeSelector": {"gpu": "a100"}}), "gpu=a100"),
        (
            "arch",
            json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}),
            "kubernetes.io/arch",
        ),
        ("affinity", required(&json!([term("rack", "In", &["1"])])), "rack"),
        ("spread", spread("rack", "spread"), "placement.hostLabels"),
        (
            "apart",
            near("podAntiAffinity", "apart", "rack"),
            "placement.hostLabels",
        ),
        (
            "device",
            limits("example.test/accel"),
            "resource/example.test/accel",
        ),
        (
            "csi",
            json!({"volumes": [{"name": "d", "csi": {"driver": "secrets.example.test", "readOnly": true}}]}),
            "csi/secrets.example.test",
        ),
        (
            "nfs",
            json!({"volumes": [{"name": "d", "nfs": {"server": "192.0.2.1", "path": "/"}}]}),
            "volume/nfs",
        ),
        (
            "sysctls",
            json!({"securityContext": {"sysctls": [{"name": "vm.swappiness", "value": "0"}]}}),
            "sysctl/vm.swappiness",
        ),
        (
            "armor",
            json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
            "apparmor",
        ),
        ("users", json!({"hostUsers": false}), "user-namespaces"),
        ("windows", json!({"os": {"name": "windows"}}), "os/windows"),
        (
            "claims",
            json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "none"}],
            "containers": [{"name": "app", "image": "i"}]}),
            "resource-claims",
        ),
    ];
    for (name, spec, _) in &shapes {
        tenant.creates(&marooned(name, spec)).await.unwrap();
    }
    for (name, _, says) in &shapes {
        let waits = tenant.sees_reason(name, "Unplaceable").await.unwrap();
        let message = read::report(&waits).1;
        assert!(message.contains(says), "{name}: {message}");
    }
    for record in tenant.records().await.unwrap() {
        let owner = &record.spec.pod_ref.name;
        assert!(
            shapes.iter().all(|(name, ..)| name != owner),
            "a record was made for {owner}"
        );
    }
    for (name, ..) in &shapes {
        tenant.deletes(name).await.unwrap();
    }
}

fn deployment(name: &str, replicas: u32, more: &Value) -> Value {
    let mut template =
        json!({"metadata": {"labels": {"app": name, names::MAROON_LABEL: "true"}}, "spec": spec()});
    json_patch::merge(&mut template["spec"], more);
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}})
}

/// How many running pods of this name each host has.
async fn by_host(tenant: &Tenant<'_>, name: &str, count: usize) -> BTreeMap<String, usize> {
    let of = |pod: &Pod| pod.labels().get("app").map(String::as_str) == Some(name) && runs(pod);
    let mut hosts = BTreeMap::new();
    for pod in tenant
        .sees(count, &format!("running, of {name}"), of)
        .await
        .unwrap()
    {
        *hosts.entry(host_of(tenant, &pod).await).or_default() += 1;
    }
    hosts
}

async fn removed(tenant: &Tenant<'_>, name: &str) {
    let deployments: Api<Deployment> = tenant.api();
    deployments
        .delete(name, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    tenant
        .sees(0, "left", |pod| {
            pod.labels().get("app").map(String::as_str) == Some(name)
        })
        .await
        .unwrap();
}

async fn replicas_are_apart_as_they_ask(tenant: &Tenant<'_>) {
    let in_b = required(&json!([term(ZONE, "In", &["zone-b"])]));
    for (name, replicas, spec, expected) in [
        ("apart", 3, near("podAntiAffinity", "apart", ZONE), vec![1, 1, 1]),
        ("even", 4, spread(ZONE, "even"), vec![1, 1, 2]),
        ("there", 4, in_b, vec![4]),
        ("together", 3, near("podAffinity", "together", HOSTNAME), vec![3]),
    ] {
        tenant
            .applies::<Deployment>(deployment(name, replicas, &spec))
            .await
            .unwrap();
        let hosts = by_host(tenant, name, replicas as usize).await;
        let mut counts: Vec<_> = hosts.values().copied().collect();
        counts.sort_unstable();
        assert_eq!(counts, expected, "{name}: {hosts:?}");
        assert!(name != "there" || hosts.contains_key("host-2"), "{hosts:?}");
        removed(tenant, name).await;
    }
}

async fn replicas_are_apart_by_default(tenant: &Tenant<'_>) {
    tenant
        .applies::<Deployment>(deployment("plain", 3, &json!({})))
        .await
        .unwrap();
    let hosts = by_host(tenant, "plain", 3).await;
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    removed(tenant, "plain").await;
}

async fn a_pod_that_changes_while_it_waits_gets_the_vm_that_it_needs_now(tenant: &Tenant<'_>) {
    let slow = Script {
        boot_delay: 15.0,
        ..Script::default()
    };
    // As a queue does that assigns a place.
    let queued = pod("queued", &slow).unwrap();
    let queued = tenant.creates(&queued).await.unwrap();
    let first = record_of(tenant, &queued).await;
    let selector = Patch::Merge(json!({"spec": {"nodeSelector": {ZONE: "zone-c"}}}));
    tenant
        .pods
        .patch("queued", &PatchParams::default(), &selector)
        .await
        .unwrap();
    let runs = tenant.sees_running("queued").await.unwrap();
    assert_eq!(host_of(tenant, &runs).await, "host-3");
    assert_ne!(record_of(tenant, &runs).await, first);

    let mut small = pod("resized", &slow).unwrap();
    let sized = |memory: &str| json!({"requests": {"memory": memory}, "limits": {"memory": memory}});
    small.spec.as_mut().unwrap().containers[0].resources =
        Some(serde_json::from_value(sized("128Mi")).unwrap());
    let small = tenant.creates(&small).await.unwrap();
    record_of(tenant, &small).await;
    let container = small.spec.as_ref().unwrap().containers[0].name.clone();
    let grown =
        Patch::Strategic(json!({"spec": {"containers": [{"name": container, "resources": sized("2Gi")}]}}));
    tenant
        .pods
        .patch_subresource("resize", "resized", &PatchParams::default(), &grown)
        .await
        .unwrap();
    let runs = tenant.sees_running("resized").await.unwrap();
    let allocatable = tenant
        .node_of(&runs)
        .await
        .unwrap()
        .status
        .unwrap()
        .allocatable
        .unwrap();
    let bytes: u64 = allocatable["memory"].0.trim_end_matches("Ki").parse().unwrap();
    assert!(bytes >= 2 << 20, "{allocatable:?}");
    for name in ["queued", "resized"] {
        tenant.deletes(name).await.unwrap();
    }
}

/// UID of the pod's record, once there is one.
async fn record_of(tenant: &Tenant<'_>, pod: &Pod) -> String {
    let name = names::node_name(&pod.uid().unwrap().into());
    eventually("a record", SOON, || async {
        let records = tenant.records().await?;
        Ok(records
            .into_iter()
            .find(|record| record.name_any() == name)
            .and_then(|record| record.uid()))
    })
    .await
    .unwrap()
}

async fn a_zone_that_is_out_of_order_is_said_and_others_go_on(tenant: &Tenant<'_>) {
    let nodes: Api<Node> = Api::all(tenant.admin.clone());
    nodes.cordon("host-3").await.unwrap();
    tenant
        .applies::<Deployment>(deployment("outage", 3, &near("podAntiAffinity", "outage", ZONE)))
        .await
        .unwrap();
    let of = |pod: &Pod| pod.labels().get("app").map(String::as_str) == Some("outage");
    tenant
        .sees(2, "running", |pod| of(pod) && runs(pod))
        .await
        .unwrap();
    let waits = tenant
        .sees(1, "waiting with a reason", |pod| {
            of(pod) && read::reason(pod) == "VMBlocked"
        })
        .await
        .unwrap();
    let message = read::report(&waits[0]).1;
    assert!(message.contains("Unschedulable"), "{message}");
    accepts(&tenant.pods, &marooned("elsewhere", &json!({})))
        .await
        .unwrap();
    let elsewhere = tenant.sees_running("elsewhere").await.unwrap();
    assert_ne!(host_of(tenant, &elsewhere).await, "host-3");
    nodes.uncordon("host-3").await.unwrap();
    assert_eq!(by_host(tenant, "outage", 3).await.len(), 3);
    removed(tenant, "outage").await;
    tenant.deletes("elsewhere").await.unwrap();
}

async fn a_pod_that_no_scheduler_binds_fails_and_frees_its_vm(tenant: &Tenant<'_>) {
    let hasty = config::change(&tenant.admin, &json!({"deadlines": {"start": "3s"}}))
        .await
        .unwrap();
    config::seen(&tenant.admin, &hasty).await.unwrap();
    let stray = marooned("stray", &json!({"schedulerName": "nobody"}));
    let stray = MaroonedPod::create_pod(&tenant.admin, tenant.namespace(), &stray)
        .await
        .unwrap();
    stray.fails().await.unwrap();
    let said = tenant.sees_reason("stray", "NotStarted").await.unwrap();
    let message = read::report(&said).1;
    assert!(message.contains("no scheduler has bound it"), "{message}");
    stray.leaves_nothing().await.unwrap();
}
