//! What tests say about the cluster. Every helper returns an error that shows the object and its events; a test
//! should `unwrap` it, because a panic is what keeps the plane's logs.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Secret, ServiceAccount};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{GroupVersionKind, ObjectMeta};
use kube::{Api, Client, Resource, ResourceExt};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time;

const POLL: Duration = Duration::from_millis(100);
const NAMESPACE_LIMIT: Duration = Duration::from_secs(90);

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

/// Asks `probe` again and again until it gives a value. `None` and errors both mean "not yet"; the last error is
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

/// A fresh namespace for one test. Close it at the end; after a panic it goes with the plane.
#[derive(Debug)]
pub struct TestNamespace {
    /// Its name, chosen by the server.
    pub name: String,
}

impl TestNamespace {
    /// Makes a namespace with `labels` and waits until pods can be created in it, which takes its default
    /// service account.
    pub async fn new(client: &Client, labels: &[(&str, &str)]) -> Result<Self> {
        let labels: BTreeMap<_, _> = labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        let wanted = Namespace {
            metadata: ObjectMeta {
                generate_name: Some("test-".to_owned()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let name = accepts(&Api::all(client.clone()), &wanted).await?.name_any();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
        becomes(
            &accounts,
            "default",
            "the default service account",
            NAMESPACE_LIMIT,
            |_| true,
        )
        .await?;
        Ok(Self { name })
    }

    /// Deletes the namespace with all that is in it, and waits until it is gone.
    pub async fn close(self, client: &Client) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.delete(&self.name, &DeleteParams::default()).await?;
        gone(&namespaces, &self.name, NAMESPACE_LIMIT).await
    }
}

/// What is still there of any marooned pod, one line each: records, Nodes, VMs, join Secrets, bootstrap tokens and
/// certificate requests, by live lists. Empty when nothing is.
pub async fn nothing_left(client: &Client) -> Result<Vec<String>> {
    Ok(leftovers(client)
        .await?
        .into_iter()
        .map(|left| left.line)
        .collect())
}

/// The same for one pod alone, by its UID.
pub async fn nothing_left_of(client: &Client, pod_uid: &str) -> Result<Vec<String>> {
    let all = leftovers(client).await?;
    Ok(all
        .into_iter()
        .filter(|left| left.pod_uid.as_deref() == Some(pod_uid))
        .map(|left| left.line)
        .collect())
}

/// Something of ours that exists.
struct Leftover {
    line: String,
    pod_uid: Option<String>,
}

async fn leftovers(client: &Client) -> Result<Vec<Leftover>> {
    let all = ListParams::default();
    let mut left = Vec::new();
    let mut add = |kind: &str, name: String, pod_uid: Option<String>| {
        left.push(Leftover {
            line: format!("{kind} {name}"),
            pod_uid,
        });
    };
    let by_name = |name: &str| names::pod_uid_of(name).map(str::to_owned);

    for node in Api::<Node>::all(client.clone()).list(&all).await? {
        if let Some(uid) = by_name(&node.name_any()) {
            add("Node", node.name_any(), Some(uid));
        }
    }
    for vmi in list_if_served(&vmis(client)).await? {
        add("VirtualMachineInstance", vmi.name_any(), by_name(&vmi.name_any()));
    }
    for record in list_if_served(&Api::<MaroonedNode>::all(client.clone())).await? {
        add("MaroonedNode", record.name_any(), by_name(&record.name_any()));
    }
    for secret in Api::<Secret>::namespaced(client.clone(), names::VM_NAMESPACE)
        .list(&all)
        .await?
    {
        add(
            "Secret marooned-vms",
            secret.name_any(),
            by_name(&secret.name_any()),
        );
    }
    for secret in Api::<Secret>::namespaced(client.clone(), names::TOKEN_NAMESPACE)
        .list(&all)
        .await?
    {
        if secret.name_any().starts_with(&names::token_secret_name("")) {
            let uid = secret.labels().get(names::POD_UID_LABEL).cloned();
            add("bootstrap token", secret.name_any(), uid);
        }
    }
    for request in Api::<CertificateSigningRequest>::all(client.clone())
        .list(&all)
        .await?
    {
        if is_ours(&request) {
            add(
                "CertificateSigningRequest",
                request.name_any(),
                asked_for(&request),
            );
        }
    }
    Ok(left)
}

/// Whether the Node's Ready condition holds.
#[must_use]
pub fn node_is_ready(node: &Node) -> bool {
    let status = node.status.iter();
    let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The VMIs in our namespace; ours are nowhere else.
#[must_use]
pub fn vmis(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachineInstance");
    Api::namespaced_with(client.clone(), names::VM_NAMESPACE, &ApiResource::from_gvk(&kind))
}

/// Filed with one of our join tokens, or by a marooned node.
fn is_ours(request: &CertificateSigningRequest) -> bool {
    let groups = request.spec.groups.as_deref().unwrap_or_default();
    let node = request
        .spec
        .username
        .as_deref()
        .and_then(|user| user.strip_prefix(names::NODE_USER_PREFIX));
    groups.iter().any(|group| group == names::BOOTSTRAP_GROUP) || node.and_then(names::pod_uid_of).is_some()
}

/// The pod whose node's name a request asks for: a token says nothing of its pod, the name in the PKCS#10 does.
fn asked_for(request: &CertificateSigningRequest) -> Option<String> {
    let pem = String::from_utf8_lossy(&request.spec.request.0);
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(base64).ok()?;
    let text = String::from_utf8_lossy(&der);
    let user = text.find(names::NODE_USER_PREFIX)?;
    let node: String = text[user + names::NODE_USER_PREFIX.len()..]
        .chars()
        .take(names::node_name("").len() + 36)
        .collect();
    names::pod_uid_of(&node).map(str::to_owned)
}

/// Nothing of a kind is left when the kind itself is not there.
async fn list_if_served<K>(api: &Api<K>) -> Result<Vec<K>>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
