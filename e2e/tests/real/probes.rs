//! Probes by gRPC, and startup and readiness probes that fail. Those that pass, and liveness probes, are in `pods`.

use k8s_openapi::api::core::v1::Pod;
use maroonedpods_e2e::api::check::becomes;
use maroonedpods_e2e::harness::real_env::RUNS;
use serde_json::{Value, json};

use crate::sizes::Size;
use crate::user::{Setup, User, container, restarts, shell_with};

/// A pod whose first container answers gRPC's health protocol, for itself and for the others.
pub async fn fail(setup: &Setup<'_>) {
    let _room = setup.room_for(1).await;
    let user = User::new(setup, "probes").await;
    let probed = |kind: &str, check: Value| {
        // The first failure counts: to see it is what this test waits for.
        let mut probe = json!({"periodSeconds": 2, "failureThreshold": 1, "timeoutSeconds": 10});
        for (key, value) in check.as_object().unwrap() {
            probe[key] = value.clone();
        }
        json!({kind: probe})
    };
    let service = |name: &str| json!({"grpc": {"port": 8081, "service": name}});
    let mut main = shell_with("main", "", probed("readinessProbe", service("well")));
    main["command"] = json!(["/testserver", "health"]);
    let patient = shell_with(
        "readiness",
        "trap 'exit 0' TERM; sleep 3600 & wait",
        probed(
            "readinessProbe",
            json!({"exec": {"command": ["/bin/busybox", "test", "-e", "/ready"]}}),
        ),
    );
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "containers": [
            main,
            patient,
            shell_with("liveness", "sleep 3600", probed("livenessProbe", service("sick"))),
            shell_with("startup", "sleep 3600", probed("startupProbe", json!({"tcpSocket": {"port": 9}}))),
        ],
    });
    let pod = user.runs("probes", Size("150m", "100Mi"), spec).await;
    let sees = async |what: &str, condition: &dyn Fn(&Pod) -> bool| {
        becomes(&pod.pods, "probes", what, RUNS, condition).await.unwrap()
    };
    sees(
        "one ready by gRPC, one that is not ready, two restarted",
        &|pod| {
            is_ready(pod, "main")
                && container(pod, "readiness").is_some_and(|c| c.started == Some(true) && !c.ready)
                && ["liveness", "startup"]
                    .iter()
                    .all(|name| restarts(pod, name) > Some(0))
        },
    )
    .await;
    for says in [
        "Liveness probe failed: service unhealthy (responded with \"NOT_SERVING\")",
        "Startup probe failed: ",
        "Readiness probe failed: ",
    ] {
        user.sees_event("probes", "Unhealthy", says).await;
    }
    for (change, ready) in [("touch", true), ("rm", false)] {
        let change = [
            "exec",
            "probes",
            "-c",
            "readiness",
            "--",
            "/bin/busybox",
            change,
            "/ready",
        ];
        user.kubectl(&change).await;
        sees("readiness to follow", &|pod| is_ready(pod, "readiness") == ready).await;
    }
    let seen = pod.pods.get("probes").await.unwrap();
    for name in ["main", "readiness"] {
        assert_eq!(restarts(&seen, name), Some(0), "{name}");
    }
    assert_eq!(container(&seen, "startup").and_then(|c| c.started), Some(false));
    let table = "jsonpath={range .status.containerStatuses[*]}{.name}: ready {.ready}, started {.started}, restarts {.restartCount}{\"\\n\"}{end}";
    user.kubectl(&["get", "pod", "probes", "--output", table]).await;
    pod.ends().await.unwrap();
    user.leaves().await;
}

fn is_ready(pod: &Pod, name: &str) -> bool {
    container(pod, name).is_some_and(|container| container.ready)
}
