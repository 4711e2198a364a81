//! Objects that are left of marooned pods.

use std::fmt::Debug;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::names;
use serde::de::DeserializeOwned;

use super::read::vmis;

/// Objects that are left of any marooned pod, one line each: records, Nodes, VMs, join Secrets, bootstrap tokens and
/// certificate requests, by live lists. Empty when nothing is left.
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

/// An object of ours that exists.
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
    let by_name = |name: &str| names::pod_uid_of(name).map(|uid| uid.to_string());

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

/// Whether the request was filed with one of our join tokens, or by a marooned node.
fn is_ours(request: &CertificateSigningRequest) -> bool {
    let groups = request.spec.groups.as_deref().unwrap_or_default();
    let node = request
        .spec
        .username
        .as_deref()
        .and_then(|user| user.strip_prefix(names::NODE_USER_PREFIX));
    groups.iter().any(|group| group == names::BOOTSTRAP_GROUP) || node.and_then(names::pod_uid_of).is_some()
}

/// The pod whose node's name a request asks for: a token does not name its pod, the subject in the PKCS#10 does.
fn asked_for(request: &CertificateSigningRequest) -> Option<String> {
    let pem = String::from_utf8_lossy(&request.spec.request.0);
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(base64).ok()?;
    let text = String::from_utf8_lossy(&der);
    let user = text.find(names::NODE_USER_PREFIX)?;
    let node: String = text[user + names::NODE_USER_PREFIX.len()..]
        .chars()
        .take(names::node_name(&"".into()).len() + 36)
        .collect();
    names::pod_uid_of(&node).map(|uid| uid.to_string())
}

/// Lists the objects of a kind; none if the API server does not serve the kind.
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
