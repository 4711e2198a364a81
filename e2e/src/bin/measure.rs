//! Measures a pod's life at the API server: writes, and the time from a ready Node to the lifted gate.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::audit::AuditEvent;
use maroonedpods_e2e::check::{TestNamespace, becomes, eventually, nothing_left};
use maroonedpods_e2e::install::{RECONCILER_ACCOUNT, SYSTEM_NAMESPACE};
use maroonedpods_e2e::world::World;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(120);

/// Measures marooned pods' lives on a real control plane, from its audit log.
///
/// Creates pods, a few at a time, waits until they run, deletes them. VMs are played, so boot times mean nothing
/// here; what is measured is the reconciler's and the API server's part.
#[derive(Parser)]
#[command(name = "hack/measure")]
struct Args {
    /// How many pods.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// How many at a time.
    #[arg(long, default_value_t = 5)]
    at_once: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hack/measure failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    eprintln!("starting the control plane");
    let world = World::start(0).await?;
    let reconciler = world.reconciler(true).await?;
    let admin = world.plane().admin().await?;
    let namespace = TestNamespace::new(&admin, &[]).await?;
    let mut pods = Vec::new();
    for first in (0..args.pods).step_by(args.at_once.max(1)) {
        let batch = (first..args.pods.min(first + args.at_once)).map(|n| live(&admin, &namespace.name, n));
        pods.extend(futures::future::try_join_all(batch).await?);
        eprintln!("{} of {} pods have lived", pods.len(), args.pods);
    }
    eventually("nothing is left", LIMIT, || async {
        Ok(nothing_left(&admin).await?.is_empty().then_some(()))
    })
    .await?;
    report(&world.plane().audit()?, &pods);
    reconciler.stop().await?;
    world.stop().await
}

/// One pod, from its creation until it is gone. Returns its name and UID.
async fn live(admin: &Client, namespace: &str, number: usize) -> Result<(String, String)> {
    let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
    let name = format!("measured-{number}");
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {names::MAROON_LABEL: "true"}},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}]},
    }))?;
    let created = pods.create(&PostParams::default(), &pod).await?;
    becomes(&pods, &name, "Running", LIMIT, |pod: &Pod| {
        pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
    })
    .await?;
    pods.delete(&name, &DeleteParams::default()).await?;
    Ok((name, created.uid().context("a pod without a UID")?))
}

fn report(audit: &[AuditEvent], pods: &[(String, String)]) {
    let reconciler = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{RECONCILER_ACCOUNT}");
    let ours: Vec<_> = audit
        .iter()
        .filter(|e| e.user == reconciler && e.is_write())
        .collect();
    let events = ours.iter().filter(|e| e.resource == "events").count();
    let leases = ours.iter().filter(|e| e.resource == "leases").count();
    let writes = ours.len() - events - leases;
    let count = pods.len().max(1);
    println!("pods                                   {}", pods.len());
    println!(
        "reconciler's writes per pod life       {:.2}  (leases and events apart)",
        ratio(writes, count)
    );
    println!(
        "events per pod life                    {:.2}",
        ratio(events, count)
    );
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for e in ours.iter().filter(|e| e.resource != "leases") {
        let subresource = if e.subresource.is_empty() {
            String::new()
        } else {
            format!("/{}", e.subresource)
        };
        let refused = if e.code >= 400 {
            format!(" answered {}", e.code)
        } else {
            String::new()
        };
        *kinds
            .entry(format!("{} {}{subresource}{refused}", e.verb, e.resource))
            .or_default() += 1;
    }
    for (kind, n) in kinds {
        println!("  {kind:<52} {:.2}", ratio(n, count));
    }
    let mut lifts: Vec<f64> = pods
        .iter()
        .filter_map(|(name, uid)| ready_to_lifted(audit, &reconciler, name, uid))
        .collect();
    lifts.sort_by(f64::total_cmp);
    let at = |percent: usize| lifts.get((lifts.len() * percent / 100).min(lifts.len().saturating_sub(1)));
    let milliseconds = |v: Option<&f64>| v.map_or("none".to_owned(), |v| format!("{v:.1} ms"));
    println!(
        "Node Ready written → gate lifted       p50 {}, p99 {}, of {} pods",
        milliseconds(at(50)),
        milliseconds(at(99)),
        lifts.len()
    );
}

/// From the answer to the kubelet's first status report, which says Ready, to the answer to the lift patch, in
/// milliseconds.
fn ready_to_lifted(audit: &[AuditEvent], reconciler: &str, pod: &str, uid: &str) -> Option<f64> {
    let node = names::node_name(uid);
    let kubelet = format!("{}{node}", names::NODE_USER_PREFIX);
    let ready = audit
        .iter()
        .find(|e| e.user == kubelet && e.resource == "nodes" && e.subresource == "status")?;
    let lifted = audit.iter().find(|e| {
        e.user == reconciler
            && e.resource == "pods"
            && e.subresource.is_empty()
            && e.verb == "patch"
            && e.name == pod
    })?;
    Some(lifted.completed.duration_since(ready.completed).as_secs_f64() * 1000.0)
}

fn ratio(n: usize, of: usize) -> f64 {
    // Counts of requests are far below 2^52.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let ratio = n as f64 / of as f64;
    ratio
}
