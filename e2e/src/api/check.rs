//! Assertions about the cluster, for tests. Every helper returns an error that shows the object and its events; a test
//! should `unwrap` it, because a panic is what keeps the control plane's logs.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use k8s_openapi::api::core::v1::Event;
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time;

const POLL: Duration = Duration::from_millis(100);

/// Creates `object`, which the API server must accept. Returns what it made of it.
pub async fn accepts<K>(api: &Api<K>, object: &K) -> Result<K>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    api.create(&PostParams::default(), object).await.map_err(|error| {
        anyhow!(
            "refused, but should have been accepted: {error}\n{}",
            yaml(object)
        )
    })
}

/// Tries to create `object`, which the API server must refuse as invalid or forbidden. Returns its message.
pub async fn rejects<K>(api: &Api<K>, object: &K) -> Result<String>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    refused(api.create(&PostParams::default(), object).await)
}

/// The message of a request that the API server must have refused as invalid or forbidden (400, 403 or 422), for
/// requests other than a create.
pub fn refused<T: Serialize>(answer: kube::Result<T>) -> Result<String> {
    match answer {
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => Ok(status.message.clone()),
        Err(error) => Err(anyhow!(error).context("should have been refused as invalid or forbidden")),
        Ok(object) => bail!("accepted, but should have been refused:\n{}", yaml(&object)),
    }
}

/// Calls `probe` again and again until it returns a value. `None` and errors both mean "not yet"; the last error is
/// part of what is reported when `limit` has passed.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    loop {
        let last_error = match probe().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() >= limit {
            let gave_up = format!("waited {} s for {what}", limit.as_secs());
            return Err(last_error.map_or_else(
                || anyhow!(gave_up.clone()),
                |error| error.context(gave_up.clone()),
            ));
        }
        time::sleep(POLL).await;
    }
}

/// Waits until the object called `name` is as `condition` says. When it gives up, the error shows the object and
/// its events.
pub async fn becomes<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    condition: impl Fn(&K) -> bool,
) -> Result<K>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let reached = eventually(what, limit, || async {
        Ok(api.get_opt(name).await?.filter(&condition))
    })
    .await;
    match reached {
        Ok(object) => Ok(object),
        Err(error) => Err(error.context(describe(api, name).await)),
    }
}

/// Waits until no object is called `name`. When it gives up, the error shows the object and its events.
pub async fn gone<K>(api: &Api<K>, name: &str, limit: Duration) -> Result<()>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let what = format!("{name} to be gone");
    let gone = eventually(&what, limit, || async {
        Ok(api.get_opt(name).await?.is_none().then_some(()))
    })
    .await;
    match gone {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(describe(api, name).await)),
    }
}

/// The object as YAML and its events, for people.
async fn describe<K>(api: &Api<K>, name: &str) -> String
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let object = match api.get_opt(name).await {
        Ok(Some(object)) => yaml(&object),
        Ok(None) => format!("{name} does not exist"),
        Err(error) => format!("{name} cannot be read: {error}"),
    };
    let events: Api<Event> = Api::all(api.clone().into_client());
    let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
    let lines = match events.list(&about).await {
        Ok(list) => list.iter().map(event_line).collect::<Vec<_>>().join("\n"),
        Err(error) => format!("events cannot be read: {error}"),
    };
    format!("{object}\nevents:\n{lines}")
}

fn event_line(event: &Event) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    format!(
        "  {} {}: {}",
        text(&event.type_),
        text(&event.reason),
        text(&event.message)
    )
}

fn yaml(object: &impl Serialize) -> String {
    serde_yaml_ng::to_string(object).unwrap_or_else(|error| format!("(cannot be shown: {error})"))
}
