//! Applies objects of any kind, from YAML or as they are.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, ApiResource, Scope};
use kube::runtime::{conditions, wait};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;
use tokio::time;

use super::check::eventually;

/// The field manager that [`apply`] writes as.
pub const FIELD_MANAGER: &str = "maroonedpods-e2e";
const ESTABLISHED_LIMIT: Duration = Duration::from_secs(30);

/// [`apply`] for YAML documents.
pub async fn apply_yaml(client: &Client, yaml: &str) -> Result<()> {
    apply(client, parse(yaml)?).await
}

/// The objects of YAML documents.
///
/// # Errors
/// A document is not YAML, or not a Kubernetes object.
pub fn parse(yaml: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document)?;
        if !value.is_null() {
            let text = value.to_string();
            objects.push(
                serde_json::from_value(value).with_context(|| format!("no Kubernetes object: {text}"))?,
            );
        }
    }
    Ok(objects)
}

/// Applies objects by server-side apply: namespaces first, then CRDs until they are served, then the rest.
pub async fn apply(client: &Client, mut objects: Vec<DynamicObject>) -> Result<()> {
    objects.sort_by_key(|object| match kind(object) {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        _ => 2,
    });
    for object in &objects {
        let name = object
            .metadata
            .name
            .as_deref()
            .context("an object without a name")?;
        let what = format!("{} {name}", kind(object));
        let api = api_of(client, object).await.with_context(|| what.clone())?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(name, &parameters, &Patch::Apply(object))
            .await
            .with_context(|| format!("applying {what}"))?;
        if kind(object) == "CustomResourceDefinition" {
            let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
            let established = wait::await_condition(crds, name, conditions::is_crd_established());
            time::timeout(ESTABLISHED_LIMIT, established)
                .await
                .with_context(|| format!("{what} is not served"))??;
        }
    }
    Ok(())
}

/// Creates objects of kinds that are served, in this order. KubeVirt's cannot all be applied: virt-api's Deployment lists a
/// port twice, which server-side apply refuses.
///
/// # Errors
/// The first refusal.
pub async fn create(client: &Client, objects: &[DynamicObject]) -> Result<()> {
    for object in objects {
        let created = api_of(client, object)
            .await?
            .create(&PostParams::default(), object)
            .await;
        created.with_context(|| format!("creating {} {}", kind(object), object.name_any()))?;
    }
    Ok(())
}

/// The object's kind; empty if it has none.
#[must_use]
pub fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| &types.kind)
}

/// The API that serves the object's kind, in the object's namespace.
pub async fn api_of(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let (resource, scope) = resource_of(client, object).await?;
    Ok(match (&scope, &object.metadata.namespace) {
        (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, &resource),
        (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), &resource),
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
    })
}

/// A new CRD appears in discovery shortly after it is established, so this waits.
async fn resource_of(client: &Client, object: &DynamicObject) -> Result<(ApiResource, Scope)> {
    let types = object
        .types
        .as_ref()
        .context("an object without apiVersion and kind")?;
    let kind = GroupVersionKind::try_from(types)?;
    eventually("the kind in discovery", ESTABLISHED_LIMIT, || async {
        let (resource, capabilities) = discovery::pinned_kind(client, &kind).await?;
        Ok(Some((resource, capabilities.scope)))
    })
    .await
}
