//! The users' part: many pods at once, and how many there are of what.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use maroonedpods_common::names;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use crate::bench::lives::Subject;

/// Requests of ours, as the user, under way at once: "at once" is as fast as the API server takes them.
const USERS_REQUESTS: usize = 32;

/// Creates so many pods at once, with a scheduler of their own or without.
pub(super) async fn create(
    pods: &Api<Pod>,
    namespace: &str,
    count: usize,
    scheduler: Option<&str>,
) -> Result<Vec<Subject>> {
    let create = |number: usize| async move {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("bench-{number}"), "labels": {names::MAROON_LABEL: "true"}},
            "spec": {
                "schedulerName": scheduler,
                "automountServiceAccountToken": false,
                "containers": [{"name": "app", "image": "registry.example/app:1"}],
            },
        }))?;
        let created = pods.create(&PostParams::default(), &pod).await?;
        anyhow::Ok(Subject {
            namespace: namespace.to_owned(),
            name: created.name_any(),
            uid: created.uid().context("a stored pod has a UID")?,
        })
    };
    stream::iter(0..count)
        .map(create)
        .buffer_unordered(USERS_REQUESTS)
        .try_collect()
        .await
}

/// Deletes them at once.
pub(super) async fn delete(pods: &Api<Pod>, subjects: &[Subject]) -> Result<()> {
    let names = subjects.iter().map(|subject| subject.name.clone());
    let delete = |name: String| async move { pods.delete(&name, &DeleteParams::default()).await.map(drop) };
    let deleted = stream::iter(names).map(delete).buffer_unordered(USERS_REQUESTS);
    Ok(deleted.try_collect().await?)
}

/// Follows all objects until the number of those that `counts` is as wanted. Says how it goes on.
pub(super) async fn until<K>(
    api: &Api<K>,
    what: &str,
    limit: Duration,
    wanted: impl Fn(usize) -> bool,
    counts: impl Fn(&K) -> bool,
) -> Result<()>
where
    K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut counted = HashSet::new();
    let mut said = Instant::now();
    let mut listed = false;
    let mut events = std::pin::pin!(watcher(api.clone(), watcher::Config::default()));
    let follow = async {
        while let Some(event) = events.next().await {
            // The watcher lists and watches again by itself after an error.
            let Ok(event) = event else { continue };
            match event {
                Event::Init => {
                    counted.clear();
                    listed = false;
                }
                Event::Apply(object) | Event::InitApply(object) if counts(&object) => {
                    counted.extend(object.uid());
                }
                Event::Delete(object) => _ = object.uid().map(|uid| counted.remove(&uid)),
                Event::InitDone => listed = true,
                Event::Apply(_) | Event::InitApply(_) => {}
            }
            if listed && wanted(counted.len()) {
                break;
            }
            if said.elapsed() > Duration::from_secs(5) {
                eprintln!("  {} {what}", counted.len());
                said = Instant::now();
            }
        }
    };
    let reached = timeout(limit, follow).await;
    ensure!(
        reached.is_ok(),
        "{} {what} after {} s",
        counted.len(),
        limit.as_secs()
    );
    Ok(())
}
