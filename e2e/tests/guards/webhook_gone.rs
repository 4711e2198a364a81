//! The webhook's configuration is deleted: its additions are missing, and a pod that opted in is refused.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::harness::fixtures::spec;
use maroonedpods_e2e::harness::marooned_pod::SOON;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;
use serde_json::{Value, json};

use crate::fixtures::{create, dry_run, from, mirror};
use crate::table::Table;

#[tokio::test(flavor = "multi_thread")]
async fn who_opted_in_is_refused_without_the_webhook() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(admin.clone());
    configurations
        .delete("maroonedpods", &DeleteParams::default())
        .await
        .unwrap();
    let mut spaces = Vec::new();
    for choice in [None, Some(names::MAROON_TRUE), Some(names::MAROON_ENFORCED)] {
        let labels: Vec<_> = choice
            .map(|value| (names::MAROON_LABEL, value))
            .into_iter()
            .collect();
        spaces.push(TestNamespace::new(&admin, &labels).await.unwrap());
    }
    let [plain, opted_in, enforced] =
        [0, 1, 2].map(|i| Api::<Pod>::namespaced(admin.clone(), &spaces[i].name));
    // An opted-in pod passes once the API server asks no webhook, if it is as the webhook would have made it.
    let labels = |value: &str| json!({"labels": {names::MAROON_LABEL: value}});
    let prepared = || json!({"schedulingGates": [{"name": names::GATE}]});
    eventually("the webhook's end", SOON, || async {
        Ok(Some(create(&plain, labels("true"), prepared()).await?))
    })
    .await
    .unwrap();

    let says = "the webhook did not prepare the pod";
    let mut table = Table::of("any user, without the webhook");
    for (attempt, pods, metadata, twin, twin_spec) in [
        (
            "create a labelled pod without the gate",
            &plain,
            labels("true"),
            labels("true"),
            prepared(),
        ),
        (
            "create a pod in an opted-in namespace",
            &opted_in,
            json!({}),
            labels("false"),
            json!({}),
        ),
        (
            "create a pod where no one may opt out",
            &enforced,
            json!({}),
            labels("true"),
            prepared(),
        ),
        (
            "opt out where no one may",
            &enforced,
            labels("false"),
            labels("true"),
            prepared(),
        ),
    ] {
        let attack = create(pods, metadata, json!({}));
        table
            .refuses(attempt, says, attack, create(pods, twin, twin_spec))
            .await;
    }
    table.print();

    // A host's own pods need no permission to start.
    let host = env
        .control_plane()
        .user("system:node:host-1", names::NODES_GROUP)
        .await
        .unwrap();
    let mirror = mirror(&Api::<Node>::all(host.clone()).get("host-1").await.unwrap());
    Api::<Pod>::namespaced(host, &spaces[2].name)
        .create(&dry_run(), &mirror)
        .await
        .unwrap();

    daemon_sets(&env, &spaces[1].name).await;
    env.stop().await.unwrap();
}

/// A DaemonSet's pods are made where the namespace opted in; one that opts in by itself is told why it cannot.
async fn daemon_sets(env: &TestEnv, namespace: &str) {
    let admin = env.control_plane().admin().await.unwrap();
    let sets: Api<DaemonSet> = Api::namespaced(admin.clone(), namespace);
    let events: Api<Event> = Api::namespaced(admin.clone(), namespace);
    let set = |name: &str, labels: &Value| -> DaemonSet {
        from(json!({
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": "agent"}},
                "template": {"metadata": {"labels": labels}, "spec": spec()},
            },
        }))
    };
    let silent = set("silent", &json!({"app": "agent"}));
    accepts(&sets, &silent).await.unwrap();
    eventually("the DaemonSet's pods", SOON, || async {
        let status = sets.get("silent").await?.status.unwrap_or_default();
        Ok((status.number_ready == 3).then_some(()))
    })
    .await
    .unwrap();
    let eager = set("eager", &json!({"app": "agent", (names::MAROON_LABEL): "true"}));
    sets.create(&PostParams::default(), &eager).await.unwrap();
    let about = ListParams::default().fields("involvedObject.name=eager");
    let message = eventually("a refused pod", SOON, || async {
        let mut messages = events
            .list(&about)
            .await?
            .items
            .into_iter()
            .filter_map(|event| event.message);
        Ok(messages.next())
    })
    .await
    .unwrap();
    let mut table = Table::of("a DaemonSet");
    table.fails(
        "opt its pods in",
        "a DaemonSet's pods and static pods are never marooned",
        message,
    );
    table.print();
}
