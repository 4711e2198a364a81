//! Opts the suite's namespaces in, so that no spec has to be changed for it.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names::{MAROON_LABEL, MAROON_TRUE};
use serde_json::json;

use crate::api::apply::apply;
use crate::api::check::eventually;

const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "maroonedpods-e2e-conformance";
/// What the suite labels its namespaces with: the value is its run's.
pub(super) const RUN_LABEL: &str = "e2e-run";

/// Has every namespace of the suite that is created from now on opted in.
pub(super) async fn opt_in(admin: &Client) -> Result<()> {
    let patch = format!(
        "[JSONPatch{{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('{MAROON_LABEL}'), value: '{MAROON_TRUE}'}}]"
    );
    let objects = json!([
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": NAME},
            "spec": {
                "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                    "operations": ["CREATE"], "resources": ["namespaces"]}]},
                "matchConditions": [{"name": "of-the-suite",
                    "expression": format!("has(object.metadata.labels) && '{RUN_LABEL}' in object.metadata.labels")}],
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": NAME},
            "spec": {"policyName": NAME},
        },
    ]);
    apply(admin, serde_json::from_value(objects)?).await?;
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let probe: Namespace =
        serde_json::from_value(json!({"metadata": {"name": NAME, "labels": {RUN_LABEL: "probe"}}}))?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    eventually("the suite's namespaces to be opted in", LIMIT, || async {
        let made = namespaces.create(&dry_run, &probe).await?;
        Ok((made.labels().get(MAROON_LABEL).map(String::as_str) == Some(MAROON_TRUE)).then_some(()))
    })
    .await
}
