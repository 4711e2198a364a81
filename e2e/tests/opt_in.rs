//! Which pods are marooned, and that all others are left alone.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, DeploymentCondition};
use k8s_openapi::api::core::v1::{Pod, PodSchedulingGate, Toleration};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, rejects};
use maroonedpods_e2e::api::read::{bears_our_mark, gates, node, runs};
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::{daemon_set, labelled, marooned, ordinary, spec, with_spec};
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::install::{RECONCILER_ACCOUNT, SYSTEM_NAMESPACE};
use maroonedpods_e2e::system::logs::logs;
use serde_json::{Map, Value, json};

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
    assert_eq!(node(&pod), names::node_name(&pod.uid().unwrap().into()));
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
    let written = tenant
        .env
        .control_plane()
        .audit()
        .unwrap()
        .into_iter()
        .filter(|event| {
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
async fn an_enforced_namespace_refuses_the_opt_out() {
    let tenant = Tenant::shared(Some(names::MAROON_ENFORCED)).await.unwrap();
    let out = labelled(ordinary("out"), names::MAROON_FALSE);
    let message = rejects(&tenant.pods, &out).await.unwrap();
    assert!(
        message.contains("remove the label maroonedpods.io/maroon"),
        "{message}"
    );
    tenant.creates(&ordinary("silent")).await.unwrap();
    is_served(&tenant, "silent").await;
    tenant.leaves().await.unwrap();
}

/// A label that we changed would hide the pods from the ReplicaSet that selects by it, and it would make more for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_selects_by_the_opt_out_is_told_why_it_gets_no_pods() {
    let tenant = Tenant::shared(Some(names::MAROON_ENFORCED)).await.unwrap();
    let labels = json!({"app": "out", names::MAROON_LABEL: names::MAROON_FALSE});
    let out = json!({
        "metadata": {"name": "out"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec()},
        },
    });
    tenant.applies::<Deployment>(out).await.unwrap();
    let says = |c: &DeploymentCondition| {
        c.type_ == "ReplicaFailure"
            && c.message
                .as_ref()
                .is_some_and(|message| message.contains("no pod of this namespace may opt out"))
    };
    becomes(&tenant.api(), "out", "told why", SOON, |out: &Deployment| {
        let status = out.status.as_ref();
        status.is_some_and(|status| status.conditions.iter().flatten().any(says))
    })
    .await
    .unwrap();
    // Whatever would be made of its pods would be before this one is served.
    tenant.creates(&ordinary("later")).await.unwrap();
    is_served(&tenant, "later").await;
    assert_eq!(
        tenant
            .pods
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    assert_eq!(tenant.records().await.unwrap().len(), 1);
    tenant.leaves().await.unwrap();
}

/// An agent's pod for one node, as other controllers than the DaemonSet's make them.
fn agent(node: &str, tie: &Value) -> Pod {
    let owner = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "DaemonSet", "name": "agent",
        "uid": "00000000-0000-4000-8000-000000000001", "controller": true});
    let mut agent = with_spec("agent", spec());
    agent.metadata.name = None;
    agent.metadata.generate_name = Some("agent-".to_owned());
    agent.metadata.owner_references = Some(vec![serde_json::from_value(owner).unwrap()]);
    let mut whole = serde_json::to_value(&agent).unwrap();
    whole["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let tie = tie.to_string().replace("NODE", node);
    for (field, value) in serde_json::from_str::<Map<String, Value>>(&tie).unwrap() {
        whole["spec"][field] = value;
    }
    serde_json::from_value(whole).unwrap()
}

/// Each would have made a Node, for which the next would have been made.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_for_one_node_gets_no_node_of_its_own_whoever_made_it() {
    let tenant = Tenant::shared(Some(names::MAROON_TRUE)).await.unwrap();
    let affinity = |term: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [term]}}}})
    };
    let asks = |key: &str| json!([{"key": key, "operator": "In", "values": ["NODE"]}]);
    let ties = [
        affinity(json!({"matchFields": asks("metadata.name")})),
        affinity(json!({"matchExpressions": asks("kubernetes.io/hostname")})),
        json!({"nodeSelector": {"kubernetes.io/hostname": "NODE"}}),
    ];
    for (host, tie) in ["host-1", "host-2", "host-3"].into_iter().zip(&ties) {
        let made = tenant.creates(&agent(host, tie)).await.unwrap();
        let pod = tenant.sees_running(&made.name_any()).await.unwrap();
        assert_eq!(node(&pod), host);
        is_left_alone(&tenant, &made.name_any()).await;
    }
    tenant.creates(&ordinary("in")).await.unwrap();
    is_served(&tenant, "in").await;
    assert_eq!(tenant.records().await.unwrap().len(), 1, "the bare pod's alone");
    // Who asks for both is told that they cannot be had.
    for tie in &ties {
        let message = rejects(&tenant.pods, &labelled(agent("host-1", tie), names::MAROON_TRUE))
            .await
            .unwrap();
        assert!(message.contains("ask for a node by its name"), "{message}");
    }
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_pod_that_comes_to_ask_for_a_node_is_told_and_its_vm_goes() {
    let tenant = Tenant::shared(None).await.unwrap();
    let waits = Script {
        never_joins: true,
        ..Script::default()
    };
    let pod = MaroonedPod::create(&tenant.admin, tenant.namespace(), "waits", &waits)
        .await
        .unwrap();
    pod.vmi(1, "Running").await.unwrap();
    // A gated pod's affinity may grow narrower (KEP-3838).
    let patch = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["host-1"]}]}]}}}}});
    let (name, by_hand) = (&pod.name, PatchParams::default());
    pod.pods
        .patch(name, &by_hand, &Patch::Strategic(patch))
        .await
        .unwrap();
    pod.leaves_nothing().await.unwrap();
    let message = pod.reports("NamesNodes").await.unwrap();
    assert!(message.contains("create the pod again"), "{message}");
    tenant.leaves().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_sets_pods_stay_on_the_hosts() {
    let tenant = Tenant::shared(Some(names::MAROON_TRUE)).await.unwrap();
    tenant.creates(&ordinary("in")).await.unwrap();
    is_served(&tenant, "in").await;
    tenant.applies::<DaemonSet>(daemon_set()).await.unwrap();
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
    // Marooned nodes, of other tests, do not take it, whatever it tolerates.
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
    let (kubectl, namespace) = (tenant.env.control_plane(), tenant.namespace());
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
