//! What real guests say on their consoles while they boot, as they say it.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::names;
use tokio::task::JoinSet;

use super::screen::Screen;
use super::timeline::line;
use crate::harness::bare_guest::{Phase, phases};
use crate::kubevirt::CONSOLE;

const LAUNCHERS: &str = "kubevirt.io=virt-launcher";

/// Prints for ever.
pub async fn follow(client: Client, screen: Arc<Screen>) {
    let launchers = Api::<Pod>::namespaced(client.clone(), names::VM_NAMESPACE);
    let config = watcher::Config::default().labels(LAUNCHERS);
    let mut changes = watcher(launchers, config)
        .default_backoff()
        .applied_objects()
        .boxed();
    let mut known = HashSet::new();
    let mut consoles = JoinSet::new();
    while let Some(change) = changes.next().await {
        let Ok(launcher) = change else { continue };
        if has_console(&launcher) && known.insert(launcher.name_any()) {
            let (client, screen) = (client.clone(), Arc::clone(&screen));
            consoles.spawn(async move {
                if let Err(error) = console(client, &screen, &launcher).await {
                    screen.say(&line(&launcher.name_any(), &format!("{error:#}")));
                }
            });
        }
    }
}

fn has_console(launcher: &Pod) -> bool {
    // KubeVirt's is a sidecar, which Kubernetes counts among the init containers.
    let statuses = launcher
        .status
        .iter()
        .flat_map(|status| &status.init_container_statuses);
    let mut running = statuses.flatten().filter(|container| {
        let state = container.state.as_ref();
        state.is_some_and(|state| state.running.is_some())
    });
    running.any(|container| container.name == CONSOLE)
}

async fn console(client: Client, screen: &Screen, launcher: &Pod) -> Result<()> {
    let uid = launcher
        .labels()
        .get(names::POD_UID_LABEL)
        .context("a launcher without the label of a pod")?;
    let record = Api::<MaroonedNode>::all(client.clone())
        .get(&names::node_name(&uid.as_str().into()))
        .await?;
    let pod = format!("{}/{}", record.spec.pod_ref.namespace, record.spec.pod_ref.name);
    let parameters = LogParams {
        container: Some(CONSOLE.to_owned()),
        follow: true,
        ..LogParams::default()
    };
    let launchers = Api::<Pod>::namespaced(client, names::VM_NAMESPACE);
    let lines = launchers
        .log_stream(&launcher.name_any(), &parameters)
        .await
        .context("reading its console")?;
    let mut lines = lines.lines();
    // An error ends it as the guest's end does: the connection goes with the guest's host.
    while let Ok(Some(said)) = lines.try_next().await {
        for text in phases(&said).iter().filter_map(words) {
            screen.say(&line(&pod, &text));
        }
    }
    Ok(())
}

/// What a phase is for people; none for those in between.
fn words(phase: &Phase) -> Option<String> {
    let what = match phase.name.as_str() {
        "initrd" => "its own Linux runs",
        "containerd" => "containerd answers",
        "kubelet" => "the kubelet starts",
        "poweroff" => "switches itself off",
        _ => return None,
    };
    Some(format!(
        "  console   {what}, {:.1} s after power-on",
        phase.elapsed
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_has_a_console_once_its_sidecar_runs() {
        let launcher = |state: serde_json::Value| -> Pod {
            let statuses = serde_json::json!([{"name": "guest-console-log", "state": state, "ready": true,
                "restartCount": 0, "image": "", "imageID": ""}]);
            let pod =
                serde_json::json!({"metadata": {"name": "l"}, "status": {"initContainerStatuses": statuses}});
            serde_json::from_value(pod).unwrap()
        };
        assert!(has_console(&launcher(serde_json::json!({"running": {}}))));
        assert!(!has_console(&launcher(serde_json::json!({"waiting": {}}))));
    }

    #[test]
    fn the_console_is_put_into_words() {
        let said = phases(
            "[    0.1] Linux\r\nmarooned: phase=containerd elapsed=4.250\r\nmarooned: phase=seed elapsed=5\r\n",
        );
        let words: Vec<_> = said.iter().filter_map(words).collect();
        assert_eq!(words, ["  console   containerd answers, 4.2 s after power-on"]);
    }
}
