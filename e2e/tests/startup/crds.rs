//! The CRDs, which the reconciler applies as it starts.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::core::ResourceExt;
use maroonedpods_common::names;
use maroonedpods_e2e::api::apply::apply_yaml;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_reconciler::Cluster;
use maroonedpods_reconciler::apply_crds;
use serde_json::json;

/// What helm installs once is upgraded by this, as often as one likes.
#[tokio::test(flavor = "multi_thread")]
async fn crds_are_applied_again_and_a_stored_version_is_not_dropped() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let cluster = Cluster {
        client: admin.clone(),
        vm_namespace: names::VM_NAMESPACE.to_owned(),
    };
    let name = "maroonednodes.maroonedpods.io";
    let all: Api<CustomResourceDefinition> = Api::all(admin.clone());
    // A column that this program does not know, as an older version's chart would have left.
    let column = json!([{"op": "replace", "path": "/spec/versions/0/additionalPrinterColumns", "value": []}]);
    let patch = Patch::<()>::Json(serde_json::from_value(column).unwrap());
    all.patch(name, &PatchParams::default(), &patch).await.unwrap();
    apply_crds(&cluster).await.unwrap();
    let once = all.get(name).await.unwrap();
    assert!(once.spec.versions[0].additional_printer_columns.is_some());
    apply_crds(&cluster).await.unwrap();
    assert_eq!(
        all.get(name).await.unwrap().resource_version(),
        once.resource_version()
    );

    // Objects may be stored in a version that this program does not have.
    let mut newer = serde_json::to_value(&once).unwrap();
    let mut next = newer["spec"]["versions"][0].clone();
    newer["spec"]["versions"][0]["storage"] = json!(false);
    next["name"] = json!("v1");
    newer["spec"]["versions"].as_array_mut().unwrap().push(next);
    newer["apiVersion"] = json!("apiextensions.k8s.io/v1");
    newer["kind"] = json!("CustomResourceDefinition");
    newer["metadata"] = json!({"name": name});
    apply_yaml(&admin, &newer.to_string()).await.unwrap();
    let refused = apply_crds(&cluster).await.unwrap_err().to_string();
    assert!(
        refused.contains(name) && refused.contains("status.storedVersions"),
        "{refused}"
    );
    env.stop().await.unwrap();
}
