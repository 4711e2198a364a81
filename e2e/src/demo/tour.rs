//! What every demo shows: the workloads' lives from creation to the proof that nothing is left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};
use maroonedpods_common::names;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::screen::Screen;
use super::timeline::{self, Seen, Stage};
use super::workloads::{self, BY_NAMESPACE, BY_POD, PLAIN, REPORT, STORE, WEB};
use crate::api::apply::apply;
use crate::api::check::{eventually, gone};
use crate::api::leftovers::nothing_left;
use crate::api::read::vm_host;
use crate::control_plane::ControlPlane;
use crate::harness::test_env::wait_for_default_account;
use crate::system::tools::{self, Tool};

/// A cluster with MaroonedPods on it, and how to show it.
pub struct DemoEnv<'a> {
    /// Its control plane.
    pub control_plane: &'a ControlPlane,
    /// A client that may do everything.
    pub admin: Client,
    /// Where it is shown.
    pub screen: Arc<Screen>,
    /// How long any step may take.
    pub limit: Duration,
}

/// The workloads in an environment.
pub struct Tour<'a> {
    env: DemoEnv<'a>,
    watching: watch::Receiver<Seen>,
    /// UIDs of the marooned pods, without the Job's.
    lasting: BTreeSet<String>,
    job: BTreeSet<String>,
    // Dropped, it ends them.
    _following: JoinSet<()>,
}

impl<'a> Tour<'a> {
    /// Creates the workloads; what becomes of them is printed from now on.
    pub async fn start(env: DemoEnv<'a>, replicas: u32) -> Result<Self> {
        let (seen, watching) = watch::channel(Seen::new());
        let mut following = JoinSet::new();
        following.spawn(timeline::follow(
            env.admin.clone(),
            names::VM_NAMESPACE,
            Arc::clone(&env.screen),
            seen,
        ));
        create(&env, replicas).await?;
        let opted_in =
            ListParams::default().labels(&format!("{}={}", names::MAROON_LABEL, names::MAROON_TRUE));
        let all = usize::try_from(workloads::marooned(replicas))?;
        let pods = eventually("the marooned pods", env.limit, || async {
            let pods = Api::<Pod>::all(env.admin.clone()).list(&opted_in).await?.items;
            Ok((pods.len() == all).then_some(pods))
        })
        .await?;
        let in_job = |pod: &Pod| pod.namespace().as_deref() == Some(BY_NAMESPACE);
        let (job, lasting): (Vec<_>, Vec<_>) = pods.into_iter().partition(in_job);
        let uids = |pods: Vec<Pod>| pods.iter().filter_map(ResourceExt::uid).collect();
        Ok(Self {
            env,
            watching,
            lasting: uids(lasting),
            job: uids(job),
            _following: following,
        })
    }

    /// The environment of the tour.
    pub fn env(&self) -> &DemoEnv<'a> {
        &self.env
    }

    /// Waits until each marooned pod has run on its own node, and the ordinary one on a host.
    pub async fn up(&self) -> Result<()> {
        let up = [
            Stage::Gated,
            Stage::Launched,
            Stage::Booted,
            Stage::Registered,
            Stage::Ready,
            Stage::Lifted,
            Stage::Running,
        ];
        let all = &self.lasting | &self.job;
        self.wait_for(&all, &up).await?;
        let plain: Api<Pod> = Api::namespaced(self.env.admin.clone(), BY_POD);
        let node = eventually("the ordinary pod runs", self.env.limit, || async {
            let pod = plain.get(PLAIN).await?;
            let runs = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
            Ok(pod.spec.and_then(|s| s.node_name).filter(|_| runs))
        })
        .await?;
        ensure!(
            names::pod_uid_of(&node).is_none(),
            "the ordinary pod runs on {node}, which is not a host node"
        );
        Ok(())
    }

    /// Waits until the Job's pod has done its work.
    pub async fn job_done(&self) -> Result<()> {
        self.wait_for(&self.job, &[Stage::Finished]).await
    }

    /// Waits until the Job's VM has gone by itself, and all that belonged to it.
    pub async fn job_released(&self) -> Result<()> {
        self.wait_for(
            &self.job,
            &[Stage::Finished, Stage::VmGone, Stage::NodeGone, Stage::Released],
        )
        .await
    }

    /// Shows what kubectl shows.
    pub async fn show(&self) -> Result<()> {
        self.env.screen.show("");
        for arguments in [
            ["get", "pods", "-A", "-l", "kubevirt.io!=virt-launcher", "-o", "custom-columns=NAMESPACE:.metadata.namespace,NAME:.metadata.name,STATUS:.status.phase,IP:.status.podIP,NODE:.spec.nodeName"].as_slice(),
            &["get", "nodes", "-o", "custom-columns=NAME:.metadata.name,IP:.status.addresses[0].address,KERNEL:.status.nodeInfo.kernelVersion,VERSION:.status.nodeInfo.kubeletVersion"],
            &["get", "maroonednodes"],
            &["get", "virtualmachineinstances", "-n", names::VM_NAMESPACE],
        ] {
            self.env.kubectl(arguments).await?;
        }
        self.hosts().await
    }

    /// Shows on which hosts the VMs of the Deployment's pods are.
    async fn hosts(&self) -> Result<()> {
        let replicas = Api::<Pod>::namespaced(self.env.admin.clone(), BY_POD)
            .list(&ListParams::default().labels(&format!("app={WEB}")))
            .await?;
        for pod in replicas {
            // None if it took a later attempt.
            if let Some(host) = vm_host(&self.env.admin, &pod).await? {
                self.env
                    .screen
                    .say(&format!("the VM of {} is on {host}", pod.name_any()));
            }
        }
        Ok(())
    }

    /// Says how to use the cluster by hand, after the commands `before` it, and leaves it up for ever.
    pub async fn keep(&self, before: &[String]) -> Result<()> {
        let env = &self.env;
        let kubeconfig = format!("export KUBECONFIG={}", env.control_plane.kubeconfig().display());
        let commands: Vec<_> = before
            .iter()
            .chain([&kubeconfig])
            .map(|line| format!("  {line}\n"))
            .collect();
        env.screen.show(&format!(
            "Kept up, for use by hand:\n\n{}\nkubectl, if you have none: {}\n\
             Label a pod {}=true and watch `kubectl get mn -w`. Ctrl-C ends and cleans up.",
            commands.concat(),
            tools::find(Tool::Kubectl)?.display(),
            names::MAROON_LABEL
        ));
        env.screen.rest();
        std::future::pending().await
    }

    /// Deletes the workloads, waits until all is gone, and proves it by listing.
    pub async fn end(&self) -> Result<()> {
        self.env.screen.begin("deleting the workloads");
        let namespaces = Api::<Namespace>::all(self.env.admin.clone());
        for name in [BY_POD, BY_NAMESPACE] {
            namespaces.delete(name, &DeleteParams::background()).await?;
        }
        let all = &self.lasting | &self.job;
        self.wait_for(
            &all,
            &[Stage::Deleted, Stage::VmGone, Stage::NodeGone, Stage::Released],
        )
        .await?;
        for name in [BY_POD, BY_NAMESPACE] {
            gone(&namespaces, name, self.env.limit).await?;
        }
        self.env.prove_nothing_left().await
    }

    async fn wait_for(&self, pods: &BTreeSet<String>, stages: &[Stage]) -> Result<()> {
        let mut waiting = self.watching.clone();
        let limit = self.env.limit;
        let all = tokio::time::timeout(
            limit,
            waiting.wait_for(|seen| missing(seen, pods, stages).is_empty()),
        )
        .await;
        if let Ok(seen) = all {
            return seen.map(drop).context("the timeline ended");
        }
        bail!(
            "not seen within {} s: {}",
            limit.as_secs(),
            missing(&self.watching.borrow(), pods, stages).join(", ")
        )
    }
}

impl DemoEnv<'_> {
    /// Runs kubectl, and shows command and output.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.control_plane.kubectl(arguments).await?;
        let shown = if output.trim().is_empty() {
            "No resources found"
        } else {
            output.trim_end()
        };
        self.screen
            .show(&format!("$ kubectl {}\n{shown}\n", arguments.join(" ")));
        Ok(output)
    }

    async fn prove_nothing_left(&self) -> Result<()> {
        eventually("nothing is left", self.limit, || async {
            let mut left = nothing_left(&self.admin).await?;
            let launchers = Api::<Pod>::namespaced(self.admin.clone(), names::VM_NAMESPACE);
            let launchers = launchers.list(&ListParams::default()).await?;
            left.extend(launchers.iter().map(|pod| format!("Pod {}", pod.name_any())));
            ensure!(left.is_empty(), "left: {}", left.join(", "));
            Ok(Some(()))
        })
        .await?;
        self.screen.show("");
        for arguments in [
            ["get", "nodes", "-l", names::CLASS_LABEL].as_slice(),
            &["get", "maroonednodes"],
            &[
                "get",
                "virtualmachineinstances,secrets,pods",
                "-n",
                names::VM_NAMESPACE,
            ],
            &["get", "secrets", "-n", names::TOKEN_NAMESPACE],
            &["get", "certificatesigningrequests"],
        ] {
            self.kubectl(arguments).await?;
        }
        Ok(())
    }
}

async fn create(env: &DemoEnv<'_>, replicas: u32) -> Result<()> {
    let objects = |all: Vec<Value>| {
        all.into_iter()
            .map(serde_json::from_value)
            .collect::<Result<_, _>>()
    };
    apply(&env.admin, objects(workloads::namespaces())?).await?;
    for name in [BY_POD, BY_NAMESPACE] {
        wait_for_default_account(&env.admin, name).await?;
    }
    env.screen.say(&format!(
        "creating Deployment {BY_POD}/{WEB} and StatefulSet {BY_POD}/{STORE} (their pods are labelled),"
    ));
    env.screen.say(&format!(
        "Job {BY_NAMESPACE}/{REPORT} (its namespace is), and an ordinary pod {BY_POD}/{PLAIN}"
    ));
    env.screen.begin("and waiting until they run");
    env.screen.show("");
    apply(&env.admin, objects(workloads::objects(replicas))?).await
}

/// The stages that pods were not seen in.
fn missing(seen: &Seen, pods: &BTreeSet<String>, stages: &[Stage]) -> Vec<String> {
    let of = |uid: &String| {
        let had = seen.get(uid).cloned().unwrap_or_default();
        let uid = uid.clone();
        stages
            .iter()
            .filter(move |stage| !had.contains(stage))
            .map(move |stage| format!("{stage:?} of pod {uid}"))
    };
    pods.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_is_named() {
        let pods = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let seen = Seen::from([("a".to_owned(), BTreeSet::from([Stage::Gated, Stage::Launched]))]);
        let stages = [Stage::Gated];
        assert_eq!(missing(&seen, &pods, &stages), ["Gated of pod b"]);
        assert!(missing(&seen, &BTreeSet::from(["a".to_owned()]), &stages).is_empty());
    }
}
