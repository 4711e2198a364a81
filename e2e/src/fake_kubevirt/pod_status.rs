//! A pod's status as a kubelet writes it.

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::admission::Refusal;
use super::vmi::now;

/// Where a pod runs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) host_ip: String,
    pub(super) pod_ip: String,
}

/// What the pod's containers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Containers {
    Running,
    /// All exited with this code.
    Exited(i32),
}

/// The patch of `pod`'s status. Conditions that are not the kubelet's stay: they are merged by type.
pub(super) fn patch(pod: &Pod, place: Option<&Place>, containers: Containers) -> Value {
    let (phase, ready) = match containers {
        Containers::Running => ("Running", "True"),
        Containers::Exited(0) => ("Succeeded", "False"),
        Containers::Exited(_) => ("Failed", "False"),
    };
    // A completed pod is not ready, which is not a failure: the kubelet has a reason of its own for it.
    let reason = match containers {
        Containers::Running => None,
        Containers::Exited(0) => Some("PodCompleted"),
        Containers::Exited(_) => Some("PodFailed"),
    };
    let condition = |type_: &str, status: &str, reason: Option<&str>| {
        json!({"type": type_, "status": status, "reason": reason, "lastProbeTime": null,
            "lastTransitionTime": now()})
    };
    let spec = pod.spec.clone().unwrap_or_default();
    let mut status = json!({
        "phase": phase,
        "conditions": [
            condition("PodReadyToStartContainers", ready, None),
            condition("Initialized", "True", None),
            condition("ContainersReady", ready, reason),
            condition("Ready", ready, reason),
        ],
        "containerStatuses": container_statuses(pod, &spec.containers, containers),
    });
    if let Some(init_containers) = &spec.init_containers {
        status["initContainerStatuses"] = container_statuses(pod, init_containers, Containers::Exited(0));
    }
    if pod.status.as_ref().is_none_or(|s| s.start_time.is_none()) {
        status["startTime"] = json!(now());
    }
    if let Some(place) = place {
        status["hostIP"] = json!(place.host_ip);
        status["hostIPs"] = json!([{"ip": place.host_ip}]);
        status["podIP"] = json!(place.pod_ip);
        status["podIPs"] = json!([{"ip": place.pod_ip}]);
    }
    json!({"metadata": {"uid": pod.metadata.uid}, "status": status})
}

/// The patch of the status of a pod that the kubelet does not run.
pub(super) fn rejected(pod: &Pod, refusal: &Refusal) -> Value {
    json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"phase": "Failed", "reason": refusal.reason, "message": refusal.message, "startTime": now()},
    })
}

fn container_statuses(pod: &Pod, containers: &[Container], state: Containers) -> Value {
    let status = |container: &Container| {
        let running = state == Containers::Running;
        let state = match state {
            Containers::Running => json!({"running": {"startedAt": now()}}),
            Containers::Exited(code) => json!({"terminated": {
                "exitCode": code,
                "reason": if code == 0 { "Completed" } else { "Error" },
                "finishedAt": now(),
            }}),
        };
        json!({
            "name": container.name,
            "image": container.image,
            "imageID": "",
            "restartCount": restarts(pod, &container.name, running),
            "ready": running,
            "started": running,
            "state": state,
        })
    };
    containers.iter().map(status).collect()
}

/// A container that starts although its status says that it has run before, has been restarted.
fn restarts(pod: &Pod, container: &str, starts: bool) -> i32 {
    let known = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .find(|status| status.name == container);
    known.map_or(0, |status| status.restart_count + i32::from(starts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "uid": "1"},
            "spec": {"initContainers": [{"name": "init"}], "containers": [{"name": "main", "image": "i"}]},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_first_start_is_no_restart() {
        let place = Place {
            host_ip: "192.0.2.1".to_owned(),
            pod_ip: "192.0.2.2".to_owned(),
        };
        let body = patch(&pod(&json!({})), Some(&place), Containers::Running);
        let status = &body["status"];
        assert_eq!(status["podIPs"][0]["ip"], "192.0.2.2");
        assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
        assert_eq!(
            status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"],
            0
        );
        assert!(status["startTime"].is_string());
    }

    #[test]
    fn after_a_reboot_containers_are_restarted() {
        let before = json!({"startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
            {"name": "main", "image": "i", "imageID": "", "ready": true, "restartCount": 2}]});
        let body = patch(&pod(&before), None, Containers::Running);
        assert_eq!(body["status"]["containerStatuses"][0]["restartCount"], 3);
        assert!(body["status"].get("startTime").is_none(), "it started long ago");
    }

    #[test]
    fn exit_codes_decide_the_phase() {
        let phase = |code| patch(&pod(&json!({})), None, Containers::Exited(code))["status"]["phase"].clone();
        assert_eq!(phase(0), "Succeeded");
        assert_eq!(phase(143), "Failed");
    }
}
