//! Real nodes: do they run pods as a cluster's nodes do, and leave the machine as it was?
//!
//! Needs root; what is skipped without root is named.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

mod machine;
mod traces;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use maroonedpods_e2e::api::check::{accepts, becomes, eventually, rejects};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::cluster::test_server::{TEST_SERVER, test_server};
use maroonedpods_e2e::cluster::{self, Cluster, REAL_LABEL, with_shared_cluster};
use maroonedpods_image_build::node_tools;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const SOON: Duration = Duration::from_secs(60);

fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Imports the image that these tests' pods run.
async fn import_image(cluster: &Cluster) {
    let archive = test_server(cluster.control_plane().folder()).unwrap();
    cluster.import(&archive).await.unwrap();
}

/// Runs a test in a namespace of its own on the shared cluster, with the image imported.
fn on_cluster(test: impl AsyncFnOnce(&Cluster, Client, &str) + Send) {
    with_shared_cluster(async |cluster| {
        static IMPORTED: OnceCell<()> = OnceCell::const_new();
        IMPORTED.get_or_init(|| import_image(cluster)).await;
        let admin = cluster.control_plane().admin().await.unwrap();
        let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
        test(cluster, admin.clone(), &namespace.name).await;
        namespace.close(&admin).await.unwrap();
    })
    .unwrap();
}

/// A pod of one container with these arguments.
fn pod(name: &str, arguments: &[&str], extra: &Value) -> Pod {
    let mut container = json!({"name": "c", "image": TEST_SERVER, "args": arguments});
    for (field, value) in extra.as_object().unwrap() {
        container[field] = value.clone();
    }
    from(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "nodeSelector": {REAL_LABEL: "true"},
            "terminationGracePeriodSeconds": 1,
        },
    }))
}

fn on_node(mut pod: Pod, node: &str) -> Pod {
    let selector = BTreeMap::from([("kubernetes.io/hostname".to_owned(), node.to_owned())]);
    pod.spec
        .as_mut()
        .unwrap()
        .node_selector
        .as_mut()
        .unwrap()
        .extend(selector);
    pod
}

/// A Service in front of the pods called `name`.
fn service(name: &str, port: u16, target: u16) -> Service {
    from(json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]},
    }))
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn is_ready(pod: &Pod) -> bool {
    container(pod).is_some_and(|container| container.ready)
}

async fn runs(pods: &Api<Pod>, pod: &Pod) {
    let name = accepts(pods, pod).await.unwrap().metadata.name.unwrap();
    becomes(pods, &name, "a pod that is ready", SOON, is_ready)
        .await
        .unwrap();
}

/// Runs the test program in a pod that runs, with kubectl; `None` when it failed.
async fn exec(cluster: &Cluster, namespace: &str, pod: &str, arguments: &[&str]) -> Option<String> {
    let mut all = vec!["--namespace", namespace, "exec", pod, "--", "/testserver"];
    all.extend(arguments);
    cluster.control_plane().kubectl(&all).await.ok()
}

#[test]
fn nodes_are_ready_and_carry_the_label() {
    with_shared_cluster(async |cluster| {
        let nodes: Api<Node> = Api::all(cluster.control_plane().admin().await.unwrap());
        let real = ListParams::default().labels(&format!("{REAL_LABEL}=true"));
        let found = nodes.list(&real).await.unwrap();
        let mut names: Vec<_> = found
            .iter()
            .map(|node| node.metadata.name.as_deref().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["node-1", "node-2"]);
        assert_eq!(
            names,
            cluster.nodes().map(cluster::Node::name).collect::<Vec<_>>()
        );
        for node in &found {
            let info = node.status.as_ref().unwrap().node_info.as_ref().unwrap();
            assert_eq!(
                info.kubelet_version,
                node_tools::pinned_kubernetes_version().unwrap()
            );
            assert!(
                info.container_runtime_version.starts_with("containerd://"),
                "{info:?}"
            );
        }
    })
    .unwrap();
}

#[test]
fn a_service_leads_from_every_node_to_its_pod() {
    on_cluster(async |cluster, client, namespace| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        runs(&pods, &on_node(pod("server", &["serve"], &json!({})), "node-1")).await;
        accepts(&Api::namespaced(client, namespace), &service("server", 80, 8080))
            .await
            .unwrap();
        for node in ["node-1", "node-2"] {
            let client = format!("client-{node}");
            runs(&pods, &on_node(pod(&client, &["serve"], &json!({})), node)).await;
            // The address of the Service is in the environment of pods that start later; here the API tells it.
            let address = cluster
                .control_plane()
                .kubectl(&[
                    "--namespace",
                    namespace,
                    "get",
                    "service",
                    "server",
                    "--output=jsonpath={.spec.clusterIP}",
                ])
                .await
                .unwrap();
            eventually("an answer through the Service", SOON, || async {
                let answer = exec(
                    cluster,
                    namespace,
                    &client,
                    &["get", &format!("http://{address}/from-{node}")],
                )
                .await;
                Ok(answer.filter(|answer| answer == "this is server"))
            })
            .await
            .unwrap();
        }
        let log = cluster
            .control_plane()
            .kubectl(&["--namespace", namespace, "logs", "server"])
            .await
            .unwrap();
        assert!(log.starts_with("serving\n"), "{log}");
        assert!(
            log.contains("asks for /from-node-1\n") && log.contains("asks for /from-node-2\n"),
            "{log}"
        );
    });
}

#[test]
fn a_pod_reaches_the_api_server_through_its_service() {
    on_cluster(async |cluster, client, namespace| {
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        runs(&pods, &pod("client", &["serve"], &json!({}))).await;
        // HTTP on its port for HTTPS: it says so, and no other server would.
        let answer = exec(cluster, namespace, "client", &["get", "http://10.96.0.1:443/"]).await;
        assert_eq!(
            answer.unwrap().trim(),
            "Client sent an HTTP request to an HTTPS server."
        );
    });
}

#[test]
fn a_failing_probe_restarts_the_container_and_a_good_one_does_not() {
    on_cluster(async |_, client, namespace| {
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let probe = |port: u16| {
            let check = json!({"httpGet": {"port": port}, "periodSeconds": 1, "failureThreshold": 1});
            json!({"readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1}, "livenessProbe": check})
        };
        runs(&pods, &pod("good", &["serve"], &probe(8080))).await;
        accepts(&pods, &pod("bad", &["serve"], &probe(9))).await.unwrap();
        becomes(&pods, "bad", "a pod that is restarted", SOON, |pod| {
            container(pod).is_some_and(|container| container.restart_count > 0)
        })
        .await
        .unwrap();
        let good = pods.get("good").await.unwrap();
        assert_eq!(container(&good).unwrap().restart_count, 0);
    });
}

#[test]
fn a_container_beyond_its_memory_limit_is_killed() {
    on_cluster(async |_, client, namespace| {
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let mut eater = pod(
            "eater",
            &["eat"],
            &json!({"resources": {"limits": {"memory": "32Mi"}}}),
        );
        eater.spec.as_mut().unwrap().restart_policy = Some("Never".to_owned());
        accepts(&pods, &eater).await.unwrap();
        becomes(
            &pods,
            "eater",
            "a container that is killed for its memory",
            SOON,
            |pod| {
                let state = container(pod).and_then(|container| container.state.as_ref());
                let ended = state.and_then(|state| state.terminated.as_ref());
                ended.is_some_and(|ended| ended.reason.as_deref() == Some("OOMKilled"))
            },
        )
        .await
        .unwrap();
    });
}

#[test]
fn the_api_server_calls_a_webhook_through_its_service() {
    on_cluster(async |cluster, client, namespace| {
        let name = format!("hook.{namespace}.svc");
        let pair = cluster.control_plane().authority().server(&[&name]).unwrap();
        let secret: Secret = from(json!({
            "metadata": {"name": "hook"},
            "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key},
        }));
        accepts(&Api::namespaced(client.clone(), namespace), &secret)
            .await
            .unwrap();
        let probe = json!({"tcpSocket": {"port": 8443}, "periodSeconds": 1});
        let mounted = json!([{"name": "tls", "mountPath": "/tls"}]);
        let mut hook = pod(
            "hook",
            &["refuse", "/tls"],
            &json!({"readinessProbe": probe, "volumeMounts": mounted}),
        );
        hook.spec.as_mut().unwrap().volumes =
            from(json!([{"name": "tls", "secret": {"secretName": "hook"}}]));
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        runs(&pods, &hook).await;
        accepts(
            &Api::namespaced(client.clone(), namespace),
            &service("hook", 443, 8443),
        )
        .await
        .unwrap();
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
        eventually("the Service's endpoint", SOON, || async {
            let found = slices.list(&ListParams::default()).await?;
            let ready = |slice: &EndpointSlice| slice.endpoints.iter().flatten().next().is_some();
            Ok(found.iter().any(ready).then_some(()))
        })
        .await
        .unwrap();

        let configuration: ValidatingWebhookConfiguration = from(json!({
            "metadata": {"name": namespace},
            "webhooks": [{
                "name": "maps.e2e.maroonedpods.io",
                "clientConfig": {
                    "service": {"namespace": namespace, "name": "hook"},
                    "caBundle": STANDARD.encode(cluster.control_plane().ca_pem()),
                },
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
            }],
        }));
        let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
        accepts(&configurations, &configuration).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
        let map: ConfigMap = from(json!({"metadata": {"generateName": "map-"}}));
        // The API server learns of the configuration by a watch, and until then accepts.
        eventually("the webhook's refusal", SOON, || async {
            match maps.create(&PostParams::default(), &map).await {
                Ok(_) => Ok(None),
                Err(error) => Ok(Some(error.to_string())),
            }
        })
        .await
        .unwrap();
        let message = rejects(&maps, &map).await.unwrap();
        assert!(message.contains("refused by hook"), "{message}");
        configurations
            .delete(namespace, &DeleteParams::default())
            .await
            .unwrap();
    });
}
