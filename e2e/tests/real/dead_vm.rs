//! What becomes of a Service's traffic when one of its pods' VMs dies.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually};
use maroonedpods_e2e::harness::real_env::RUNS;
use maroonedpods_e2e::kubevirt::RealVm;
use serde_json::json;
use tokio::time::sleep;

use crate::network::Pods;
use crate::ready;

/// How long after its VM's death a connection may still be led to a dead pod. It was a second when the machine was idle. If
/// only the Node's silence ended it, which takes 40 s, the test would fail.
const LED_ASTRAY: Duration = Duration::from_secs(20);
/// For tries afterwards, which all succeed.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// The VM of one of two pods behind a Service dies: its address may belong to another pod in a moment.
pub async fn a_dead_vms_address_takes_no_traffic(pods: &Pods<'_>) {
    let services: Api<Service> = Api::namespaced(pods.env.admin.clone(), &pods.namespace);
    let service = json!({
        "metadata": {"name": "both"},
        "spec": {"selector": {"tier": "marooned"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let made = accepts(&services, &serde_json::from_value(service).unwrap())
        .await
        .unwrap();
    let url = format!("http://{}/watched", made.spec.unwrap().cluster_ip.unwrap());
    let (tries, killed) = tokio::join!(watched(pods, &url), dies(pods));
    let killed = killed.as_millisecond();
    let tries: Vec<_> = tries
        .into_iter()
        .map(|(begun, answer)| (begun - killed, answer))
        .collect();
    let failed: Vec<_> = tries
        .iter()
        .filter_map(|(begun, answer)| (answer == "failed").then_some(begun))
        .collect();
    println!("marooned-b's VM was killed: connections failed that were begun after {failed:?} ms");
    // Both pods answered before, and after the bound the living one alone: else nothing was seen.
    let bound = i64::try_from(LED_ASTRAY.as_millis()).unwrap();
    let (before, after): (Vec<_>, Vec<_>) = tries.iter().partition(|(begun, _)| *begun < 0);
    for name in ["this is marooned-a", "this is marooned-b"] {
        assert!(
            before.iter().any(|(_, answer)| answer == name),
            "{name}: {before:?}"
        );
    }
    let late: Vec<_> = after.iter().filter(|(begun, _)| *begun > bound).collect();
    assert!(late.len() > 3, "{late:?}");
    for (begun, answer) in late {
        assert_eq!(answer, "this is marooned-a", "{begun} ms after the VM's death");
    }
}

/// Asks without end until it is told to stop; when each try was begun, and the answer or that it failed.
async fn watched(pods: &Pods<'_>, url: &str) -> Vec<(i64, String)> {
    let said = pods.test("plain-1", &["watch", url, "/stop"]).await.unwrap();
    let lines = said.lines().map(|line| line.split_once(' ').unwrap());
    lines
        .map(|(begun, answer)| (begun.parse().unwrap(), answer.to_owned()))
        .collect()
}

/// Kills the VM once both pods were asked, and stops the asking once that shows for long enough.
async fn dies(pods: &Pods<'_>) -> Timestamp {
    for name in ["marooned-a", "marooned-b"] {
        eventually(&format!("{name} to be asked"), RUNS, || async {
            let log = pods.kubectl(&["logs", name]).await?;
            Ok(log.contains("asks for /watched").then_some(()))
        })
        .await
        .unwrap();
    }
    let control_plane = pods.env.cluster().control_plane();
    let vm = RealVm::find(control_plane, &pods.marooned[1].node_name())
        .await
        .unwrap();
    vm.kill().await.unwrap();
    let killed = Timestamp::now();
    let all: Api<Pod> = Api::namespaced(pods.env.admin.clone(), &pods.namespace);
    let unready = |pod: &Pod| !ready(pod);
    becomes(&all, "marooned-b", "a pod that is not ready", RUNS, unready)
        .await
        .unwrap();
    let after = Timestamp::now().duration_since(killed);
    println!("marooned-b is unready after {:.1} s", after.as_secs_f64());
    let whole = LED_ASTRAY + AFTERWARDS;
    sleep(whole.saturating_sub(after.unsigned_abs())).await;
    pods.exec("plain-1", &["/bin/busybox", "touch", "/stop"])
        .await
        .unwrap();
    killed
}
