//! What a guest's root can write must not hurt other pods.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, GetParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, Request, Resource};
use kube::{Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually};
use maroonedpods_e2e::api::leftovers::nothing_left;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::install::SYSTEM_NAMESPACE;
use maroonedpods_reconciler::Cluster;
use maroonedpods_reconciler::UninstallArgs;
use maroonedpods_reconciler::uninstall;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// The API server takes it, and most time types cannot hold it.
const TOO_LATE: &str = "9999-12-31T23:59:59Z";

fn marooned(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {names::MAROON_LABEL: "true"}},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}]},
    }))
    .unwrap()
}

fn running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
}

async fn poison(api: Api<DynamicObject>, name: &str, status: Value) {
    let body = Patch::Strategic(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &body)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_cannot_be_decoded_costs_only_its_own_pod() {
    let env = TestEnv::start(0).await.unwrap();
    let _reconciler = env.reconciler(false).await.unwrap();
    let admin: Client = env.control_plane().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace.name);
    let uid = accepts(&pods, &marooned("hostile")).await.unwrap().uid().unwrap();
    becomes(&pods, "hostile", "Running", SOON, running).await.unwrap();

    // Root in the guest has the kubelet's identity.
    let node_name = names::node_name(&uid.as_str().into());
    let user = format!("{}{node_name}", names::NODE_USER_PREFIX);
    let guest = env.control_plane().user(&user, names::NODES_GROUP).await.unwrap();
    let nodes = Api::all_with(guest.clone(), &ApiResource::erase::<Node>(&()));
    let beat = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": TOO_LATE});
    poison(nodes, &node_name, json!({"conditions": [beat]})).await;
    let own_pods = Api::namespaced_with(guest, &namespace.name, &ApiResource::erase::<Pod>(&()));
    poison(own_pods, "hostile", json!({"startTime": TOO_LATE})).await;

    // Other pods get their nodes; they are watched one by one, for the hostile object makes lists of pods fail.
    accepts(&pods, &marooned("other")).await.unwrap();
    eventually("the other pod runs", SOON, || async {
        Ok(pods.get_opt("other").await?.filter(running))
    })
    .await
    .unwrap();

    // The hostile pod's VM and Node go with it.
    let dynamic_pods: Api<DynamicObject> =
        Api::namespaced_with(admin.clone(), &namespace.name, &ApiResource::erase::<Pod>(&()));
    for name in ["hostile", "other"] {
        dynamic_pods
            .delete(name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }
    eventually("nothing is left", SOON, || async {
        Ok(nothing_left(&admin).await?.is_empty().then_some(()))
    })
    .await
    .unwrap();
    env.stop().await.unwrap();
}

/// What may never stand in a log.
const SECRET: &str = "correct-horse-battery-staple";

/// What our own programs write to the log. (kube's words about answers that it cannot decode are those of this
/// harness, which decodes with its types; that none of them reach our log is a unit test of `logs`.)
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn start() -> Self {
        let logged = Self::default();
        let writer = logged.clone();
        tracing_subscriber::fmt()
            .with_env_filter("maroonedpods_reconciler=debug")
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        logged
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock()).into_owned()
    }
}

impl Write for Logged {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.lock().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Where the objects of a kind are. kube's own calls cannot decode what becomes of them.
fn at<K: Resource<DynamicType = ()>>(namespace: Option<&str>) -> Request {
    Request::new(K::url_path(&(), namespace))
}

/// A client that may write an object may also write its managed fields: who wrote it, and when. (A time alone is not
/// taken for a change.)
async fn claims_the_year_9999<K>(client: &Client, namespace: Option<&str>, name: &str)
where
    K: Resource<DynamicType = ()>,
{
    let request = at::<K>(namespace).get(name, &GetParams::default());
    let now = client.request_text(request.unwrap()).await.unwrap();
    let mut claim = serde_json::from_str::<Value>(&now).unwrap()["metadata"]["managedFields"].clone();
    claim[0]["time"] = json!(TOO_LATE);
    let change =
        json!({"metadata": {"annotations": {"example.test/touched": "yes"}, "managedFields": claim}});
    let tenant = PatchParams {
        field_manager: Some("tenant".to_owned()),
        ..PatchParams::default()
    };
    let request = at::<K>(namespace).patch(name, &tenant, &Patch::Merge(change));
    let answer = client.request_text(request.unwrap()).await.unwrap();
    assert!(answer.contains(TOO_LATE), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_our_types_cannot_hold_cost_only_themselves_and_a_restarted_reconciler_starts() {
    let logged = Logged::start();
    let env = TestEnv::start(0).await.unwrap();
    let reconciler = env.reconciler(false).await.unwrap();
    let admin: Client = env.control_plane().admin().await.unwrap();
    let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace.name);
    let mut hostile = marooned("hostile");
    hostile.spec.as_mut().unwrap().containers[0].env = Some(vec![
        serde_json::from_value(json!({"name": "PASSWORD", "value": SECRET})).unwrap(),
    ]);
    let uid = accepts(&pods, &hostile).await.unwrap().uid().unwrap();
    becomes(&pods, "hostile", "Running", SOON, running).await.unwrap();
    let policies: Api<NetworkPolicy> = Api::namespaced(admin.clone(), &namespace.name);
    let policy =
        json!({"metadata": {"name": "policy"}, "spec": {"podSelector": {"matchLabels": {"app": "none"}}}});
    accepts(&policies, &serde_json::from_value(policy).unwrap())
        .await
        .unwrap();

    let node_name = names::node_name(&uid.as_str().into());
    claims_the_year_9999::<NetworkPolicy>(&admin, Some(&namespace.name), "policy").await;
    claims_the_year_9999::<Node>(&admin, None, &node_name).await;
    claims_the_year_9999::<Pod>(&admin, Some(&namespace.name), "hostile").await;

    // The reconciler that watches goes on, and a new one starts, sweeps and works.
    accepts(&pods, &marooned("other")).await.unwrap();
    eventually("a pod that came while it watched", SOON, || async {
        Ok(pods.get_opt("other").await?.filter(running))
    })
    .await
    .unwrap();
    drop(reconciler);
    let orphan = names::join_secret_name(&"00000000-0000-4000-8000-00000000dead".into(), 1);
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), names::VM_NAMESPACE);
    let leftover = json!({"metadata": {"name": orphan, "labels": {(names::POD_UID_LABEL): "x"}}});
    accepts(&secrets, &serde_json::from_value(leftover).unwrap())
        .await
        .unwrap();
    let reconciler = env.reconciler(false).await.unwrap();
    accepts(&pods, &marooned("later")).await.unwrap();
    eventually("a pod that came after the restart", SOON, || async {
        Ok(pods.get_opt("later").await?.filter(running))
    })
    .await
    .unwrap();
    eventually("the sweep took a leftover away", SOON, || async {
        Ok(secrets.get_opt(&orphan).await?.is_none().then_some(()))
    })
    .await
    .unwrap();

    let (ended, said) = uninstalls(&admin).await;
    assert!(
        !ended && said.contains(&format!("{}/hostile", namespace.name)),
        "{said}"
    );

    // Its VM and Node still go with the hostile pod, and it delays no other pod.
    for name in ["hostile", "other", "later"] {
        let at_once = DeleteParams::default().grace_period(0);
        let request = at::<Pod>(Some(&namespace.name)).delete(name, &at_once);
        admin.request_text(request.unwrap()).await.unwrap();
    }
    eventually("nothing is left", SOON, || async {
        Ok(nothing_left(&admin).await?.is_empty().then_some(()))
    })
    .await
    .unwrap();
    for kind in [
        "pods",
        "nodes",
        "networkpolicies",
        "maroonednodes",
        "csrs",
        "vmis",
    ] {
        for count in ["watch_failures", "unreadable_objects"] {
            let counted = reconciler
                .metric(&format!("maroonedpods_{count}_total{{kind=\"{kind}\"}}"))
                .await;
            assert!(counted.unwrap() < 1.0, "{count} {kind}");
        }
    }
    let log = logged.text();
    assert!(!log.contains(SECRET) && !log.contains("managedFields"), "{log}");
    env.stop().await.unwrap();
}

async fn uninstalls(admin: &Client) -> (bool, String) {
    let cluster = Cluster {
        client: admin.clone(),
        vm_namespace: names::VM_NAMESPACE.to_owned(),
    };
    let args = UninstallArgs {
        namespace: SYSTEM_NAMESPACE.to_owned(),
        force: false,
        timeout: Duration::from_secs(5),
    };
    let said = Mutex::new(String::new());
    let ended = uninstall(&cluster, &args, |line| said.lock().unwrap().push_str(line)).await;
    (ended.unwrap(), said.into_inner().unwrap())
}
