//! The harness itself, on one real control plane: does it promise what the other tests build on?

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use maroonedpods_common::api::{MaroonedNode, MaroonedPodsConfig, MaroonedPodsConfigSpec};
use maroonedpods_common::names;
use maroonedpods_e2e::check::{
    TestNamespace, accepts, becomes, eventually, gone, nothing_left, refused, rejects,
};
use maroonedpods_e2e::install::{
    InstallValues, RECONCILER_ACCOUNT, SYSTEM_NAMESPACE, WEBHOOK_ACCOUNT, install,
};
use maroonedpods_e2e::plane::{Plane, PlaneOptions};
use maroonedpods_e2e::tools;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";
const SOON: Duration = Duration::from_secs(30);

/// The shared plane with the chart on it.
async fn installed() -> (&'static Plane, Client) {
    static INSTALLED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let plane = Plane::shared().await.unwrap();
    INSTALLED
        .get_or_init(|| async {
            let config: MaroonedPodsConfigSpec = serde_json::from_value(config_spec()).unwrap();
            install(plane, &values(plane, Some(config))).await.unwrap();
        })
        .await;
    (plane, plane.admin().await.unwrap())
}

fn values(plane: &Plane, config: Option<MaroonedPodsConfigSpec>) -> InstallValues {
    InstallValues {
        // Nobody listens there: an opted-in pod is refused.
        webhook_url: "https://127.0.0.1:1".to_owned(),
        ca_bundle: plane.ca_pem(),
        config,
    }
}

fn config_spec() -> Value {
    json!({"nodeImage": "registry.example/node@sha256:0", "join": {"serverURL": "https://10.0.0.1:6443"}})
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn record(name: &str, uid: &str) -> MaroonedNode {
    from(json!({
        "apiVersion": "maroonedpods.io/v1alpha1",
        "kind": "MaroonedNode",
        "metadata": {"name": name},
        "spec": {
            "podRef": {"namespace": "default", "name": "web-0", "uid": uid},
            "resources": {"cpu": 1, "memoryMi": 1024, "diskMi": 10240, "reservedMemoryMi": 256, "reservedCpuMilli": 100},
            "configHash": "0",
            "vm": {
                "nodeImage": "registry.example/node@sha256:0",
                "taintKey": "maroonedpods.io",
                "join": {"serverURL": "https://10.0.0.1:6443"},
                "options": {},
            },
        },
    }))
}

fn pod(labels: &Value) -> Pod {
    from(json!({
        "metadata": {"generateName": "pod-", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app"}]},
    }))
}

/// Whether `client` may do `verb` on `resource`, by the API server's own word.
async fn may(client: &Client, verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: Some(subresource.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = accepts(&Api::all(client.clone()), &review).await.unwrap();
    answer.status.unwrap().allowed
}

#[tokio::test]
async fn the_version_is_the_pinned_one() {
    let plane = Plane::shared().await.unwrap();
    let version = plane.admin().await.unwrap().apiserver_version().await.unwrap();
    assert_eq!(version.git_version, tools::pinned_kubernetes_version().unwrap());
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "36"));
    let nodes = plane
        .kubectl(&["get", "nodes", "--output", "name"])
        .await
        .unwrap();
    assert_eq!(nodes, "");
}

#[tokio::test]
async fn a_bootstrap_token_files_a_request_and_nothing_else() {
    let (plane, admin) = installed().await;
    let token: Secret = from(json!({
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef",
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": names::BOOTSTRAP_GROUP,
        },
    }));
    let tokens: Api<Secret> = Api::namespaced(admin.clone(), "kube-system");
    accepts(&tokens, &token).await.unwrap();
    let guest = plane.bearer("abcdef.0123456789abcdef").await.unwrap();

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, names::NODES_GROUP);
    params.distinguished_name.push(
        DnType::CommonName,
        format!("system:node:{}", names::node_name(UID)),
    );
    let pem = params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
        .unwrap();
    let request: CertificateSigningRequest = from(json!({
        "metadata": {"generateName": "csr-"},
        "spec": {
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
            "request": STANDARD.encode(pem),
        },
    }));
    let requests: Api<CertificateSigningRequest> = Api::all(guest.clone());
    // The authenticator learns of a new token by a watch.
    let filed = eventually("the token to be known", SOON, || async {
        accepts(&requests, &request).await.map(Some)
    })
    .await
    .unwrap();
    assert_eq!(filed.spec.username.as_deref(), Some("system:bootstrap:abcdef"));
    assert!(
        filed
            .spec
            .groups
            .unwrap()
            .contains(&names::BOOTSTRAP_GROUP.to_owned())
    );
    refused(Api::<Node>::all(guest).list(&ListParams::default()).await).unwrap();

    let name = filed.metadata.name.unwrap();
    let left = nothing_left(&admin).await.unwrap();
    assert!(
        left.contains(&"bootstrap token bootstrap-token-abcdef".to_owned()),
        "{left:?}"
    );
    assert!(
        left.contains(&format!("CertificateSigningRequest {name}")),
        "{left:?}"
    );
    Api::<CertificateSigningRequest>::all(admin)
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    tokens
        .delete("bootstrap-token-abcdef", &DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_is_held_to_its_own_objects() {
    let plane = Plane::shared().await.unwrap();
    let node = plane
        .user("system:node:host-1", names::NODES_GROUP)
        .await
        .unwrap();
    let nodes: Api<Node> = Api::all(node.clone());
    let own: Node = from(json!({"metadata": {"name": "host-1"}}));
    accepts(&nodes, &own).await.unwrap();
    // Node authorizer: no Secret that none of its pods mounts.
    let message = refused(
        Api::<Secret>::namespaced(node, "kube-system")
            .list(&ListParams::default())
            .await,
    )
    .unwrap();
    assert!(message.contains("system:node:host-1"), "{message}");
    // NodeRestriction: no foreign Node, no label of the restricted kind.
    let other: Node = from(json!({"metadata": {"name": "host-2"}}));
    let message = rejects(&nodes, &other).await.unwrap();
    assert!(message.contains("is not allowed"), "{message}");
    let label = json!({"metadata": {"labels": {names::CLASS_LABEL: "true"}}});
    let message = refused(
        nodes
            .patch("host-1", &PatchParams::default(), &Patch::Merge(label))
            .await,
    )
    .unwrap();
    assert!(message.contains("node-restriction"), "{message}");

    let admin: Api<Node> = Api::all(plane.admin().await.unwrap());
    admin.delete("host-1", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn the_chart_installs_and_installs_again() {
    let (plane, admin) = installed().await;
    install(plane, &values(plane, None)).await.unwrap();
    let vms = Api::<Namespace>::all(admin.clone())
        .get(names::VM_NAMESPACE)
        .await
        .unwrap();
    let level = vms
        .metadata
        .labels
        .unwrap()
        .remove("pod-security.kubernetes.io/enforce");
    assert_eq!(level.as_deref(), Some("privileged"));
    let config = Api::<MaroonedPodsConfig>::all(admin)
        .get(names::CONFIG_NAME)
        .await
        .unwrap();
    assert_eq!(
        config.spec,
        serde_json::from_value(config_spec()).unwrap(),
        "server's and our defaults differ"
    );
}

#[tokio::test]
async fn a_config_is_validated() {
    let (_, admin) = installed().await;
    let configs: Api<MaroonedPodsConfig> = Api::all(admin);
    let change = |spec: Value| {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let (configs, parameters) = (
            configs.clone(),
            PatchParams {
                dry_run: true,
                ..PatchParams::default()
            },
        );
        async move { configs.patch(names::CONFIG_NAME, &parameters, &patch).await }
    };
    for (spec, sentence) in [
        (
            json!({"resourceOverhead": {"cpu": "half"}}),
            "must be a quantity of 0 or more",
        ),
        (
            json!({"resourceOverhead": {"cpu": "-1"}}),
            "must be a quantity of 0 or more",
        ),
        (
            json!({"resourceOverhead": {"cpu": -1}}),
            "must be a quantity of 0 or more",
        ),
        (
            json!({"resourceOverhead": {"memory": "10Mi"}}),
            "must be a quantity of at least 256Mi",
        ),
        (
            json!({"deadlines": {"boot": "soon"}}),
            "must be a duration of at least 1s",
        ),
        (
            json!({"deadlines": {"join": "0s"}}),
            "must be a duration of at least 1s",
        ),
        (
            json!({"deadlines": {"finishedPodTTL": "-1s"}}),
            "must be a duration such as 60s",
        ),
        (
            json!({"join": {"serverURL": "http://10.0.0.1"}}),
            "must be an https URL",
        ),
        (
            json!({"join": {"serverURL": "10.0.0.1:6443"}}),
            "must be an https URL",
        ),
        (json!({"maxAttempts": 0}), "should be greater than or equal to 1"),
        (json!({"nodeImage": ""}), "should be at least 1 chars long"),
        (json!({"taintKey": "Bad_Key"}), "should match"),
    ] {
        let message = refused(change(spec.clone()).await).unwrap();
        assert!(message.contains(sentence), "{spec}: {message}");
    }
    for spec in [
        json!({"resourceOverhead": {"cpu": 1, "memory": "1Gi"}}),
        json!({"resourceOverhead": {"memory": 536_870_912}}),
        json!({"deadlines": {"boot": "1h30m", "finishedPodTTL": "0s"}}),
        json!({"enableKernelBoot": true, "kernelBootConfig": {"initrdPath": null}}),
    ] {
        change(spec.clone())
            .await
            .unwrap_or_else(|error| panic!("{spec}: {error}"));
    }
    // Not by a merge patch, where null means the default.
    let mut bootless = configs.get(names::CONFIG_NAME).await.unwrap();
    bootless.spec.enable_kernel_boot = true;
    bootless.spec.kernel_boot_config.kernel_path = None;
    bootless.spec.kernel_boot_config.initrd_path = None;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let message = refused(configs.replace(names::CONFIG_NAME, &dry_run, &bootless).await).unwrap();
    assert!(
        message.contains("kernelBootConfig needs kernelPath or initrdPath"),
        "{message}"
    );
    let second: MaroonedPodsConfig = from(json!({
        "apiVersion": "maroonedpods.io/v1alpha1",
        "kind": "MaroonedPodsConfig",
        "metadata": {"name": "second"},
        "spec": config_spec(),
    }));
    let message = rejects(&configs, &second).await.unwrap();
    assert!(message.contains("its name is \"default\""), "{message}");
}

#[tokio::test]
async fn a_record_is_named_after_its_pod_and_keeps_it() {
    let (_, admin) = installed().await;
    let records: Api<MaroonedNode> = Api::all(admin.clone());
    let message = rejects(&records, &record("marooned-other", UID)).await.unwrap();
    assert!(
        message.contains("a MaroonedNode is named marooned-<pod uid>"),
        "{message}"
    );

    let name = names::node_name(UID);
    let made = accepts(&records, &record(&name, UID)).await.unwrap();
    assert_eq!(
        made.spec,
        record(&name, UID).spec,
        "server's and our defaults differ"
    );
    let other = json!({"spec": {"podRef": {"name": "web-1"}}});
    let message = refused(
        records
            .patch(&name, &PatchParams::default(), &Patch::Merge(other))
            .await,
    )
    .unwrap();
    assert!(message.contains("podRef is immutable"), "{message}");
    let harmless = json!({"spec": {"configHash": "1"}});
    records
        .patch(&name, &PatchParams::default(), &Patch::Merge(harmless))
        .await
        .unwrap();

    let left = nothing_left(&admin).await.unwrap();
    assert!(left.contains(&format!("MaroonedNode {name}")), "{left:?}");
    records.delete(&name, &DeleteParams::default()).await.unwrap();
    gone(&records, &name, SOON).await.unwrap();
}

#[tokio::test]
async fn only_opted_in_pods_need_the_webhook() {
    let (_, admin) = installed().await;
    let label = names::MAROON_LABEL;
    // (labels of the namespace, labels of the pod, the entry that reviews it)
    let cases = [
        (vec![], json!({}), None),
        (vec![], json!({label: "false"}), None),
        (vec![], json!({label: "true"}), Some("pods.maroonedpods.io")),
        (
            vec![(label, "true")],
            json!({}),
            Some("namespaces.maroonedpods.io"),
        ),
        (
            vec![(label, "true")],
            json!({label: "true"}),
            Some("pods.maroonedpods.io"),
        ),
        (vec![(label, "true")], json!({label: "false"}), None),
        (
            vec![(label, "enforced")],
            json!({}),
            Some("enforced.maroonedpods.io"),
        ),
        (
            vec![(label, "enforced")],
            json!({label: "false"}),
            Some("enforced.maroonedpods.io"),
        ),
        (
            vec![(label, "enforced")],
            json!({label: "true"}),
            Some("pods.maroonedpods.io"),
        ),
    ];
    for (namespace_labels, labels, entry) in cases {
        let namespace = TestNamespace::new(&admin, &namespace_labels).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace.name);
        match (entry, pods.create(&PostParams::default(), &pod(&labels)).await) {
            (None, Ok(_)) => {}
            (Some(entry), Err(error)) => {
                assert!(
                    error.to_string().contains(&format!("webhook \"{entry}\"")),
                    "{error}"
                );
            }
            (_, answer) => panic!("{namespace_labels:?} {labels}: {answer:?}"),
        }
        let namespaces: Api<Namespace> = Api::all(admin.clone());
        namespaces
            .delete(&namespace.name, &DeleteParams::default())
            .await
            .unwrap();
    }
    // Nothing of ours stands in the way of the cluster's own parts, whatever their labels say.
    for namespace in ["kube-system", names::VM_NAMESPACE, SYSTEM_NAMESPACE] {
        let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
        let made = eventually("the pod", SOON, || async {
            accepts(&pods, &pod(&json!({label: "true"}))).await.map(Some)
        });
        let name = made.await.unwrap().metadata.name.unwrap();
        pods.delete(&name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn service_accounts_have_the_charts_rights_and_no_more() {
    let (plane, _) = installed().await;
    let reconciler = plane
        .service_account(SYSTEM_NAMESPACE, RECONCILER_ACCOUNT)
        .await
        .unwrap();
    let client = &reconciler.client;
    for (verb, group, resource, namespace) in [
        ("patch", "", "pods", None),
        ("patch", "", "pods/status", None),
        ("create", "", "nodes", None),
        (
            "create",
            "kubevirt.io",
            "virtualmachineinstances",
            Some(names::VM_NAMESPACE),
        ),
        ("create", "", "secrets", Some(names::TOKEN_NAMESPACE)),
        (
            "update",
            "certificates.k8s.io",
            "certificatesigningrequests/approval",
            None,
        ),
        ("update", "coordination.k8s.io", "leases", Some(SYSTEM_NAMESPACE)),
    ] {
        assert!(
            may(client, verb, group, resource, namespace).await,
            "may not {verb} {resource}"
        );
    }
    for (verb, group, resource, namespace) in [
        ("list", "", "secrets", None),
        ("get", "", "secrets", Some("default")),
        ("create", "", "pods", None),
        ("update", "", "pods", None),
        ("sign", "certificates.k8s.io", "signers", None),
        ("approve", "certificates.k8s.io", "signers", None),
        (
            "create",
            "certificates.k8s.io",
            "certificatesigningrequests",
            None,
        ),
        (
            "delete",
            "kubevirt.io",
            "virtualmachineinstances",
            Some("default"),
        ),
        ("create", "rbac.authorization.k8s.io", "clusterrolebindings", None),
    ] {
        assert!(
            !may(client, verb, group, resource, namespace).await,
            "may {verb} {resource}"
        );
    }
    Api::<Pod>::all(client.clone())
        .list(&ListParams::default())
        .await
        .unwrap();
    let map: ConfigMap = from(json!({"metadata": {"name": "mine"}}));
    rejects(&Api::namespaced(client.clone(), "default"), &map)
        .await
        .unwrap();

    // The same identity by its file, as a program of its own uses it.
    let file = reconciler.kubeconfig.to_str().unwrap();
    let answer = plane
        .kubectl(&[
            "--kubeconfig",
            file,
            "auth",
            "whoami",
            "--output",
            "jsonpath={.status.userInfo.username}",
        ])
        .await
        .unwrap();
    assert_eq!(
        answer,
        format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{RECONCILER_ACCOUNT}")
    );

    let webhook = plane
        .service_account(SYSTEM_NAMESPACE, WEBHOOK_ACCOUNT)
        .await
        .unwrap()
        .client;
    refused(Api::<Pod>::all(webhook).list(&ListParams::default()).await).unwrap();
}

#[tokio::test]
async fn the_server_counts_writes() {
    let plane = Plane::shared().await.unwrap();
    let user = plane.user("counted", "system:masters").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(user, "default");
    let map: ConfigMap = from(json!({"metadata": {"name": "counted"}}));
    accepts(&maps, &map).await.unwrap();
    maps.get("counted").await.unwrap();
    let change = json!({"data": {"key": "value"}});
    maps.patch("counted", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
    maps.delete("counted", &DeleteParams::default()).await.unwrap();

    let events = eventually("four events", SOON, || async {
        let mut events = plane.audit()?;
        events.retain(|event| event.user == "counted");
        Ok((events.len() == 4).then_some(events))
    })
    .await
    .unwrap();
    let writes: Vec<_> = events.iter().filter(|event| event.is_write()).collect();
    let seen: Vec<_> = writes
        .iter()
        .map(|event| (event.verb.as_str(), event.code))
        .collect();
    assert_eq!(seen, [("create", 201), ("patch", 200), ("delete", 200)]);
    for write in writes {
        assert_eq!(
            (write.resource.as_str(), write.namespace.as_str()),
            ("configmaps", "default")
        );
        assert_eq!(write.name, "counted");
        assert!(write.received <= write.completed);
    }
}

#[tokio::test]
async fn a_test_namespace_comes_and_goes() {
    let admin = Plane::shared().await.unwrap().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[("colour", "blue")]).await.unwrap();
    let name = namespace.name.clone();
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let found = namespaces.get(&name).await.unwrap();
    assert_eq!(found.metadata.labels.unwrap()["colour"], "blue");
    namespace.close(&admin).await.unwrap();
    assert!(namespaces.get_opt(&name).await.unwrap().is_none());
}

#[tokio::test]
async fn giving_up_shows_the_object_and_its_events() {
    let plane = Plane::shared().await.unwrap();
    let admin = plane.admin().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin, "default");
    let name = accepts(&pods, &pod(&json!({})))
        .await
        .unwrap()
        .metadata
        .name
        .unwrap();
    eventually("the scheduler's event", SOON, || async {
        let never = becomes(&pods, &name, "a pod that runs", Duration::ZERO, |_| false).await;
        let text = format!("{:?}", never.unwrap_err());
        assert!(
            text.contains("a pod that runs") && text.contains("image: registry.example/app"),
            "{text}"
        );
        Ok(text.contains("FailedScheduling").then_some(()))
    })
    .await
    .unwrap();
    pods.delete(&name, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
}

fn alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

#[tokio::test]
async fn stopping_leaves_no_process_and_no_folder() {
    let plane = Plane::start(PlaneOptions::default()).await.unwrap();
    let (processes, folder) = (plane.process_ids(), plane.folder().to_owned());
    assert_eq!(processes.len(), 4);
    assert!(processes.iter().all(|&process| alive(process)) && folder.exists());
    plane.stop().await.unwrap();
    assert!(!processes.iter().any(|&process| alive(process)));
    assert!(!folder.exists());
}

/// Processes whose command line names `folder`, as those of a plane do.
fn processes_of(folder: &Path) -> Vec<u32> {
    let folder = folder.to_string_lossy().into_owned();
    let process = |entry: std::io::Result<std::fs::DirEntry>| -> Option<u32> {
        let entry = entry.ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let named = String::from_utf8_lossy(&command).contains(&folder);
        named.then(|| entry.file_name().to_str()?.parse().ok())?
    };
    std::fs::read_dir("/proc").unwrap().filter_map(process).collect()
}

#[tokio::test]
async fn being_killed_leaves_no_process_and_no_folder() {
    let mut demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_demo"))
        .arg("--keep")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let kubeconfig = loop {
        let line = lines.next_line().await.unwrap().expect("the demo ended early");
        if let Some((_, path)) = line.split_once("export KUBECONFIG=") {
            break PathBuf::from(path);
        }
    };
    let folder = kubeconfig.parent().unwrap();
    let processes = processes_of(folder);
    assert!(processes.len() >= 4, "{processes:?}");

    // SIGKILL: nothing of ours runs in the dying process.
    demo.kill().await.unwrap();
    eventually("the processes and the folder to be gone", SOON, || async {
        let rest = processes.iter().any(|&process| alive(process)) || folder.exists();
        Ok((!rest).then_some(()))
    })
    .await
    .unwrap();
}
