//! Pods that end by themselves.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{becomes, eventually, gone};
use maroonedpods_e2e::api::read::phase;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::real_env::RUNS;
use serde_json::json;

use crate::sizes::Size;
use crate::user::{Setup, User, container, restarts, shell, shell_with};

/// A Job whose container fails once (restartPolicy `OnFailure`), completes, and is gone by itself with its VM.
pub async fn completes(setup: &Setup<'_>) {
    let _room = setup.room_for(1).await;
    let user = User::new(setup, "job").await;
    let script = "[ -e /seen/it ] || { touch /seen/it; sleep 5; exit 1; }; sleep 5; echo done";
    let mut spec = json!({
        "restartPolicy": "OnFailure",
        "automountServiceAccountToken": false,
        "containers": [shell_with("main", script, json!({"volumeMounts": [{"name": "seen", "mountPath": "/seen"}]}))],
        "volumes": [{"name": "seen", "emptyDir": {}}],
    });
    Size("300m", "256Mi").put_into(&mut spec);
    let _: Job = user
        .applies(json!({
            "metadata": {"name": "job"},
            "spec": {
                "backoffLimit": 3,
                "ttlSecondsAfterFinished": 20,
                "template": {"metadata": {"labels": {names::MAROON_LABEL: "true"}}, "spec": spec},
            },
        }))
        .await;
    let pods = user.api::<Pod>();
    let found = eventually("the Job's pod", SOON, || async {
        let found = pods.list(&ListParams::default().labels("job-name=job")).await?;
        Ok(found.items.into_iter().next())
    });
    let pod = MaroonedPod::of(&setup.env.admin, &found.await.unwrap()).unwrap();
    user.sees_running(&pod).await;
    let succeeded = |job: &Job| job.status.as_ref().and_then(|status| status.succeeded) == Some(1);
    becomes(
        &user.api::<Job>(),
        "job",
        "a Job that has succeeded",
        RUNS,
        succeeded,
    )
    .await
    .unwrap();
    assert_eq!(user.kubectl(&["logs", "job/job"]).await, "done\n");
    user.kubectl(&["get", "jobs,pods", "--output", "wide"]).await;
    assert_eq!(restarts(&pods.get(&pod.name).await.unwrap(), "main"), Some(1));
    gone(&user.api::<Job>(), "job", RUNS).await.unwrap();
    gone(&pods, &pod.name, RUNS).await.unwrap();
    pod.leaves_nothing().await.unwrap();
    user.says("the Job, its pod, its VM and its Node are gone");
    user.leaves().await;
}

/// restartPolicy `Never`: the pod has failed with its container's exit code, and its VM goes.
pub async fn is_not_restarted(setup: &Setup<'_>) {
    let _room = setup.room_for(1).await;
    let user = User::new(setup, "no-restart").await;
    let spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "containers": [shell("main", "trap 'exit 3' TERM; sleep 3600 & wait")],
    });
    let pod = user.runs("ends", Size("900m", "700Mi"), spec).await;
    // Later, so that this answer still gets out.
    user.shell("ends", "(sleep 1; kill 1) > /dev/null 2>&1 &").await;
    let failed = pod.becomes("Failed", |pod| phase(pod) == "Failed").await.unwrap();
    let ended = container(&failed, "main")
        .and_then(|main| main.state.as_ref()?.terminated.as_ref())
        .unwrap();
    assert_eq!((ended.exit_code, restarts(&failed, "main")), (3, Some(0)));
    user.kubectl(&["get", "pod", "ends"]).await;
    pod.leaves_nothing().await.unwrap();
    user.leaves().await;
}
