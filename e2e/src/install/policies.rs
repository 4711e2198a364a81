//! Waits until admission policies that were just applied are in force.
//!
//! The API server does not report it, and takes a second or two: it compiles what its watches have brought by then.
//! Watches keep the order of writes, so a policy written after the others is in force no sooner than they are.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy as Policy, ValidatingAdmissionPolicyBinding as Binding,
};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::check::{accepts, eventually, refused};

const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "maroonedpods-e2e-in-force";

/// Waits until every admission policy and binding that was written before is in force as it was written.
pub async fn policies_in_force(admin: &Client) -> Result<()> {
    let policies: Api<Policy> = Api::all(admin.clone());
    let bindings: Api<Binding> = Api::all(admin.clone());
    let policy: Policy = from(json!({
        "metadata": {"generateName": format!("{NAME}-")},
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["configmaps"], "resourceNames": [NAME]}]},
            "validations": [{"expression": "false"}],
        },
    }))?;
    let policy = accepts(&policies, &policy).await?.name_any();
    let binding = from(json!({
        "metadata": {"name": policy},
        "spec": {"policyName": policy, "validationActions": ["Deny"]},
    }))?;
    accepts(&bindings, &binding).await?;

    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    let probe: ConfigMap = from(json!({"metadata": {"name": NAME}}))?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    eventually("the admission policies to be in force", LIMIT, || async {
        let message = refused(maps.create(&dry_run, &probe).await)?;
        Ok(message.contains(&policy).then_some(()))
    })
    .await?;
    bindings.delete(&policy, &DeleteParams::default()).await?;
    policies.delete(&policy, &DeleteParams::default()).await?;
    Ok(())
}

/// Has the `ReplicaSet`s and Jobs of a namespace create their missing pods at once, after policies that refused these were
/// deleted. Their controllers wait twice as long after each refusal, up to 1000 s (client-go's default rate limiter),
/// and a change to the object ends the wait: but one more refusal starts it again.
pub async fn retry_pods(admin: &Client, namespace: &str) -> Result<()> {
    policies_in_force(admin).await?;
    let change = Patch::Merge(json!({"metadata": {"annotations": {"e2e.maroonedpods.io/again": "now"}}}));
    change_all(&Api::<ReplicaSet>::namespaced(admin.clone(), namespace), &change).await?;
    change_all(&Api::<Job>::namespaced(admin.clone(), namespace), &change).await
}

async fn change_all<K>(api: &Api<K>, change: &Patch<Value>) -> Result<()>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    for object in api.list(&ListParams::default()).await? {
        api.patch(&object.name_any(), &PatchParams::default(), change)
            .await?;
    }
    Ok(())
}

fn from<K: DeserializeOwned>(object: Value) -> Result<K> {
    Ok(serde_json::from_value(object)?)
}
