//! Controllers that would not see their own pods once the webhook has labelled them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use maroonedpods_common::names;
use maroonedpods_e2e::harness::fixtures::spec;
use maroonedpods_e2e::harness::tenant::Tenant;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::fixtures::{dry_run, from};
use crate::table::Table;

/// A controller named `blind` whose pods have `app: blind` and no label of ours, with this beside it in its selector.
fn blind<T: DeserializeOwned>(asked: &Value, more: &Value) -> T {
    let mut object = json!({
        "metadata": {"name": "blind"},
        "spec": {
            "selector": {"matchLabels": {"app": "blind"}, "matchExpressions": [asked]},
            "template": {"metadata": {"labels": {"app": "blind"}}, "spec": spec()},
        },
    });
    for (key, value) in more.as_object().unwrap() {
        match key.as_str() {
            "restartPolicy" => object["spec"]["template"]["spec"][key] = value.clone(),
            _ => object["spec"][key] = value.clone(),
        }
    }
    from(object)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_controller_selects_its_pods_by_the_absence_of_our_label() {
    // Not opted in: it may be later, and selectors never change.
    let tenant = Tenant::shared(None).await.unwrap();
    let (deployments, sets): (Api<Deployment>, Api<ReplicaSet>) = (tenant.api(), tenant.api());
    let (stateful, jobs): (Api<StatefulSet>, Api<Job>) = (tenant.api(), tenant.api());
    let absent = json!({"key": names::MAROON_LABEL, "operator": "DoesNotExist"});
    let not_true = json!({"key": names::MAROON_LABEL, "operator": "NotIn", "values": ["other", "true"]});
    let not_false = json!({"key": names::MAROON_LABEL, "operator": "NotIn", "values": ["false"]});
    let foreign = json!({"key": "example.com/maroon", "operator": "DoesNotExist"});
    let none = json!({});
    let by_hand = json!({"manualSelector": true, "restartPolicy": "Never"});
    let named = json!({"serviceName": "blind"});

    let mut table = Table::of("controllers");
    let says = "spec.selector requires that pods lack the label";
    let asks = dry_run();
    for (attempt, attack, twin) in [
        (
            "a Deployment that selects pods without our label",
            &absent,
            &foreign,
        ),
        ("… whose label is not \"true\"", &not_true, &not_false),
    ] {
        let (attack, twin) = (blind(attack, &none), blind(twin, &none));
        let pair = (
            deployments.create(&asks, &attack),
            deployments.create(&asks, &twin),
        );
        table.refuses(attempt, says, pair.0, pair.1).await;
    }
    let (attack, twin) = (blind(&absent, &none), blind(&foreign, &none));
    let pair = (sets.create(&asks, &attack), sets.create(&asks, &twin));
    table.refuses("… a ReplicaSet", says, pair.0, pair.1).await;
    let (attack, twin) = (blind(&absent, &named), blind(&foreign, &named));
    let pair = (stateful.create(&asks, &attack), stateful.create(&asks, &twin));
    table.refuses("… a StatefulSet", says, pair.0, pair.1).await;
    let (attack, twin) = (blind(&absent, &by_hand), blind(&foreign, &by_hand));
    let pair = (jobs.create(&asks, &attack), jobs.create(&asks, &twin));
    table.refuses("… a Job", says, pair.0, pair.1).await;
    table.print();
    tenant.leaves().await.unwrap();
}
