//! A namespace in the shared environment, and pods in it.

use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::test_env::TestEnv;

pub struct Test {
    pub env: &'static TestEnv,
    pub admin: Client,
    pub namespace: TestNamespace,
}

impl Test {
    pub async fn new() -> Self {
        let env = TestEnv::shared().await.unwrap();
        let admin = env.control_plane().admin().await.unwrap();
        let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
        Self {
            env,
            admin,
            namespace,
        }
    }

    pub async fn pod(&self, script: &Script) -> MaroonedPod {
        MaroonedPod::create(&self.admin, &self.namespace.name, "pod", script)
            .await
            .unwrap()
    }

    pub async fn running_pod(&self) -> MaroonedPod {
        let pod = self.pod(&Script::default()).await;
        pod.running().await.unwrap();
        pod
    }
}

/// Waits for an event of this reason about the pod; its message.
pub async fn told(pod: &MaroonedPod, reason: &str) -> String {
    let running = pod.pods.get(&pod.name).await.unwrap();
    let client = pod.pods.clone().into_client();
    let events: Api<Event> = Api::namespaced(client, &running.namespace().unwrap());
    let about = ListParams::default().fields(&format!("involvedObject.uid={},reason={reason}", pod.uid));
    eventually(&format!("an event {reason}"), SOON, || async {
        let found = events.list(&about).await?.items.into_iter().next();
        Ok(found.and_then(|event| event.message))
    })
    .await
    .unwrap()
}

pub fn never_joins() -> Script {
    Script {
        never_joins: true,
        ..Script::default()
    }
}
