//! Parts of KubeVirt that are down, and what a cluster's owner does to VMs and to KubeVirt: what becomes of pods.

use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::DeleteParams;
use maroonedpods_common::names;
use maroonedpods_e2e::api::apply::apply_yaml;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::real_env::RUNS;
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::kubevirt::NAMESPACE;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::sizes::Size;
use crate::user::{Setup, User, shell};

pub const SIZE: Size = Size("100m", "64Mi");
/// Longer than the pods of virt-handler are usually gone when they are replaced.
const DOWN: Duration = Duration::from_secs(60);

/// virt-api, virt-controller and virt-handler are down together: what runs, runs on, and what is new says what it waits for,
/// with one part after the other.
pub async fn parts_are_down(setup: &Setup<'_>) {
    let user = User::new(setup, "parts").await;
    let before = user.runs("before", SIZE, waits()).await;
    for part in ["virt-api", "virt-controller"] {
        scale(setup, part, 0).await;
    }
    run_handlers(setup, false).await;
    let waits = user.creates("waits", SIZE, waits()).await;
    let message = waits.reports("Refused").await.unwrap();
    assert!(
        message.contains("failed calling webhook \"virtualmachineinstances-"),
        "{message}"
    );
    user.says(&message);
    sleep(DOWN).await;
    answers(&user, &before).await;
    assert_eq!(waits.vmis().get_opt(&waits.node_name()).await.unwrap(), None);

    scale(setup, "virt-api", 1).await;
    waits.vmi(1, "Pending").await.unwrap();
    answers(&user, &before).await;
    scale(setup, "virt-controller", 1).await;
    // virt-handler leaves a host without the label by which launchers find it.
    let message = waits.reports("VMBlocked").await.unwrap();
    assert!(message.contains("Unschedulable: 0/"), "{message}");
    user.says(&message);
    answers(&user, &before).await;
    run_handlers(setup, true).await;
    user.sees_running(&waits).await;
    answers(&user, &before).await;
    let record = waits.records().get(&waits.node_name()).await.unwrap();
    assert_eq!(record.status.unwrap().attempts, 1);

    // An administrator deletes the VM of a pod that runs.
    let vmis = before.vmis();
    vmis.delete(&before.node_name(), &DeleteParams::default())
        .await
        .unwrap();
    before.fails().await.unwrap();
    before.leaves_nothing().await.unwrap();
    answers(&user, &waits).await;
    user.leaves().await;
}

/// What KubeVirt says of a launcher that cannot start reaches the pod's user; once it can, the pod runs.
pub async fn launchers_cannot_start(setup: &Setup<'_>) {
    let user = User::new(setup, "blocked").await;
    let config = config::configs(&setup.env.admin)
        .get(names::CONFIG_NAME)
        .await
        .unwrap();
    configure(setup, json!({"vm": {"nodeSelector": {"no": "such-host"}}})).await;
    let nowhere = user.creates("nowhere", SIZE, waits()).await;
    reports(&user, &nowhere, "VMBlocked: ").await;
    nowhere.ends().await.unwrap();

    configure(
        setup,
        json!({"vm": {"nodeSelector": null}, "nodeImage": "localhost/none:1"}),
    )
    .await;
    let imageless = user.creates("imageless", SIZE, waits()).await;
    reports(&user, &imageless, "localhost/none:1").await;
    imageless.ends().await.unwrap();

    let image = config.spec.node_image.clone();
    configure(setup, json!({"nodeImage": image})).await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": names::VM_NAMESPACE},
        "spec": {"hard": {"pods": "0"}},
    });
    let admin = &setup.env.admin;
    apply_yaml(admin, &quota.to_string()).await.unwrap();
    let refused = user.creates("refused", SIZE, waits()).await;
    reports(&user, &refused, "exceeded quota").await;

    let quotas = Api::<ResourceQuota>::namespaced(admin.clone(), names::VM_NAMESPACE);
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    user.sees_running(&refused).await;
    refused.ends().await.unwrap();
    user.leaves().await;
}

/// Waits until what the pod reports holds this text.
async fn reports(user: &User<'_>, pod: &MaroonedPod, text: &str) {
    eventually(&format!("{} to report {text}", pod.name), SOON, || async {
        let (reason, message) = read::report(&pod.pods.get(&pod.name).await?);
        let said = format!("{reason}: {message}");
        anyhow::ensure!(said.contains(text), "{said}");
        user.says(&said);
        Ok(Some(()))
    })
    .await
    .unwrap();
}

pub fn waits() -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "containers": [shell("main", "sleep 86400")],
    })
}

/// The pod runs, and so does its VM.
pub async fn answers(user: &User<'_>, pod: &MaroonedPod) {
    eventually("an answer from the pod", RUNS, || async {
        user.tries_in(&pod.name, "true").await.map(Some)
    })
    .await
    .unwrap();
    let found = pod.pods.get(&pod.name).await.unwrap();
    assert!(read::runs(&found), "{:?}", found.status);
}

/// Changes the configuration, and waits until the reconciler has taken it.
pub async fn configure(setup: &Setup<'_>, spec: Value) {
    let admin = &setup.env.admin;
    let changed = config::change(admin, &spec).await.unwrap();
    config::seen(admin, &changed).await.unwrap();
}

/// Runs so many of a part of KubeVirt, or none: then it returns when they are gone.
async fn scale(setup: &Setup<'_>, part: &str, replicas: u32) {
    let flag = format!("--replicas={replicas}");
    kubectl(setup, &["scale", "deployment", part, &flag]).await;
    if replicas == 0 {
        are_gone(setup, part).await;
    } else {
        is_rolled_out(setup, "deployment", part).await;
    }
}

async fn run_handlers(setup: &Setup<'_>, run: bool) {
    let selector = if run {
        Value::Null
    } else {
        json!({"no": "such-node"})
    };
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}}).to_string();
    let arguments = [
        "patch",
        "daemonset",
        "virt-handler",
        "--type",
        "merge",
        "--patch",
        &patch,
    ];
    kubectl(setup, &arguments).await;
    if run {
        is_rolled_out(setup, "daemonset", "virt-handler").await;
    } else {
        are_gone(setup, "virt-handler").await;
    }
}

pub async fn is_rolled_out(setup: &Setup<'_>, kind: &str, name: &str) {
    kubectl(setup, &["rollout", "status", kind, name, "--timeout=3m"]).await;
}

pub async fn are_gone(setup: &Setup<'_>, part: &str) {
    let selector = format!("kubevirt.io={part}");
    let arguments = [
        "wait",
        "--for=delete",
        "pod",
        "--selector",
        &selector,
        "--timeout=3m",
    ];
    kubectl(setup, &arguments).await;
}

/// In KubeVirt's namespace.
pub async fn kubectl(setup: &Setup<'_>, arguments: &[&str]) {
    let arguments = [&["--namespace", NAMESPACE], arguments].concat();
    let said = setup.control_plane().kubectl(&arguments).await.unwrap();
    println!(
        "[kubevirt] $ kubectl {}\n{}",
        arguments.join(" "),
        said.trim_end()
    );
}
