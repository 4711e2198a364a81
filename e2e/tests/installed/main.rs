//! The life of a release, as an administrator sees it: the real helm, our images as containers on real nodes, the
//! webhook reached through its Service. KubeVirt and its guests are simulated.
//!
//! Needs root; what is skipped without root is named.

#![allow(clippy::unwrap_used, clippy::panic)]

mod setup;

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::api::leftovers::nothing_left;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::cluster::DNS_ADDRESS;
use maroonedpods_e2e::cluster::{Cluster, ClusterOptions, with_cluster};
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::load::Load;
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use maroonedpods_e2e::install::policies::retry_pods;
use maroonedpods_e2e::install::{RELEASE, SYSTEM_NAMESPACE, chart};
use serde_json::json;

use setup::{FORMER_CHART, Setup};

const CREATES_PER_SECOND: u32 = 200;
const ROTATION_CREATES_PER_SECOND: u32 = 20;
const BARE_PODS: usize = 10;
const REPLICAS: usize = 10;
const SOON: Duration = Duration::from_secs(120);

#[test]
fn a_release_is_installed_tested_upgraded_under_load_and_removed() {
    with_cluster(ClusterOptions::default(), async |cluster| {
        let setup = Setup::new(&cluster).await;
        install(&setup).await;
        let _kubevirt = setup.kubevirt().await;
        one_pod_has_a_node_of_its_own(&setup).await;
        helm_test_passes(&setup).await;
        upgrade_under_load(&setup).await;
        rotate_under_load(&setup).await;
        setup.nothing_was_denied();
        uninstall_with_live_pods(&setup, &cluster).await;
        setup.rights_are_least().await;
        cluster.stop().await.unwrap();
    })
    .unwrap();
}

async fn install(setup: &Setup<'_>) {
    let notes = setup.release("install", Path::new(FORMER_CHART), &[]).await;
    println!("$ helm install\n{notes}");
    for deployment in ["maroonedpods-webhook", "maroonedpods-reconciler"] {
        assert_eq!(setup.ready(deployment).await, 2, "{deployment}");
    }
    assert!(!setup.configurations_have_an_architecture().await);
}

async fn one_pod_has_a_node_of_its_own(setup: &Setup<'_>) {
    let namespace = TestNamespace::new(&setup.admin, &[]).await.unwrap();
    let pod = MaroonedPod::create(&setup.admin, &namespace.name, "alone", &Script::default())
        .await
        .unwrap();
    pod.running().await.unwrap();
    // The configuration names no name server.
    let record = pod.records().get(&pod.node_name()).await.unwrap();
    assert_eq!(record.spec.vm.join.cluster_dns.as_deref(), Some(DNS_ADDRESS));
    namespace.close(&setup.admin).await.unwrap();
}

async fn helm_test_passes(setup: &Setup<'_>) {
    let tested = setup.helm(&["test", RELEASE, "--logs", "--timeout", "2m"]).await;
    println!("$ helm test\n{}", tested.unwrap());
}

/// Every pod of both Deployments is replaced, and the CRDs are applied again, while pods are created.
async fn upgrade_under_load(setup: &Setup<'_>) {
    let load = Load::start(&setup.admin, CREATES_PER_SECOND).await.unwrap();
    let replace = [
        "--set",
        "webhook.podAnnotations.upgraded=yes,reconciler.podAnnotations.upgraded=yes",
    ];
    setup.release("upgrade", &chart(), &replace).await;
    let outcome = load.stop().await.unwrap();
    println!("$ helm upgrade: {outcome}");
    outcome.check().unwrap();
    assert!(setup.configurations_have_an_architecture().await);
}

/// The pods get the new certificate as the kubelet brings it, one sooner than the other.
async fn rotate_under_load(setup: &Setup<'_>) {
    let load = Load::start(&setup.admin, ROTATION_CREATES_PER_SECOND)
        .await
        .unwrap();
    setup.rotate().await;
    let outcome = load.stop().await.unwrap();
    println!("a rotation: {outcome}");
    outcome.check().unwrap();
}

async fn uninstall_with_live_pods(setup: &Setup<'_>, cluster: &Cluster) {
    let namespace = TestNamespace::new(&setup.admin, &[]).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(setup.admin.clone(), &namespace.name);
    accepts(&deployments, &deployment()).await.unwrap();
    let names: Vec<_> = (0..BARE_PODS).map(|number| format!("bare-{number}")).collect();
    let script = Script::default();
    let bare = names
        .iter()
        .map(|name| MaroonedPod::create(&setup.admin, &namespace.name, name, &script));
    for pod in join_all(bare).await {
        pod.unwrap().running_within(SOON).await.unwrap();
    }
    let pods: Api<Pod> = Api::namespaced(setup.admin.clone(), &namespace.name);
    let all_run = || async {
        let pods = pods.list(&ListParams::default()).await?.items;
        let running = pods.iter().filter(|pod| {
            let status = pod.status.as_ref();
            status.and_then(|status| status.phase.as_deref()) == Some("Running")
        });
        Ok((running.count() == BARE_PODS + REPLICAS).then_some(pods))
    };
    let before = eventually("all pods to run", SOON, all_run).await.unwrap();

    let uninstall = ["uninstall", RELEASE, "--timeout", "3m"];
    let refused = setup.helm(&uninstall).await.unwrap_err().to_string();
    println!("$ helm uninstall\n{refused}");
    assert!(refused.contains("20 marooned pods"), "{refused}");
    for pod in &before {
        assert!(refused.contains(&pod.name_any()), "{refused}");
    }
    // Nothing has changed: they are the same pods, and they run.
    let after = eventually("all pods to run", SOON, all_run).await.unwrap();
    let uids = |pods: &[Pod]| pods.iter().filter_map(ResourceExt::uid).collect::<Vec<_>>();
    assert_eq!(uids(&before), uids(&after));

    setup.allow_force().await;
    let removed = setup.helm(&uninstall).await;
    println!("$ helm uninstall, with force\n{}", removed.unwrap());
    assert_eq!(nothing_left(&setup.admin).await.unwrap(), [""; 0]);
    // The Deployment's controller works on, now with ordinary pods; nothing holds a pod or the namespace.
    retry_pods(&setup.admin, &namespace.name).await.unwrap();
    let ordinary = eventually("pods without a gate", SOON, || async {
        let pods = pods.list(&ListParams::default()).await?.items;
        let ordinary = pods.iter().filter(|pod| gates(pod).is_empty());
        Ok((pods.len() == REPLICAS && ordinary.count() == REPLICAS).then_some(()))
    });
    if let Err(error) = ordinary.await {
        panic!("{error:#}\n{}", setup.pods(&namespace.name).await);
    }
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let unguarded = pods.create(&dry_run, &marooned("unguarded")).await;
    assert!(gates(&unguarded.unwrap()).is_empty());
    let release = cluster.control_plane().kubectl(&[
        "get",
        "validatingadmissionpolicies,mutatingwebhookconfigurations,clusterroles",
        "--selector",
        "app.kubernetes.io/name=maroonedpods",
        "--output",
        "name",
    ]);
    let kept = ["guest-certificates", "guest-node"]
        .map(|name| format!("validatingadmissionpolicy.admissionregistration.k8s.io/maroonedpods-{name}\n"));
    assert_eq!(release.await.unwrap(), kept.concat());
    let own = [
        "--namespace",
        SYSTEM_NAMESPACE,
        "get",
        "secrets,leases",
        "--output",
        "name",
    ];
    let own = cluster.control_plane().kubectl(&own).await.unwrap();
    for stays in [
        "secret/maroonedpods-webhook-tls\n",
        "lease.coordination.k8s.io/maroonedpods-reconciler\n",
    ] {
        assert!(own.contains(stays), "{stays} is not in\n{own}");
    }
    namespace.close(&setup.admin).await.unwrap();
}

fn gates(pod: &Pod) -> Vec<&str> {
    maroonedpods_e2e::api::read::gates(pod)
}

fn deployment() -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web", names::MAROON_LABEL: names::MAROON_TRUE}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    // Where it ends up on a real node, a pull would have to time out before the pod can go.
                    "containers": [{"name": "c", "image": "registry.example/app", "imagePullPolicy": "Never"}],
                },
            },
        },
    }))
    .unwrap()
}
