//! The manifests that users copy, applied by kubectl as they stand.

#![allow(clippy::unwrap_used)]

use maroonedpods_e2e::api::read::bears_our_mark;
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::system::logs::logs;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

#[tokio::test(flavor = "multi_thread")]
async fn examples_are_taken_and_their_pods_marooned() {
    logs();
    let tenant = Tenant::shared(None).await.unwrap();
    let control_plane = tenant.env.control_plane();
    // There is one configuration, which other tests need as it is.
    for name in ["config.yaml", "namespace.yaml"] {
        let file = format!("{EXAMPLES}/{name}");
        control_plane
            .kubectl(&["apply", "--dry-run=server", "--filename", &file])
            .await
            .unwrap();
    }
    for name in ["deployment.yaml", "job.yaml", "statefulset.yaml"] {
        let file = format!("{EXAMPLES}/{name}");
        control_plane
            .kubectl(&["apply", "--namespace", tenant.namespace(), "--filename", &file])
            .await
            .unwrap();
    }
    // Two of the Deployment, one of the Job, one of the StatefulSet.
    tenant.sees(4, "marooned", bears_our_mark).await.unwrap();
    tenant.leaves().await.unwrap();
}
