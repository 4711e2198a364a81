//! NetworkPolicies that select marooned pods: nothing enforces them, and the pods say so, or wait.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::condition;
use maroonedpods_e2e::api::read::gates;
use maroonedpods_e2e::harness::fixtures::marooned;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::install::config;
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

const REASON: &str = "NetworkPolicyNotEnforced";
const POLICY: &str = "shop-only";

/// A pod that [`forbid`]'s policy selects.
fn shop(name: &str) -> Pod {
    let mut pod = marooned(name);
    pod.labels_mut().insert("app".to_owned(), "shop".to_owned());
    pod
}

async fn forbid(tenant: &Tenant<'_>) {
    let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["shop"]}]});
    let policy = json!({
        "metadata": {"name": POLICY},
        "spec": {"podSelector": selector, "policyTypes": ["Ingress"]},
    });
    tenant.applies::<NetworkPolicy>(policy).await.unwrap();
}

async fn allow(tenant: &Tenant<'_>) {
    let policies: Api<NetworkPolicy> = tenant.api();
    policies.delete(POLICY, &DeleteParams::default()).await.unwrap();
}

/// The reconciler's warnings on the pod about policies.
async fn warnings(tenant: &Tenant<'_>, pod: &str) -> Vec<Event> {
    let about = ListParams::default().fields(&format!("involvedObject.name={pod}"));
    let mut events = tenant.api::<Event>().list(&about).await.unwrap().items;
    events.retain(|event| event.reason.as_deref() == Some(REASON));
    events
}

async fn is_warned(tenant: &Tenant<'_>, pod: &str) {
    let event = eventually("a warning on the pod", SOON, || async {
        Ok(warnings(tenant, pod).await.pop())
    })
    .await
    .unwrap();
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let message = event.message.unwrap_or_default();
    assert!(message.contains(POLICY), "{message}");
}

async fn refuse(tenant: &Tenant<'_>) {
    let spec = json!({"vm": {"networkPolicies": "Refuse"}});
    let changed = config::change(&tenant.admin, &spec).await.unwrap();
    config::seen(&tenant.admin, &changed).await.unwrap();
}

/// One configuration, and each step follows from the one before: so they are steps, not tests of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_not_enforced_is_said_or_heeded() {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();

    // Said on the pod that it selects, and on no other.
    forbid(&tenant).await;
    tenant.creates(&shop("selected")).await.unwrap();
    tenant.creates(&marooned("other")).await.unwrap();
    tenant.sees_running("selected").await.unwrap();
    let selected = tenant.sees_reason("selected", REASON).await.unwrap();
    let said = condition(&selected, names::NODE_READY_CONDITION);
    assert_eq!(said, Some(("True".to_owned(), REASON.to_owned())));
    is_warned(&tenant, "selected").await;
    tenant.sees_running("other").await.unwrap();
    tenant.sees_reason("other", "NodeReady").await.unwrap();
    assert_eq!(warnings(&tenant, "other").await, []);

    // It goes and comes back under a pod that runs.
    allow(&tenant).await;
    tenant.sees_reason("selected", "NodeReady").await.unwrap();
    refuse(&tenant).await;
    forbid(&tenant).await;
    tenant.sees_reason("selected", REASON).await.unwrap();

    // The reconciler knows the policy by now: a pod that it selects gets no VM, and another does.
    let refused = tenant.creates(&shop("refused")).await.unwrap();
    let pod = MaroonedPod::of(&tenant.admin, &refused).unwrap();
    let message = pod.reports(REASON).await.unwrap();
    assert!(
        message.contains(POLICY) && message.contains("set the field to Warn"),
        "{message}"
    );
    is_warned(&tenant, "refused").await;
    tenant.creates(&marooned("free")).await.unwrap();
    tenant.sees_running("free").await.unwrap();
    assert_eq!(gates(&tenant.pods.get("refused").await.unwrap()), [names::GATE]);
    let recorded = tenant.records().await.unwrap();
    assert!(
        recorded
            .iter()
            .all(|record| record.spec.pod_ref.name != "refused")
    );

    // Without the policy it goes on.
    allow(&tenant).await;
    tenant.sees_running("refused").await.unwrap();
    tenant.sees_reason("refused", "NodeReady").await.unwrap();
    tenant.leaves().await.unwrap();
    env.stop().await.unwrap();
}
