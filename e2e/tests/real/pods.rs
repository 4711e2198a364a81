//! What users of pods rely on.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::ResourceExt;
use maroonedpods_e2e::api::check::{becomes, eventually};
use maroonedpods_e2e::api::read;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::real_env::RUNS;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::faults;
use crate::sizes::Size;
use crate::user::{Setup, User, container, restarts, shell, shell_with};

/// Defines `tell NAME` for shell scripts: makes a `ConfigMap` of that name at the API server.
const TELL: &str = r#"tell() { /testserver ask "https://$KUBERNETES_SERVICE_HOST/api/v1/namespaces/$POD_NAMESPACE/configmaps" \
  "$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)" "{\"metadata\":{\"name\":\"$1\"}}"; }
"#;

/// A file in a folder of this machine that no guest sees.
const MARKER: &str = "of-this-machine";

/// One pod that uses all that a pod can use.
pub async fn everything(setup: &Setup<'_>) {
    let _room = setup.room_for(1).await;
    let user = User::new(setup, "everything").await;
    let _: Secret = user
        .applies(json!({"metadata": {"name": "keys"}, "stringData": {"password": "first"}}))
        .await;
    let _: ConfigMap = user
        .applies(json!({"metadata": {"name": "paint"}, "data": {"colour": "red"}}))
        .await;
    may_make_config_maps(&user).await;
    let size = Size("250m", "200Mi");
    let machine = tempfile::tempdir().unwrap();
    fs::write(machine.path().join(MARKER), "").unwrap();
    let pod = user
        .runs("everything", size, with_everything(machine.path()))
        .await;
    let ready = becomes(&pod.pods, &pod.name, "a ready pod", RUNS, read::runs)
        .await
        .unwrap();
    user.kubectl(&["get", "pod", "everything", "--output", "wide"])
        .await;

    says_what_it_does(&user).await;
    knows_itself(&user, &pod, &ready).await;
    has_the_guests_folders(&user, machine.path()).await;
    forwards_a_port(&user).await;
    sees_updates(&user).await;
    faults::paused(&user, &pod).await;
    has_passed_its_probes(&pod).await;
    ends_in_order(&user, &pod).await;
    user.leaves().await;
}

async fn may_make_config_maps(user: &User<'_>) {
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]});
    let _: Role = user
        .applies(json!({"metadata": {"name": "teller"}, "rules": [rule]}))
        .await;
    let _: RoleBinding = user
        .applies(json!({
            "metadata": {"name": "teller"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "teller"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": user.namespace}],
        }))
        .await;
}

/// `machine` is a folder of this machine.
fn with_everything(machine: &Path) -> Value {
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let env = json!([
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
        field("HOST_IP", "status.hostIP"),
        field("NODE_NAME", "spec.nodeName"),
        {"name": "REQUESTED", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}}},
    ]);
    let shared = json!({"name": "shared", "mountPath": "/shared"});
    let main = format!("{TELL} trap 'tell main; exit 0' TERM; /testserver serve & wait");
    // An exec probe takes long on an emulated processor.
    let patient = json!({"periodSeconds": 5, "timeoutSeconds": 20, "failureThreshold": 6});
    let probe = |kind: &str, check: Value| {
        let mut probe = patient.clone();
        probe[kind] = check;
        probe
    };
    let main = shell_with(
        "main",
        &main,
        json!({
            "env": env,
            "volumeMounts": [
                shared,
                {"name": "keys", "mountPath": "/keys"},
                {"name": "paint", "mountPath": "/paint"},
                {"name": "machine", "mountPath": "/machine"},
                {"name": "settings", "mountPath": "/settings"},
            ],
            "startupProbe": probe("tcpSocket", json!({"port": 8080})),
            "readinessProbe": probe("httpGet", json!({"port": 8080, "path": "/ready"})),
            "livenessProbe": probe("exec", json!({"command": ["/bin/busybox", "test", "-e", "/shared/prepared"]})),
            "lifecycle": {"preStop": {"exec": {
                "command": ["/bin/busybox", "sh", "-c", format!("{TELL} tell pre-stop")],
            }}},
        }),
    );
    let prepares = "echo prepared for $POD_NAME | tee /shared/prepared";
    let beats = format!(
        "{TELL} trap 'tell sidecar; exit 0' TERM; while true; do date >> /shared/beats; sleep 2 & wait $!; done"
    );
    json!({
        "terminationGracePeriodSeconds": 120,
        // Unsafe on a node with other pods.
        "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "4321"}]},
        "initContainers": [
            shell_with("prepares", prepares, json!({"env": env, "volumeMounts": [shared]})),
            shell_with("beats", &beats, json!({"restartPolicy": "Always", "env": env, "volumeMounts": [shared]})),
        ],
        "containers": [main],
        "volumes": [
            {"name": "shared", "emptyDir": {}},
            {"name": "keys", "secret": {"secretName": "keys"}},
            {"name": "paint", "configMap": {"name": "paint"}},
            {"name": "machine", "hostPath": {"path": machine, "type": "DirectoryOrCreate"}},
            {"name": "settings", "hostPath": {"path": "/etc", "type": "Directory"}},
        ],
    })
}

async fn says_what_it_does(user: &User<'_>) {
    let log = user
        .kubectl(&["logs", "everything", "--container", "prepares"])
        .await;
    assert_eq!(log, "prepared for everything\n");
    let log = user
        .kubectl(&[
            "logs",
            "everything",
            "--container",
            "main",
            "--limit-bytes",
            "200",
        ])
        .await;
    assert!(
        log.starts_with("serving\n") && log.contains("asks for /ready"),
        "{log}"
    );
    let beats = user
        .shell("everything", "cat /shared/prepared; wc -l < /shared/beats")
        .await;
    let (prepared, beats) = beats.trim().split_once('\n').unwrap();
    assert_eq!(prepared, "prepared for everything");
    assert!(beats.trim().parse::<u32>().unwrap() > 0, "{beats}");
}

async fn knows_itself(user: &User<'_>, pod: &MaroonedPod, seen: &Pod) {
    let env = user
        .shell(
            "everything",
            "env | grep -E '^(POD_|HOST_IP|NODE_NAME|REQUESTED)' | sort",
        )
        .await;
    let address = seen
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.clone())
        .unwrap();
    let expected = format!(
        "HOST_IP={address}\nNODE_NAME={}\nPOD_IP={address}\nPOD_NAME=everything\nPOD_NAMESPACE={}\nPOD_UID={}\nREQUESTED=200\n",
        pod.node_name(),
        user.namespace,
        pod.uid
    );
    assert_eq!(env, expected);
    let set = user.shell("everything", "cat /proc/sys/net/core/somaxconn").await;
    assert_eq!(set, "4321\n");
}

/// A `hostPath` is a path in the guest: what it finds there is the guest's, and what it writes stays there.
async fn has_the_guests_folders(user: &User<'_>, machine: &Path) {
    // The node image's own settings, which no machine has.
    assert!(!Path::new("/etc/marooned").exists());
    let shown = user
        .shell(
            "everything",
            "touch /machine/of-the-pod; ls -A /machine; ls -A /settings | grep -x marooned",
        )
        .await;
    assert_eq!(shown, "of-the-pod\nmarooned\n");
    let here = fs::read_dir(machine).unwrap();
    let here: Vec<_> = here.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(here, [MARKER]);
}

async fn forwards_a_port(user: &User<'_>) {
    let mut kubectl = user
        .command(&["port-forward", "pod/everything", ":8080"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(kubectl.stdout.take().unwrap()).lines();
    let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
    let port = line
        .strip_prefix("Forwarding from 127.0.0.1:")
        .and_then(|rest| rest.split(' ').next());
    let address = format!("127.0.0.1:{}", port.unwrap());
    let mut answer = String::new();
    let asked = async {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(b"GET /forwarded HTTP/1.0\r\n\r\n").await?;
        stream.read_to_string(&mut answer).await
    };
    timeout(SOON, asked).await.unwrap().unwrap();
    user.says(&format!(
        "$ kubectl port-forward pod/everything :8080\n{line}\n{answer}"
    ));
    assert!(answer.ends_with("\r\n\r\nthis is everything"), "{answer}");
    kubectl.kill().await.unwrap();
}

async fn sees_updates(user: &User<'_>) {
    let read = "cat /keys/password; echo; cat /paint/colour";
    assert_eq!(user.shell("everything", read).await, "first\nred");
    for patch in [
        [
            "patch",
            "secret",
            "keys",
            "--patch",
            r#"{"stringData": {"password": "second"}}"#,
        ],
        [
            "patch",
            "configmap",
            "paint",
            "--patch",
            r#"{"data": {"colour": "blue"}}"#,
        ],
        // The kubelet looks at a pod's volumes when the pod changes; else within a minute or two.
        [
            "annotate",
            "pod",
            "everything",
            "example.com/look=again",
            "--overwrite",
        ],
    ] {
        user.kubectl(&patch).await;
    }
    eventually("the updates in the pod", RUNS, || async {
        let seen = user.tries_in("everything", read).await?;
        Ok((seen == "second\nblue").then_some(()))
    })
    .await
    .unwrap();
    user.shell("everything", read).await;
}

async fn has_passed_its_probes(pod: &MaroonedPod) {
    let seen = pod.pods.get(&pod.name).await.unwrap();
    assert!(read::runs(&seen), "{:?}", seen.status);
    for name in ["main", "beats"] {
        assert_eq!(restarts(&seen, name), Some(0), "{name}");
    }
}

/// The hook first, then the container, then its sidecar: each reaches the API server while the pod is ending.
async fn ends_in_order(user: &User<'_>, pod: &MaroonedPod) {
    user.kubectl(&["delete", "pod", "everything"]).await;
    pod.leaves_nothing().await.unwrap();
    user.kubectl(&["get", "configmaps", "--sort-by", ".metadata.creationTimestamp"])
        .await;
    let maps = user.api::<ConfigMap>();
    let told = ["pre-stop", "main", "sidecar"].map(|name| {
        let maps = maps.clone();
        async move { maps.get(name).await }
    });
    let versions: Vec<u64> = try_join_all(told)
        .await
        .unwrap()
        .iter()
        .map(|map| map.resource_version().unwrap().parse().unwrap())
        .collect();
    assert!(versions.is_sorted(), "{versions:?}");
}

/// Containers that end by themselves, for their memory, or for a probe's sake.
pub async fn failing_containers(setup: &Setup<'_>) {
    let _room = setup.room_for(1).await;
    let user = User::new(setup, "failing").await;
    let failing = |name: &str, check: Value| {
        let mut probe = json!({"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 10, "terminationGracePeriodSeconds": 1});
        probe[name] = check;
        shell_with(
            &name.to_lowercase(),
            "sleep 3600",
            json!({"livenessProbe": probe}),
        )
    };
    let mut eats = shell_with("eats", "", json!({"resources": {"limits": {"memory": "48Mi"}}}));
    eats["command"] = json!(["/testserver", "eat"]);
    let once = "[ -e /seen/it ] && exec sleep 3600; touch /seen/it; echo not yet; exit 3";
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "containers": [
            shell("good", "sleep 3600"),
            eats,
            shell_with("once", once, json!({"volumeMounts": [{"name": "seen", "mountPath": "/seen"}]})),
            failing("httpGet", json!({"port": 9})),
            failing("tcpSocket", json!({"port": 9})),
            failing("exec", json!({"command": ["/bin/busybox", "false"]})),
        ],
        "volumes": [{"name": "seen", "emptyDir": {}}],
    });
    let pod = user.runs("failing", Size("100m", "128Mi"), spec).await;
    let fallen = |pod: &Pod| {
        ["eats", "once", "httpget", "tcpsocket", "exec"]
            .iter()
            .all(|name| restarts(pod, name) > Some(0))
    };
    let seen = becomes(&pod.pods, "failing", "all to be restarted", RUNS, fallen)
        .await
        .unwrap();
    let table = "jsonpath={range .status.containerStatuses[*]}{.name}: restarts {.restartCount}, last {.lastState.terminated.reason} {.lastState.terminated.exitCode}{\"\\n\"}{end}";
    user.kubectl(&["get", "pod", "failing", "--output", table]).await;
    user.kubectl(&["get", "events", "--field-selector", "reason=Unhealthy"])
        .await;
    let ended = |name: &str| {
        let last = container(&seen, name).and_then(|container| container.last_state.as_ref());
        let last = last.and_then(|state| state.terminated.as_ref()).unwrap();
        (last.reason.clone().unwrap(), last.exit_code)
    };
    assert_eq!(ended("eats"), ("OOMKilled".to_owned(), 137));
    assert_eq!(ended("once"), ("Error".to_owned(), 3));
    assert_eq!(restarts(&seen, "good"), Some(0));
    let log = user
        .kubectl(&["logs", "failing", "--container", "once", "--previous"])
        .await;
    assert_eq!(log, "not yet\n");
    faults::launcher_killed(&user, &pod).await;
    user.leaves().await;
}
