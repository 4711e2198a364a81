//! Uninstalling with twenty pods in every stage: refused without force, complete with it, and nothing of a user's is
//! left stuck.

#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{ClusterResourceScope, Resource, ResourceExt};
use maroonedpods_common::api::MaroonedPodsConfig;
use maroonedpods_common::names;
use maroonedpods_e2e::api::apply::{apply, kind};
use maroonedpods_e2e::api::check::{accepts, becomes, eventually, rejects};
use maroonedpods_e2e::api::leftovers::nothing_left;
use maroonedpods_e2e::api::read::phase;
use maroonedpods_e2e::api::read::{bears_our_mark, gates, runs};
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::fixtures::{labelled, marooned, spec, with_spec};
use maroonedpods_e2e::harness::marooned_pod::{self, MaroonedPod, SOON};
use maroonedpods_e2e::harness::tenant::Tenant;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::harness::writes::careless;
use maroonedpods_e2e::install::policies::{policies_in_force, retry_pods};
use maroonedpods_e2e::install::{SYSTEM_NAMESPACE, render};
use maroonedpods_e2e::system::logs::logs;
use maroonedpods_reconciler::Cluster;
use maroonedpods_reconciler::UninstallArgs;
use maroonedpods_reconciler::uninstall;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The account that the chart's hook runs under.
const ACCOUNT: &str = "maroonedpods-uninstall";

/// `uninstall` as the hook runs it; whether it says that nothing is left, and all that it said.
async fn run(env: &TestEnv, force: bool, timeout: Duration) -> (bool, String) {
    let identity = env
        .control_plane()
        .service_account(SYSTEM_NAMESPACE, ACCOUNT)
        .await
        .unwrap();
    let cluster = Cluster::connect(Some(&identity.kubeconfig), names::VM_NAMESPACE.to_owned())
        .await
        .unwrap();
    let args = UninstallArgs {
        namespace: SYSTEM_NAMESPACE.to_owned(),
        force,
        timeout,
    };
    let said = Mutex::new(String::new());
    let say = |line: &str| {
        let mut said = said.lock().unwrap();
        said.push_str(line);
        said.push('\n');
    };
    let ended = uninstall(&cluster, &args, say).await;
    let said = said.into_inner().unwrap();
    println!("{said}");
    (ended.unwrap(), said)
}

async fn env() -> TestEnv {
    logs();
    let env = TestEnv::start(0).await.unwrap();
    // The harness applies no hooks, and this is all that this one may do.
    let mut rights = render(&json!({})).await.unwrap();
    rights.retain(|object| {
        object.name_any() == ACCOUNT
            && ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"].contains(&kind(object))
    });
    assert_eq!(rights.len(), 3, "{rights:?}");
    apply(&env.control_plane().admin().await.unwrap(), rights)
        .await
        .unwrap();
    env
}

/// Long enough to be in a stage for as long as a test takes.
const FOR_LONG: f64 = 600.0;

/// Twenty pods, in the stages that there are.
async fn crowd(tenant: &Tenant<'_>) {
    let patient = Patch::Merge(json!({"spec": {"deadlines": {"boot": "10m", "join": "10m"}}}));
    Api::<MaroonedPodsConfig>::all(tenant.admin.clone())
        .patch(names::CONFIG_NAME, &PatchParams::default(), &patient)
        .await
        .unwrap();
    for n in 0..4 {
        let mut waits = spec();
        waits["schedulingGates"] = json!([{"name": "example.org/quota"}]);
        let pod = labelled(with_spec(&format!("gated-{n}"), waits), names::MAROON_TRUE);
        tenant.creates(&pod).await.unwrap();
    }
    let stages = [
        (
            "booting",
            Script {
                never_boots: true,
                ..Script::default()
            },
        ),
        (
            "joining",
            Script {
                join_delay: FOR_LONG,
                ..Script::default()
            },
        ),
    ];
    for (stage, script) in stages {
        for n in 0..3 {
            let pod = marooned_pod::pod(&format!("{stage}-{n}"), &script).unwrap();
            tenant.creates(&pod).await.unwrap();
        }
    }
    for n in 0..3 {
        tenant.creates(&marooned(&format!("bare-{n}"))).await.unwrap();
    }
    let labels = json!({"app": "web", names::MAROON_LABEL: "true"});
    tenant
        .applies::<Deployment>(json!({"metadata": {"name": "web"}, "spec": {"replicas": 5,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": labels}, "spec": spec()}}}))
        .await
        .unwrap();
    let mut task = spec();
    task["restartPolicy"] = json!("Never");
    let annotations =
        json!({maroonedpods_e2e::fake_kubevirt::script::EXIT_AFTER_ANNOTATION: FOR_LONG.to_string()});
    tenant
        .applies::<Job>(
            json!({"metadata": {"name": "report"}, "spec": {"parallelism": 2, "completions": 2,
            "template": {"metadata": {"labels": {names::MAROON_LABEL: "true"}, "annotations": annotations},
                "spec": task}}}),
        )
        .await
        .unwrap();
    tenant.sees(20, "there", |_| true).await.unwrap();
    tenant.sees(10, "running", runs).await.unwrap();
    for n in 0..3 {
        let booting = tenant.pods.get(&format!("booting-{n}")).await.unwrap();
        let booting = MaroonedPod::of(&tenant.admin, &booting).unwrap();
        booting.vmi(1, "Scheduled").await.unwrap();
        let joining = tenant.pods.get(&format!("joining-{n}")).await.unwrap();
        let joining = MaroonedPod::of(&tenant.admin, &joining).unwrap();
        joining.vmi(1, "Running").await.unwrap();
    }
}

/// What a refusal must leave as it is.
async fn state(tenant: &Tenant<'_>) -> (Vec<(String, Value)>, usize) {
    let pods = tenant.pods.list(&ListParams::default()).await.unwrap();
    let of = |pod: &Pod| {
        let spec = serde_json::to_value(&pod.spec).unwrap();
        (
            format!("{} {:?}", pod.name_any(), pod.metadata.deletion_timestamp),
            spec,
        )
    };
    (
        pods.iter().map(of).collect(),
        tenant.records().await.unwrap().len(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_pods_are_listed_and_with_force_all_go() {
    let env = env().await;
    let reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let admin = tenant.admin.clone();
    crowd(&tenant).await;

    let before = state(&tenant).await;
    let (is_clean, said) = run(&env, false, SOON).await;
    assert!(
        !is_clean && said.contains("20 marooned pods would lose"),
        "{said}"
    );
    for pod in tenant.pods.list(&ListParams::default()).await.unwrap() {
        let line = format!("  {}/{} (", tenant.namespace(), pod.name_any());
        assert!(said.contains(&line), "{line} is not in\n{said}");
    }
    assert_eq!(state(&tenant).await, before);
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(admin.clone());
    assert!(webhooks.get_opt("maroonedpods").await.unwrap().is_some());

    let (is_clean, said) = run(&env, true, SOON * 2).await;
    assert!(is_clean, "{said}");
    let careless = careless(&env.control_plane().audit().unwrap());
    assert!(careless.is_empty(), "careless:\n{}", careless.join("\n"));
    assert!(webhooks.get_opt("maroonedpods").await.unwrap().is_none());
    eventually("nothing of ours", SOON, || async {
        let left = nothing_left(&admin).await?;
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await
    .unwrap();

    reconciler.stop().await.unwrap();
    remove_the_chart(&env).await;
    // The user's controllers work on, with ordinary pods.
    let ordinary = |pod: &Pod| gates(pod).is_empty() && !has_our_selector(pod);
    let web = |pod: &Pod| pod.labels().get("app").is_some_and(|app| app == "web");
    retry_pods(&admin, tenant.namespace()).await.unwrap();
    eventually("the ordinary pods of web and report", SOON, || async {
        let pods = tenant.pods.list(&ListParams::default()).await?.items;
        let up = pods.iter().filter(|pod| ordinary(pod) && phase(pod) == "Running");
        let (web, report): (Vec<_>, Vec<_>) = up.partition(|pod| web(pod));
        Ok(((web.len(), report.len()) == (5, 2)).then_some(()))
    })
    .await
    .unwrap();
    tenant
        .creates(&labelled(with_spec("late", spec()), names::MAROON_TRUE))
        .await
        .unwrap();
    tenant.sees_running("late").await.unwrap();
    tenant.leaves().await.unwrap();
    env.stop().await.unwrap();
}

fn has_our_selector(pod: &Pod) -> bool {
    let selector = pod.spec.as_ref().and_then(|s| s.node_selector.as_ref());
    selector.is_some_and(|selector| selector.contains_key(names::CLASS_LABEL))
}

/// Without a reconciler to release anything it says so and stops; with a reconciler again it completes.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_reconciler_it_says_what_waits_for_it() {
    let env = env().await;
    let reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    tenant.creates(&marooned("stranded")).await.unwrap();
    let pod = tenant.sees_running("stranded").await.unwrap();
    let stranded = MaroonedPod::of(&tenant.admin, &pod).unwrap();
    drop(reconciler);
    tenant.creates(&marooned("new")).await.unwrap();
    becomes(&tenant.pods, "new", "gated", SOON, bears_our_mark)
        .await
        .unwrap();

    let (is_clean, said) = run(&env, true, Duration::from_secs(5)).await;
    assert!(!is_clean, "{said}");
    assert!(
        said.contains(&format!("maroonednode/{}", stranded.node_name())),
        "{said}"
    );
    assert!(
        said.contains("check that it runs (deployment maroonedpods-reconciler)"),
        "{said}"
    );
    // Gated pods do not need the reconciler.
    maroonedpods_e2e::api::check::gone(&tenant.pods, "new", SOON)
        .await
        .unwrap();

    let reconciler = env.reconciler(false).await.unwrap();
    let (is_clean, said) = run(&env, false, SOON).await;
    assert!(is_clean, "{said}");
    tenant.leaves().await.unwrap();
    reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

/// Finalizers and policies of others hold their own pods, and nothing beside. A pod without a node
/// that only a finalizer holds is ended by Kubernetes' own collector of pods.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_hold_holds_up_nothing_else() {
    let env = env().await;
    let reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let admin = tenant.admin.clone();
    let mut waits = spec();
    waits["schedulingGates"] = json!([{"name": "example.org/quota"}]);
    let mut held = labelled(with_spec("held", waits), names::MAROON_TRUE);
    held.finalizers_mut().push("example.org/hold".to_owned());
    tenant.creates(&held).await.unwrap();
    // Listed before the one that no policy protects.
    for name in ["a-protected", "free"] {
        tenant.creates(&marooned(name)).await.unwrap();
    }
    for name in ["a-protected", "free"] {
        tenant.sees_running(name).await.unwrap();
    }
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(admin.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(admin.clone());
    let (policy, binding) = protection("a-protected");
    let (policy, binding) = (
        accepts(&policies, &policy).await.unwrap(),
        accepts(&bindings, &binding).await.unwrap(),
    );
    policies_in_force(&admin).await.unwrap();

    let (is_clean, said) = run(&env, true, SOON).await;
    assert!(!is_clean, "{said}");
    let reason = format!(
        "{}/a-protected (Running); cannot be deleted: ",
        tenant.namespace()
    );
    assert!(said.contains(&reason), "{reason} is not in\n{said}");
    assert!(tenant.pods.get_opt("free").await.unwrap().is_none());

    let now = DeleteParams::default();
    bindings.delete(&binding.name_any(), &now).await.unwrap();
    policies.delete(&policy.name_any(), &now).await.unwrap();
    policies_in_force(&admin).await.unwrap();
    let (is_clean, said) = run(&env, true, SOON * 2).await;
    assert!(is_clean, "{said}");
    assert_eq!(nothing_left(&admin).await.unwrap(), [""; 0]);

    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    tenant
        .pods
        .patch("held", &PatchParams::default(), &free)
        .await
        .unwrap();
    tenant.leaves().await.unwrap();
    reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

/// A policy that denies deletion of the pod of this name.
fn protection(pod: &str) -> (ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding) {
    let name = "e2e-protection";
    let policy = json!({
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["DELETE"], "resources": ["pods"], "resourceNames": [pod]}]},
            "validations": [{"expression": "false", "message": "protected"}],
        },
    });
    let binding = json!({
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    (
        serde_json::from_value(policy).unwrap(),
        serde_json::from_value(binding).unwrap(),
    )
}

/// A pod that is created as the uninstallation ends must not be gated: the reconciler, which would lift the gate, goes
/// next.
#[tokio::test(flavor = "multi_thread")]
async fn gating_ends_before_the_reconciler_does() {
    let env = env().await;
    let reconciler = env.reconciler(false).await.unwrap();
    let tenant = Tenant::new(&env, None).await.unwrap();
    let (is_clean, said) = run(&env, false, SOON).await;
    assert!(is_clean, "{said}");
    let message = rejects(&tenant.pods, &marooned("late")).await.unwrap();
    assert!(
        message.contains("the webhook did not prepare the pod"),
        "{message}"
    );
    // The API server accepts one that brings what the webhook would have added, and it gets no VM.
    let mut prepared = spec();
    prepared["schedulingGates"] = json!([{"name": names::GATE}]);
    let prepared = labelled(with_spec("prepared", prepared), names::MAROON_TRUE);
    tenant.creates(&prepared).await.unwrap();
    tenant.sees_reason("prepared", "Refused").await.unwrap();
    assert_eq!(nothing_left(&tenant.admin).await.unwrap(), [""; 0]);
    tenant.leaves().await.unwrap();
    reconciler.stop().await.unwrap();
    env.stop().await.unwrap();
}

/// As helm does: what it knows, then kinds that it does not know, admission policies among them.
async fn remove_the_chart(env: &TestEnv) {
    let admin = env.control_plane().admin().await.unwrap();
    remove(&Api::<ClusterRoleBinding>::all(admin.clone())).await;
    remove(&Api::<ClusterRole>::all(admin.clone())).await;
    remove(&Api::<MaroonedPodsConfig>::all(admin.clone())).await;
    remove(&Api::<ValidatingAdmissionPolicyBinding>::all(admin.clone())).await;
    remove(&Api::<ValidatingAdmissionPolicy>::all(admin)).await;
}

async fn remove<K>(api: &Api<K>)
where
    K: Resource<Scope = ClusterResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let all = api.list(&ListParams::default()).await.unwrap();
    let ours = |name: &String| name.starts_with("maroonedpods") || name == names::CONFIG_NAME;
    for name in all.iter().map(ResourceExt::name_any).filter(ours) {
        api.delete(&name, &DeleteParams::default()).await.unwrap();
    }
}
