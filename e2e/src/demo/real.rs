//! The demo with root, on Debian: every marooned pod runs in a machine of its own.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use maroonedpods_common::names;
use maroonedpods_image_build::apt::debian_release;
use maroonedpods_image_build::node_image::Arch;
use serde_json::json;
use tokio::task::JoinSet;

use super::choice::nodes_for;
use super::screen::Screen;
use super::tour::{DemoEnv, Tour};
use super::workloads::{BY_NAMESPACE, BY_POD, PLAIN, REPORT, STORE, WEB, marooned};
use super::{Options, console};
use crate::api::check::eventually;
use crate::cluster::{Cluster, ClusterOptions, missing_rights, on_cluster, provide_packages};
use crate::harness::real_env::{Archives, RUNS, RealEnv, provide_tools};
use crate::install::SYSTEM_NAMESPACE;

/// What each further VM may add to [`RUNS`] where all share two processors.
const MORE: Duration = Duration::from_secs(60);

/// What keeps this machine from running real guests, and what would help. Installs the programs that are missing where
/// there is apt-get, after saying so. Blocks.
pub fn obstacles() -> Vec<String> {
    if let Some(rights) = missing_rights() {
        return vec![rights];
    }
    if Arch::of_this_machine().ok() != Some(Arch::Amd64) {
        return vec!["KubeVirt's image is built for amd64 only".to_owned()];
    }
    if let Err(error) = debian_release() {
        return vec![format!("images are made of Debian's packages, and {error:#}")];
    }
    let provided = provide_packages().and_then(|()| provide_tools());
    provided
        .err()
        .map(|error| format!("{error:#}"))
        .into_iter()
        .collect()
}

/// Runs it; [`obstacles`] must have found none. Blocks.
pub fn run(options: Options) -> Result<()> {
    let screen = Screen::new();
    screen.begin(
        "building Kubernetes, KubeVirt, helm and containerd from source, and the images: about a quarter of an hour on 2 \
         cores the first time, half a minute later on",
    );
    let archives = Archives::make(None)?;
    drop(screen);
    let processors = thread::available_parallelism()?.get();
    let cluster = ClusterOptions {
        nodes: nodes_for(marooned(options.replicas), processors),
        ..archives.cluster()
    };
    let screen = Arc::new(Screen::new());
    screen.begin(&format!(
        "starting a control plane and {} host nodes: containerd, kubelet and kube-proxy, each in its own namespaces",
        cluster.nodes
    ));
    on_cluster(cluster, async |cluster| {
        let shown = Box::pin(show(options, &archives, cluster, screen));
        super::unless_interrupted(shown).await
    })
}

async fn show(options: Options, archives: &Archives, cluster: Cluster, screen: Arc<Screen>) -> Result<()> {
    screen.begin("giving them the images, KubeVirt, and `helm install` of the chart");
    let settings = json!({"deadlines": {"boot": "3m", "join": "5m", "finishedPodTTL": "30s"}});
    let env = RealEnv::install(&cluster, archives, options.kvm, &settings).await?;
    screen.say("the cluster is up");
    screen.show("");
    let demo = DemoEnv {
        control_plane: cluster.control_plane(),
        admin: env.admin.clone(),
        screen: Arc::clone(&screen),
        limit: RUNS + MORE * options.replicas,
    };
    demo.kubectl(&[
        "get",
        "pods",
        "-n",
        SYSTEM_NAMESPACE,
        "-o",
        "custom-columns=NAME:.metadata.name,STATUS:.status.phase,NODE:.spec.nodeName",
    ])
    .await?;
    let mut consoles = JoinSet::new();
    consoles.spawn(console::follow(demo.admin.clone(), Arc::clone(&screen)));
    let tour = Tour::start(demo, options.replicas).await?;
    if let Err(error) = look(&tour).await {
        return Err(error.context(env.state().await));
    }
    if options.keep {
        let process = cluster
            .control_plane()
            .process_ids()
            .first()
            .copied()
            .context("no control plane")?;
        tour.keep(&[format!(
            "nsenter --target {process} --net    # only there is the API server to be reached"
        )])
        .await?;
    }
    tour.end().await?;
    drop((tour, consoles));
    drop(env);
    cluster.stop().await?;
    super::say_done(&screen);
    Ok(())
}

async fn look(tour: &Tour<'_>) -> Result<()> {
    tokio::try_join!(tour.up(), report(tour))?;
    tour.show().await?;
    kernels(tour).await?;
    service(tour).await?;
    tour.env()
        .screen
        .begin("waiting for the finished Job's VM to go by itself");
    tour.job_released().await?;
    tour.env().screen.show("");
    Ok(())
}

/// Shows the Job's log while its VM is there: logs go with the node.
async fn report(tour: &Tour<'_>) -> Result<()> {
    tour.job_done().await?;
    let env = tour.env();
    let job = format!("job/{REPORT}");
    let arguments = ["logs", "-n", BY_NAMESPACE, job.as_str()];
    // The kubelet may have had its serving certificate later than the Job needed for its work.
    eventually("the Job's logs", env.limit, || async {
        Ok(Some(env.control_plane.kubectl(&arguments).await?))
    })
    .await?;
    let logs = env.kubectl(&arguments).await?;
    ensure!(logs.trim_end().ends_with("done"), "the Job did not do its work");
    Ok(())
}

/// Shows that pods run on a kernel of their own.
async fn kernels(tour: &Tour<'_>) -> Result<()> {
    let env = tour.env();
    env.kubectl(&["logs", "-n", BY_POD, &format!("deployment/{WEB}")])
        .await?;
    let store = format!("{STORE}-0");
    let exec = async |command: &[&str]| {
        let inside = ["exec", "-n", BY_POD, store.as_str(), "--", "/bin/busybox"];
        env.kubectl(&[&inside, command].concat()).await
    };
    let uname = exec(&["uname", "-a"]).await?;
    let on_host = Command::new("uname").arg("-a").output()?.stdout;
    let on_host = String::from_utf8_lossy(&on_host);
    env.screen
        .show(&format!("on this machine:\n$ uname -a\n{on_host}"));
    let command_line = exec(&["cat", "/proc/cmdline"]).await?;
    let on_host_command_line = fs::read_to_string("/proc/cmdline")?;
    env.screen.show(&format!(
        "on this machine:\n$ cat /proc/cmdline\n{on_host_command_line}"
    ));
    let release = |uname: &str| uname.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
    ensure!(
        release(&uname) != release(&on_host),
        "the pod runs on this machine's kernel"
    );
    ensure!(
        command_line != on_host_command_line,
        "the pod's kernel was started as this machine's"
    );
    Ok(())
}

/// Shows the Service answered by a marooned pod, asked by the ordinary pod on a host node.
async fn service(tour: &Tour<'_>) -> Result<()> {
    let env = tour.env();
    let service = Api::<Service>::namespaced(env.admin.clone(), BY_POD)
        .get(WEB)
        .await?;
    let address = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .context("the Service has no address")?;
    let url = format!("http://{address}/");
    let arguments = ["exec", "-n", BY_POD, PLAIN, "--", "/testserver", "get", &url];
    // kube-proxy on the client's node learns of the endpoints when it does.
    eventually("the Service answers", env.limit, || async {
        Ok(Some(env.control_plane.kubectl(&arguments).await?))
    })
    .await?;
    let pods = Api::<Pod>::namespaced(env.admin.clone(), BY_POD);
    let client = node_of(&pods.get(PLAIN).await?);
    let answer = env.kubectl(&arguments).await?;
    let web = pods
        .list(&ListParams::default().labels(&format!("app={WEB}")))
        .await?;
    let server = web
        .iter()
        .find(|pod| answer.trim() == format!("this is {}", pod.name_any()));
    let server = server.with_context(|| format!("not an answer of {WEB}'s: {answer}"))?;
    let uid = server.uid().unwrap_or_default();
    let launchers = Api::<Pod>::namespaced(env.admin.clone(), names::VM_NAMESPACE);
    let launchers = launchers
        .list(&ListParams::default().labels(&format!("{}={uid}", names::POD_UID_LABEL)))
        .await?;
    let host = launchers.iter().next().map(node_of).unwrap_or_default();
    env.screen.say(&format!(
        "{PLAIN} on {client} was answered by {} on {},",
        server.name_any(),
        node_of(server)
    ));
    env.screen.say(&format!("whose VM is on {host}"));
    ensure!(client != node_of(server), "client and server are on one node");
    Ok(())
}

fn node_of(pod: &Pod) -> String {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .unwrap_or_default()
}
