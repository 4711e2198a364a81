//! Does a cluster leave the machine as it was, stopped or killed?

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use maroonedpods_e2e::cluster::{Cluster, ClusterOptions, provide, with_cluster};
use serde_json::json;

use super::traces::{hold_and_kill, machine, traces_of};
use super::{import_image, pod, runs};

fn one_node() -> ClusterOptions {
    ClusterOptions {
        nodes: 1,
        ..ClusterOptions::default()
    }
}

/// Starts a pod, so that there are containers, mounts and links to be removed.
async fn use_the_node(cluster: &Cluster) {
    import_image(cluster).await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.control_plane().admin().await.unwrap());
    runs(&pods, &pod("server", &["serve"], &json!({"volumeMounts": []}))).await;
}

#[test]
fn stopping_leaves_the_machine_as_it_was() {
    let before = provide().unwrap().then(machine);
    with_cluster(one_node(), async |cluster| {
        use_the_node(&cluster).await;
        let folder = cluster.control_plane().folder().to_owned();
        let traces = traces_of(&folder);
        assert!(traces.len() > 10, "{traces:?}");
        cluster.stop().await.unwrap();
        assert_eq!(traces_of(&folder), [""; 0]);
        assert!(!folder.exists());
    })
    .unwrap();
    assert_eq!(before.is_some().then(machine), before);
}

/// Run by the test below, in a process to be killed.
#[test]
#[ignore = "waits until it is killed"]
fn holds_a_cluster() {
    with_cluster(one_node(), async |cluster| {
        use_the_node(&cluster).await;
        println!("FOLDER={}", cluster.control_plane().folder().display());
        std::future::pending::<()>().await;
    })
    .unwrap();
}

#[test]
fn being_killed_leaves_the_machine_as_it_was() {
    let before = provide().unwrap().then(machine);
    with_cluster(
        ClusterOptions {
            nodes: 0,
            ..ClusterOptions::default()
        },
        async |_| drop(hold_and_kill("machine::holds_a_cluster").await),
    )
    .unwrap();
    assert_eq!(before.is_some().then(machine), before);
}
