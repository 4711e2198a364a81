//! A namespace in the shared environment, and pods in it.

use kube::Client;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
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

pub fn never_joins() -> Script {
    Script {
        never_joins: true,
        ..Script::default()
    }
}
