//! A marooned pod's life, in each shape that users create pods in.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, ResourceExt};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually, gone};
use maroonedpods_e2e::api::read::condition;
use maroonedpods_e2e::api::read::vmis;
use maroonedpods_e2e::api::read::{gates, node, runs};
use maroonedpods_e2e::harness::fixtures::{marooned, ordinary, spec};
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::writes::MANAGER;
use maroonedpods_e2e::system::logs::logs;
use serde_json::{Value, json};

const TEMPLATE_LABEL: &str = "app";
/// Kubernetes' garbage collection of pods comes by every 20 s, and believes after 40 s that a Node is gone.
const COLLECTED: Duration = Duration::from_secs(180);

/// A pod template that opts in.
fn template() -> Value {
    json!({"metadata": {"labels": {TEMPLATE_LABEL: "web", names::MAROON_LABEL: "true"}}, "spec": spec()})
}

fn selector() -> Value {
    json!({"matchLabels": {TEMPLATE_LABEL: "web"}})
}

fn own_node(pod: &Pod) -> String {
    names::node_name(&pod.uid().unwrap().into())
}

/// Key, value and effect of each taint.
fn taints(node: &Node) -> BTreeSet<(String, String, String)> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints
        .map(|t| {
            (
                t.key.clone(),
                t.value.clone().unwrap_or_default(),
                t.effect.clone(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_the_longest_name_there_is_has_its_events() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    let label = "a".repeat(60);
    let name = [label.as_str(), &label, &label, &label, &"b".repeat(9)].join(".");
    assert_eq!(name.len(), 253);
    tenant.creates(&marooned(&name)).await.unwrap();
    tenant.sees_running(&name).await.unwrap();
    let events: Api<Event> = tenant.api();
    let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
    for reason in ["VMCreating", "NodeJoined", "GateLifted", "Scheduled"] {
        eventually(reason, SOON, || async {
            let told = events.list(&about).await?;
            let says = |event: &Event| event.reason.as_deref() == Some(reason);
            Ok(told.iter().any(says).then_some(()))
        })
        .await
        .unwrap();
    }
    tenant.deletes(&name).await.unwrap();
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_pod_gets_a_node_of_its_own_and_loses_it_again() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    tenant.creates(&marooned("bare")).await.unwrap();
    let pod = tenant.sees_running("bare").await.unwrap();
    assert_eq!(node(&pod), own_node(&pod));
    assert_eq!(gates(&pod), [""; 0]);
    // The lift is one write, the word about it the next.
    let pod = tenant.sees_reason("bare", "NodeReady").await.unwrap();
    let ready = condition(&pod, names::NODE_READY_CONDITION);
    assert_eq!(ready, Some(("True".to_owned(), "NodeReady".to_owned())));

    MaroonedPod::of(&tenant.admin, &pod)
        .unwrap()
        .ends()
        .await
        .unwrap();
    let events: Api<Event> = tenant.api();
    let about = ListParams::default().fields("involvedObject.name=bare");
    let events = events.list(&about).await.unwrap();
    let ours = |event: &&Event| event.reporting_component.as_deref() == Some("maroonedpods.io/reconciler");
    let told: i32 = events
        .iter()
        .filter(ours)
        .map(|e| e.series.as_ref().and_then(|s| s.count).unwrap_or(1))
        .sum();
    assert!((1..=12).contains(&told), "{told} events: {events:?}");
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_marked_as_the_pods_own() {
    let tenant = Tenant::shared(None).await.unwrap();
    tenant.creates(&marooned("marked")).await.unwrap();
    let pod = tenant.sees_running("marked").await.unwrap();
    let uid = pod.uid().unwrap();
    let node = tenant.node_of(&pod).await.unwrap();

    for (label, value) in [
        ("maroonedpods.node-restriction.kubernetes.io/marooned", "true"),
        (
            "maroonedpods.node-restriction.kubernetes.io/pod-uid",
            uid.as_str(),
        ),
        ("maroonedpods.io/pod-uid", uid.as_str()),
        ("topology.kubernetes.io/zone", "zone-a"),
        ("topology.kubernetes.io/region", "region-1"),
    ] {
        assert_eq!(
            node.labels().get(label).map(String::as_str),
            Some(value),
            "{label}"
        );
    }
    // It would be a domain of its own for every pod that spreads over hosts.
    assert!(!node.labels().contains_key("kubernetes.io/hostname"));
    let lasting = ["NoSchedule", "NoExecute"].into_iter().flat_map(|effect| {
        [
            ("maroonedpods.io/marooned", "true"),
            ("maroonedpods.io/dedicated", &uid),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned(), effect.to_owned()))
    });
    assert_eq!(
        taints(&node),
        lasting.collect(),
        "the start-up taint must be gone too"
    );

    let addresses = node.status.unwrap().addresses.unwrap();
    let internal = addresses.iter().find(|a| a.type_ == "InternalIP").unwrap();
    let status = pod.status.unwrap();
    assert_eq!(status.pod_ip.as_ref(), Some(&internal.address));
    assert_eq!(status.host_ip.as_ref(), Some(&internal.address));
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_own_spec_is_only_added_to() {
    let tenant = Tenant::shared(None).await.unwrap();
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let unmarooned = tenant.pods.create(&dry_run, &ordinary("twin")).await.unwrap();
    tenant.creates(&marooned("twin")).await.unwrap();
    let pod = tenant.sees_running("twin").await.unwrap();

    let mut spec = pod.spec.unwrap();
    spec.node_name = None;
    let bound_by = spec.scheduler_name.replace("default-scheduler".to_owned());
    assert_eq!(bound_by.as_deref(), Some("maroonedpods"));
    let selected: BTreeSet<_> = spec.node_selector.take().unwrap().into_keys().collect();
    let ours =
        ["marooned", "pod-uid"].map(|key| format!("maroonedpods.node-restriction.kubernetes.io/{key}"));
    assert_eq!(selected, ours.into());
    let tolerations = spec.tolerations.as_mut().unwrap();
    let before = tolerations.len();
    tolerations.retain(|t| {
        !t.key
            .as_ref()
            .is_some_and(|key| key.starts_with("maroonedpods.io/"))
    });
    assert_eq!(before - tolerations.len(), 4, "class and identity, both effects");
    assert_eq!(spec, unmarooned.spec.unwrap());
    tenant.leaves().await.unwrap();
}

/// Who wrote which field stands on the object, for people and for server-side apply.
#[tokio::test(flavor = "multi_thread")]
async fn what_we_write_bears_our_name() {
    let tenant = Tenant::shared(None).await.unwrap();
    tenant.creates(&marooned("signed")).await.unwrap();
    tenant.sees_running("signed").await.unwrap();
    let pod = tenant.sees_reason("signed", "NodeReady").await.unwrap();
    let name = own_node(&pod);
    let records: Api<MaroonedNode> = Api::all(tenant.admin.clone());
    let record = records.get(&name).await.unwrap();
    let node = tenant.node_of(&pod).await.unwrap();
    let vmi = vmis(&tenant.admin).get(&name).await.unwrap();
    for (what, metadata, field) in [
        ("the lift", &pod.metadata, "f:nodeSelector"),
        ("the report", &pod.metadata, names::NODE_READY_CONDITION),
        ("the record", &record.metadata, "f:podRef"),
        ("the record's status", &record.metadata, "f:stages"),
        // Its address comes with it: who writes a status with a create is not on record.
        ("the Node", &node.metadata, "f:taints"),
        ("the VMI", &vmi.metadata, "f:firmware"),
    ] {
        assert_eq!(writers(metadata, field), [MANAGER], "{what}");
    }
    tenant.leaves().await.unwrap();
}

/// The managers of the entries in which a field's name occurs.
fn writers<'m>(metadata: &'m ObjectMeta, field: &str) -> Vec<&'m str> {
    let entries = metadata.managed_fields.iter().flatten();
    entries
        .filter(|entry| {
            entry
                .fields_v1
                .as_ref()
                .is_some_and(|fields| fields.0.to_string().contains(field))
        })
        .filter_map(|entry| entry.manager.as_deref())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_phase_pod_and_vm() {
    let tenant = Tenant::shared(None).await.unwrap();
    tenant.creates(&marooned("printed")).await.unwrap();
    let pod = tenant.sees_running("printed").await.unwrap();
    let name = own_node(&pod);
    let records: Api<MaroonedNode> = Api::all(tenant.admin.clone());
    let lifted = |record: &MaroonedNode| record.status.as_ref().is_some_and(|s| s.stages.lifted.is_some());
    let record = becomes(&records, &name, "lifted", SOON, lifted).await.unwrap();
    let conditions = record.status.iter().flat_map(|s| &s.conditions);
    let told: BTreeSet<_> = conditions
        .map(|c| (c.type_.as_str(), c.reason.as_str()))
        .collect();
    let far = [
        ("Launched", "VMCreated"),
        ("Registered", "KubeletJoined"),
        ("Ready", "NodeVerified"),
        ("Lifted", "GateLifted"),
    ];
    assert_eq!(told, far.into());

    let table = tenant
        .env
        .control_plane()
        .kubectl(&["get", "mn", &name])
        .await
        .unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        ["NAME", "PHASE", "NAMESPACE", "POD", "VM", "AGE", "REASON"]
    );
    let (row, vm) = (&rows[1], names::vmi_name(&pod.uid().unwrap().into(), 1));
    assert_eq!(
        row[..5],
        [name.as_str(), "Lifted", tenant.namespace(), "printed", &vm]
    );
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_at_once_get_a_node_each() {
    let tenant = Tenant::shared(None).await.unwrap();
    let (one, two) = (marooned("one"), marooned("two"));
    let (one, two) = tokio::join!(tenant.creates(&one), tenant.creates(&two));
    assert_ne!(own_node(&one.unwrap()), own_node(&two.unwrap()));
    for pod in tenant.sees(2, "running", runs).await.unwrap() {
        assert_eq!(node(&pod), own_node(&pod));
    }
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_of_a_deployment_has_its_node() {
    let tenant = Tenant::shared(None).await.unwrap();
    let web = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": selector(), "template": template()},
    });
    tenant.applies::<Deployment>(web).await.unwrap();
    let replicas = tenant.sees(2, "running", runs).await.unwrap();
    for pod in &replicas {
        assert_eq!(node(pod), own_node(pod));
    }
    let deployments = tenant.api::<Deployment>();
    deployments
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    for pod in &replicas {
        gone(&tenant.pods, &pod.name_any(), SOON).await.unwrap();
        MaroonedPod::of(&tenant.admin, pod)
            .unwrap()
            .leaves_nothing()
            .await
            .unwrap();
    }
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_sets_pod_comes_back_by_its_name_on_another_node() {
    let tenant = Tenant::shared(None).await.unwrap();
    let db = json!({
        "metadata": {"name": "db"},
        "spec": {"serviceName": "db", "replicas": 1, "selector": selector(), "template": template()},
    });
    tenant.applies::<StatefulSet>(db).await.unwrap();
    let first = becomes(&tenant.pods, "db-0", "running", SOON, runs)
        .await
        .unwrap();
    tenant
        .pods
        .delete("db-0", &DeleteParams::default())
        .await
        .unwrap();
    // The API has one object of a name: the new pod exists only once the old one is gone.
    let restarted = |pod: &Pod| pod.uid() != first.uid() && runs(pod);
    let second = becomes(&tenant.pods, "db-0", "a new pod that runs", SOON, restarted)
        .await
        .unwrap();
    assert_eq!(
        (node(&first), node(&second)),
        (&*own_node(&first), &*own_node(&second))
    );
    MaroonedPod::of(&tenant.admin, &first)
        .unwrap()
        .leaves_nothing()
        .await
        .unwrap();
    assert!(runs(&tenant.pods.get("db-0").await.unwrap()));
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_jobs_vm_goes_after_its_time_for_logs() {
    let tenant = Tenant::shared(None).await.unwrap();
    let mut template = template();
    template["spec"]["restartPolicy"] = json!("Never");
    let batch = json!({"metadata": {"generateName": "batch-"}, "spec": {"template": template}});
    let job = tenant.applies::<Job>(batch).await.unwrap();
    let pods = tenant
        .sees(1, "bound", |pod| !node(pod).is_empty())
        .await
        .unwrap();
    assert_eq!(node(&pods[0]), own_node(&pods[0]));
    let succeeded = |job: &Job| job.status.as_ref().and_then(|s| s.succeeded) == Some(1);
    becomes(&tenant.api(), &job.name_any(), "completed", SOON, succeeded)
        .await
        .unwrap();
    MaroonedPod::of(&tenant.admin, &pods[0])
        .unwrap()
        .leaves_nothing()
        .await
        .unwrap();
    gone(&tenant.pods, &pods[0].name_any(), COLLECTED).await.unwrap();
    tenant.leaves().await.unwrap();
}
