//! What goes wrong with guests, and what becomes of their pods.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::ListParams;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually};
use maroonedpods_e2e::api::read::{self, node_is_ready};
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use maroonedpods_e2e::harness::real_env::RUNS;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use crate::sizes::Size;
use crate::user::{Setup, User, VM_GONE, container, restarts, shell};

/// Long enough for the Node to be given up as unreachable.
const PAUSE: Duration = Duration::from_secs(60);
/// A command in a VM that runs is done after a second or two.
const NO_ANSWER: Duration = Duration::from_secs(30);

/// The pod outlives its VM's pause, in which the VM stands still: it runs no command, and its Node is given up.
pub async fn paused(user: &User<'_>, pod: &MaroonedPod) {
    let before = pod.pods.get(&pod.name).await.unwrap();
    let vm = user.vm(pod).await;
    vm.pause().await.unwrap();
    let begun = Instant::now();
    user.says("the VM is paused");
    let answer = timeout(NO_ANSWER, user.tries_in(&pod.name, "true")).await;
    assert!(!matches!(answer, Ok(Ok(_))), "a VM that is paused ran a command");
    let node = pod.node_name();
    let given_up = |node: &Node| node_is_ready_as(node) == Some("Unknown");
    becomes(&pod.nodes(), &node, "a Node that is given up", RUNS, given_up)
        .await
        .unwrap();
    sleep_until(begun + PAUSE).await;
    user.kubectl(&["get", "node", &node]).await;
    user.kubectl(&["get", "pod", &pod.name]).await;
    vm.resume().await.unwrap();
    user.says("the VM goes on");
    becomes(&pod.nodes(), &node, "a Node that is back", RUNS, node_is_ready)
        .await
        .unwrap();
    let after = becomes(&pod.pods, &pod.name, "a ready pod", RUNS, read::runs)
        .await
        .unwrap();
    eventually("an answer from the pod", RUNS, || async {
        user.tries_in(&pod.name, "true").await.map(Some)
    })
    .await
    .unwrap();
    user.kubectl(&["get", "node", &node]).await;
    user.kubectl(&["get", "pod", &pod.name]).await;
    assert_eq!(same_container(&before), same_container(&after));
}

/// The status of the Node's Ready condition.
fn node_is_ready_as(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some(&ready.status)
}

/// What tells whether the pod's first container is the one that it was.
fn same_container(pod: &Pod) -> (Option<&String>, Option<i32>) {
    let id = container(pod, "main").and_then(|main| main.container_id.as_ref());
    (id, restarts(pod, "main"))
}

/// QEMU is killed.
pub async fn launcher_killed(user: &User<'_>, pod: &MaroonedPod) {
    user.vm(pod).await.kill().await.unwrap();
    user.says("QEMU was killed");
    user.loses(pod).await;
}

/// Someone presses the machine's power button.
pub async fn powered_off(user: &User<'_>, pod: &MaroonedPod) {
    user.vm(pod).await.press_power_button().await.unwrap();
    user.says("the power button was pressed");
    user.loses(pod).await;
    is_unready_for_its_vms_sake(pod).await;
}

/// The kernel panics. The pod is privileged.
pub async fn panicked(user: &User<'_>, pod: &MaroonedPod) {
    // Later, so that this answer still gets out.
    user.shell(
        &pod.name,
        "(sleep 1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &",
    )
    .await;
    user.loses(pod).await;
    is_unready_for_its_vms_sake(pod).await;
}

/// What the conditions say of a pod that was ready until its VM ended.
async fn is_unready_for_its_vms_sake(pod: &MaroonedPod) {
    let failed = pod.pods.get(&pod.name).await.unwrap();
    for type_ in ["Ready", "ContainersReady"] {
        let wanted = Some(("False".to_owned(), VM_GONE.to_owned()));
        assert_eq!(read::condition(&failed, type_), wanted, "{type_}");
    }
}

/// The kubelet is killed, and started again by the boot program. The pod is privileged, and sees the guest's processes.
pub async fn kubelet_killed(user: &User<'_>, pod: &MaroonedPod) {
    let before = pod.pods.get(&pod.name).await.unwrap();
    let old = user.shell(&pod.name, "pidof kubelet").await;
    let kill = format!("(sleep 1; kill -9 {}) > /dev/null 2>&1 &", old.trim());
    user.shell(&pod.name, &kill).await;
    let new = eventually("another kubelet", RUNS, || async {
        let new = user.tries_in(&pod.name, "pidof kubelet").await?;
        Ok((new != old).then_some(new))
    });
    let new = new.await.unwrap();
    user.says(&format!("kubelet {} after {}", new.trim(), old.trim()));
    let after = becomes(&pod.pods, &pod.name, "a ready pod", RUNS, read::runs)
        .await
        .unwrap();
    assert_eq!(same_container(&before), same_container(&after));
    let node = pod.node_name();
    user.kubectl(&["get", "node", &node]).await;
    user.kubectl(&["get", "pod", &pod.name]).await;
}

/// A host node is drained: the pod is evicted when its budget allows, and its controller makes another one elsewhere.
pub async fn drained(setup: &Setup<'_>) {
    let _room = setup.room_for(2).await;
    let user = User::new(setup, "drain").await;
    let mut spec = json!({
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "containers": [shell("main", "sleep 3600")],
    });
    Size("500m", "512Mi").put_into(&mut spec);
    let labels = json!({"app": "drain", names::MAROON_LABEL: "true"});
    let _: Deployment = user
        .applies(json!({
            "metadata": {"name": "drain"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "drain"}},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }))
        .await;
    let _: PodDisruptionBudget = user
        .applies(json!({
            "metadata": {"name": "drain"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "drain"}}},
        }))
        .await;
    let first = other_pod(&user, None).await;
    user.sees_running(&first).await;
    let host = host_of(&first).await;
    let drain = async {
        let arguments = [
            "drain",
            &host,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=5m",
        ];
        user.kubectl(&arguments).await;
    };
    let evicted = async {
        refused_by_its_budget(&user, &first).await;
        let patch = r#"{"spec": {"minAvailable": 0}}"#;
        user.kubectl(&[
            "patch",
            "poddisruptionbudget",
            "drain",
            "--type",
            "merge",
            "--patch",
            patch,
        ])
        .await;
        let second = other_pod(&user, Some(&first.uid)).await;
        user.sees_running(&second).await;
        assert_ne!(host_of(&second).await, host);
        first.leaves_nothing().await.unwrap();
    };
    tokio::join!(drain, evicted);
    user.kubectl(&["get", "pods", "--all-namespaces", "--output", "wide"])
        .await;
    user.kubectl(&["uncordon", &host]).await;
    user.leaves().await;
}

/// Waits for the Deployment's pod that does not have this UID.
async fn other_pod(user: &User<'_>, uid: Option<&str>) -> MaroonedPod {
    let pods = user.api::<Pod>();
    let found = eventually("the Deployment's pod", RUNS, || async {
        let found = pods.list(&ListParams::default()).await?;
        Ok(found.items.into_iter().find(|pod| pod.uid().as_deref() != uid))
    });
    MaroonedPod::of(&user.setup.env.admin, &found.await.unwrap()).unwrap()
}

/// The host node that the pod's VM is on.
async fn host_of(pod: &MaroonedPod) -> String {
    let vmi = pod.vmi(1, "Running").await.unwrap();
    vmi.data["status"]["nodeName"].as_str().unwrap().to_owned()
}

/// Our reconciler asks for the pod's eviction, and its budget says no: it stays.
async fn refused_by_its_budget(user: &User<'_>, pod: &MaroonedPod) {
    eventually("an eviction that the budget refuses", RUNS, || async {
        let seen = user.setup.control_plane().audit()?;
        let refused = seen.iter().any(|event| {
            event.subresource == "eviction" && event.namespace == user.namespace && event.code == 429
        });
        Ok(refused.then_some(()))
    })
    .await
    .unwrap();
    user.kubectl(&["get", "pods,poddisruptionbudgets", "--output", "wide"])
        .await;
    let stays = pod.pods.get(&pod.name).await.unwrap();
    assert!(stays.metadata.deletion_timestamp.is_none());
}
