//! The README's first command: the whole loop, live, for somebody who has never seen the project.

mod timeline;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, PostParams, PropagationPolicy};
use kube::{Client, ResourceExt};
use maroonedpods_common::names;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::check::{eventually, nothing_left};
use crate::tools::{self, Tool};
use crate::world::World;
use timeline::{Seen, Stage, elapsed};

/// Holds a Deployment whose pods opt in by a label of their own, and an ordinary pod.
const BY_POD: &str = "demo";
/// A namespace that opts all of its pods in; holds a Job.
const BY_NAMESPACE: &str = "demo-isolated";
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the demo. With `keep`, leaves everything up at the end until the process is told to stop.
///
/// # Errors
/// When anything was not seen that belongs to a marooned pod's life, or anything was left.
pub async fn run(keep: bool) -> Result<()> {
    tokio::task::spawn_blocking(tools::prepare).await??;
    let start = Instant::now();
    say(
        start,
        "starting etcd, kube-apiserver, kube-controller-manager and kube-scheduler, then webhook,",
    );
    say(
        start,
        "reconciler and a played KubeVirt (its VMs are simulated; everything else is real)",
    );
    let world = World::start(1).await?;
    let reconciler = world.reconciler(true).await?;
    let client = world.plane().admin().await?;
    say(start, "the cluster is up\n");

    let (seen, watching) = watch::channel(Seen::new());
    let followed = tokio::spawn(timeline::follow(client.clone(), names::VM_NAMESPACE, start, seen));
    let _stop = StopOnDrop(followed.abort_handle());

    let pods = create(&client, start).await?;
    wait_until_up(&client, &watching, &pods).await?;
    println!();
    show(&world).await?;
    if keep {
        println!(
            "\nKept up, for use by hand:\n\n  export KUBECONFIG={}\n",
            world.plane().kubeconfig().display()
        );
        println!(
            "kubectl, if you have none: {}",
            tools::find(Tool::Kubectl)?.display()
        );
        println!(
            "Label a pod {}=true and watch `kubectl get mn -w`. Ctrl-C ends and cleans up.",
            names::MAROON_LABEL
        );
        return std::future::pending().await;
    }
    println!();
    say(start, "deleting the workloads");
    delete(&client).await?;
    wait_until_gone(&watching, &pods).await?;
    prove_nothing_left(&world, &client).await?;
    reconciler.stop().await?;
    world.stop().await?;
    println!();
    say(
        start,
        "done: each marooned pod had a node of its own, and nothing of it is left",
    );
    Ok(())
}

struct StopOnDrop(AbortHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn say(start: Instant, what: &str) {
    println!("{} {what}", elapsed(start.elapsed()));
}

/// Creates the workloads and returns the UIDs of the pods that must be marooned.
async fn create(client: &Client, start: Instant) -> Result<BTreeSet<String>> {
    let namespace = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let namespaces = Api::<Namespace>::all(client.clone());
    make(&namespaces, namespace(BY_POD, json!({}))).await?;
    make(
        &namespaces,
        namespace(BY_NAMESPACE, json!({names::MAROON_LABEL: "true"})),
    )
    .await?;
    for name in [BY_POD, BY_NAMESPACE] {
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), name);
        eventually("its default service account", LIMIT, || async {
            Ok(accounts.get_opt("default").await?)
        })
        .await?;
    }
    let container = json!([{"name": "main", "image": "registry.example/app:1",
        "resources": {"requests": {"cpu": "250m", "memory": "128Mi"}}}]);
    say(
        start,
        &format!("creating Deployment {BY_POD}/web (pod label), an ordinary pod {BY_POD}/plain"),
    );
    say(
        start,
        &format!("and Job {BY_NAMESPACE}/report-… (namespace label)\n"),
    );
    make(
        &Api::<Deployment>::namespaced(client.clone(), BY_POD),
        json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web", (names::MAROON_LABEL): "true"}},
                "spec": {"containers": container},
            }},
        }),
    )
    .await?;
    make(
        &Api::<Job>::namespaced(client.clone(), BY_NAMESPACE),
        json!({
            "metadata": {"generateName": "report-"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": container}}},
        }),
    )
    .await?;
    make(
        &Api::<Pod>::namespaced(client.clone(), BY_POD),
        json!({
            "metadata": {"name": "plain"},
            "spec": {"containers": container},
        }),
    )
    .await?;
    let marooned = ListParams::default().labels(&format!("{}={}", names::MAROON_LABEL, names::MAROON_TRUE));
    eventually("both marooned pods", LIMIT, || async {
        let pods = Api::<Pod>::all(client.clone()).list(&marooned).await?.items;
        let uids: BTreeSet<_> = pods.iter().filter_map(ResourceExt::uid).collect();
        Ok((uids.len() == 2).then_some(uids))
    })
    .await
}

async fn make<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    api.create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    Ok(())
}

/// Waits until each marooned pod has run on its own node, and the ordinary one on a host.
async fn wait_until_up(
    client: &Client,
    watching: &watch::Receiver<Seen>,
    pods: &BTreeSet<String>,
) -> Result<()> {
    let up = [
        Stage::Gated,
        Stage::Launched,
        Stage::Booted,
        Stage::Registered,
        Stage::Ready,
        Stage::Lifted,
        Stage::Running,
    ];
    wait_for(watching, pods, &up).await?;
    let plain: Api<Pod> = Api::namespaced(client.clone(), BY_POD);
    let node = eventually("the ordinary pod runs", LIMIT, || async {
        let pod = plain.get("plain").await?;
        let runs = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        Ok(pod.spec.and_then(|s| s.node_name).filter(|_| runs))
    })
    .await?;
    ensure!(
        node.starts_with("host-"),
        "the ordinary pod runs on {node}, which is not a host node"
    );
    Ok(())
}

async fn wait_until_gone(watching: &watch::Receiver<Seen>, pods: &BTreeSet<String>) -> Result<()> {
    wait_for(
        watching,
        pods,
        &[Stage::Deleted, Stage::VmGone, Stage::NodeGone, Stage::Released],
    )
    .await
}

async fn wait_for(watching: &watch::Receiver<Seen>, pods: &BTreeSet<String>, stages: &[Stage]) -> Result<()> {
    let mut waiting = watching.clone();
    let missing = |seen: &Seen| -> Vec<String> {
        let of = |uid: &String| {
            let had = seen.get(uid).cloned().unwrap_or_default();
            let uid = uid.clone();
            stages
                .iter()
                .filter(move |s| !had.contains(s))
                .map(move |s| format!("{s:?} of pod {uid}"))
        };
        pods.iter().flat_map(of).collect()
    };
    let all = tokio::time::timeout(LIMIT, waiting.wait_for(|seen| missing(seen).is_empty())).await;
    if let Ok(seen) = all {
        return seen.map(drop).context("the timeline ended");
    }
    bail!(
        "not seen within {} s: {}",
        LIMIT.as_secs(),
        missing(&watching.borrow()).join(", ")
    )
}

async fn show(world: &World) -> Result<()> {
    for arguments in [
        &[
            "get",
            "pods",
            "-A",
            "-l",
            "kubevirt.io!=virt-launcher",
            "-o",
            "custom-columns=NAMESPACE:.metadata.namespace,NAME:.metadata.name,STATUS:.status.phase,IP:.status.podIP,NODE:.spec.nodeName",
        ][..],
        &["get", "nodes"],
        &["get", "maroonednodes"],
        &["get", "virtualmachineinstances", "-n", names::VM_NAMESPACE],
    ] {
        println!("$ kubectl {}", arguments.join(" "));
        println!("{}", world.plane().kubectl(arguments).await?);
    }
    Ok(())
}

async fn delete(client: &Client) -> Result<()> {
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    let namespaces = Api::<Namespace>::all(client.clone());
    for name in [BY_POD, BY_NAMESPACE] {
        namespaces.delete(name, &params).await?;
    }
    Ok(())
}

async fn prove_nothing_left(world: &World, client: &Client) -> Result<()> {
    eventually("nothing is left", LIMIT, || async {
        Ok(nothing_left(client).await?.is_empty().then_some(()))
    })
    .await?;
    println!();
    for arguments in [
        &["get", "nodes", "-l", names::CLASS_LABEL][..],
        &["get", "maroonednodes"],
        &[
            "get",
            "virtualmachineinstances,secrets",
            "-n",
            names::VM_NAMESPACE,
        ],
        &["get", "secrets", "-n", names::TOKEN_NAMESPACE],
        &["get", "certificatesigningrequests"],
    ] {
        println!("$ kubectl {}", arguments.join(" "));
        let listed = world.plane().kubectl(arguments).await?;
        println!(
            "{}",
            if listed.trim().is_empty() {
                "No resources found"
            } else {
                listed.trim_end()
            }
        );
    }
    Ok(())
}
