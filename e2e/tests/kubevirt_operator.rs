//! `KubeVirt` as people install it, by its own virt-operator: does it deploy here, does a marooned pod run on it, and is its
//! end refused while one does?
//!
//! Needs root, Debian's apt and a C compiler; what is skipped without root is named.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use kube::api::{DeleteParams, DynamicObject};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::apply::{api_of, kind};
use maroonedpods_e2e::api::check::{eventually, gone, refused};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::cluster::{provide, with_cluster};
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use maroonedpods_e2e::harness::real_env::{Archives, RUNS, RealEnv, TOOLBOX};
use maroonedpods_e2e::kubevirt::{Kvm, Operator, Programs};
use serde_json::json;

/// virt-operator takes its time to remove what it made.
const REMOVED: Duration = Duration::from_secs(240);
const BLOCKED: &str =
    "Rejecting the uninstall request, since there are still Virtual Machine Instances present.";

#[test]
#[ignore = "minutes of compiling for this test alone: see docs/development.md"]
fn virt_operator_installs_kubevirt() {
    let built = provide()
        .unwrap()
        .then(|| (Archives::make(None).unwrap(), Operator::build().unwrap()));
    let options = built.as_ref().map(|(archives, _)| archives.cluster());
    with_cluster(options.unwrap_or_default(), async |cluster| {
        let (archives, operator) = built.as_ref().unwrap();
        let begun = Instant::now();
        let kubevirt = operator
            .install(&cluster, archives.kubevirt(), Kvm::Auto)
            .await
            .unwrap();
        println!("deployed after {:.1} s", begun.elapsed().as_secs_f64());
        says_that_it_is_deployed(&kubevirt, archives.kubevirt().version());
        let env = RealEnv::install_on_kubevirt(&cluster, archives, &json!({}))
            .await
            .unwrap();
        what_other_tests_install_is_there(&env.admin, archives.kubevirt()).await;
        it_cannot_be_uninstalled_under_a_marooned_pod(&env, &kubevirt).await;
        drop(env);
        cluster.stop().await.unwrap();
    })
    .unwrap();
}

fn says_that_it_is_deployed(kubevirt: &DynamicObject, version: &str) {
    let status = &kubevirt.data["status"];
    for field in [
        "operatorVersion",
        "targetKubeVirtVersion",
        "observedKubeVirtVersion",
    ] {
        assert_eq!(status[field], version, "{field} of {status}");
    }
    let holds = |wanted: &str| {
        let conditions = status["conditions"].as_array().unwrap();
        let condition = conditions.iter().find(|condition| condition["type"] == wanted);
        condition.unwrap_or_else(|| panic!("no {wanted} in {status}"))["status"].clone()
    };
    for (condition, value) in [
        ("Created", "True"),
        ("Available", "True"),
        ("Progressing", "False"),
        ("Degraded", "False"),
    ] {
        assert_eq!(holds(condition), value, "{condition} in {status}");
    }
}

/// Every other test with real guests has a `KubeVirt` of these objects, made without virt-operator.
async fn what_other_tests_install_is_there(admin: &Client, programs: &Programs) {
    let mut missing = Vec::new();
    for object in programs.parts().unwrap() {
        let api = api_of(admin, &object).await.unwrap();
        if api.get_opt(&object.name_any()).await.unwrap().is_none() {
            missing.push(format!("{} {}", kind(&object), object.name_any()));
        }
    }
    assert_eq!(missing, [""; 0]);
}

async fn it_cannot_be_uninstalled_under_a_marooned_pod(env: &RealEnv<'_>, kubevirt: &DynamicObject) {
    let namespace = TestNamespace::new(&env.admin, &[]).await.unwrap();
    let pod = MaroonedPod::create_pod(&env.admin, &namespace.name, &pod())
        .await
        .unwrap();
    if let Err(error) = pod.running_within(RUNS).await {
        panic!("{error:#}\n{}", env.state().await);
    }
    let name = kubevirt.name_any();
    let api: Api<DynamicObject> = api_of(&env.admin, kubevirt).await.unwrap();
    let delete = async || api.delete(&name, &DeleteParams::default()).await;

    let message = refused(delete().await.map(drop)).unwrap();
    println!("$ kubectl delete kubevirt {name}\n{message}");
    assert!(message.contains(BLOCKED), "{message}");
    let kept = api.get(&name).await.unwrap();
    assert_eq!(kept.metadata.deletion_timestamp, None);
    assert_eq!(kept.data["status"]["phase"], "Deployed");
    pod.running().await.unwrap();

    pod.ends().await.unwrap();
    namespace.close(&env.admin).await.unwrap();
    eventually("KubeVirt's end to be accepted", RUNS, || async {
        delete().await?;
        Ok(Some(()))
    })
    .await
    .unwrap();
    gone(&api, &name, REMOVED).await.unwrap();
}

fn pod() -> k8s_openapi::api::core::v1::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "marooned", "labels": {names::MAROON_LABEL: "true"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": TOOLBOX, "imagePullPolicy": "IfNotPresent",
                "command": ["/testserver", "serve"]}],
        },
    }))
    .unwrap()
}
