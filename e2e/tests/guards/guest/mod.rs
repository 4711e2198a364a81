//! Root in a guest, with all that is to be found there: the kubelet's certificate and the token of the seed.

mod credentials;
mod news;
mod node;
mod objects;
mod pod;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use maroonedpods_common::names;
use maroonedpods_e2e::check::{TestNamespace, accepts};
use maroonedpods_e2e::logs::logs;
use maroonedpods_e2e::pods::Marooned;
use maroonedpods_e2e::vmhost::Loot;
use maroonedpods_e2e::vmhost::script::Script;
use maroonedpods_e2e::world::World;
use serde_json::{Value, json};

use crate::drafts::{dry_run, from, pod};
use crate::table::Table;
use credentials::{asks_for_certificates, joins_twice, reads_secrets, reuses_its_token};
use news::{rewrites_news, spreads_news};
use node::{changes_its_node, makes_pods};
use objects::marks_what_is_its_own;
use pod::changes_its_pod;

/// A pod that mounts a Secret of its own, and what is found in its guest.
struct Guest {
    pod: Marooned,
    namespace: TestNamespace,
    loot: Loot,
    client: Client,
    uid: String,
}

impl Guest {
    async fn breached(world: &World, admin: &Client) -> Self {
        let namespace = TestNamespace::new(admin, &[]).await.unwrap();
        let secrets: Api<Secret> = Api::namespaced(admin.clone(), &namespace.name);
        accepts(&secrets, &from(json!({"metadata": {"name": "own"}})))
            .await
            .unwrap();
        let mounts = json!({"volumes": [{"name": "own", "secret": {"secretName": "own"}}]});
        let labels = json!({"name": "pod", "labels": {names::MAROON_LABEL: "true"}});
        let pod = Marooned::create_pod(admin, &namespace.name, &pod(&labels, &mounts))
            .await
            .unwrap();
        pod.running().await.unwrap();
        let loot = world.vmhost().guests().loot(&pod.node_name()).unwrap();
        let client = world.plane().certified(&loot.identity).await.unwrap();
        Self {
            uid: pod.uid.clone(),
            pod,
            namespace,
            loot,
            client,
        }
    }

    fn node(&self) -> String {
        self.pod.node_name()
    }

    fn api_in<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn change(&self, body: Value) -> kube::Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes
            .patch(&self.node(), &PatchParams::default(), &Patch::Strategic(body))
            .await
    }

    async fn report(&self, body: Value) -> kube::Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes
            .patch_status(&self.node(), &PatchParams::default(), &Patch::Strategic(body))
            .await
    }

    /// What every kubelet writes.
    async fn heartbeat(&self) -> kube::Result<Node> {
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z"});
        self.report(json!({"status": {"conditions": [ready]}})).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_nowhere() {
    logs();
    let world = World::shared().await.unwrap();
    let admin = world.plane().admin().await.unwrap();
    let waits = Script {
        never_joins: true,
        ..Script::default()
    };
    let booting_in = TestNamespace::new(&admin, &[]).await.unwrap();
    let (first, second) = (
        Guest::breached(world, &admin).await,
        Guest::breached(world, &admin).await,
    );
    let booting = Marooned::create(&admin, &booting_in.name, "booting", &waits)
        .await
        .unwrap();
    booting.vmi(1, "Running").await.unwrap();

    let mut token = Table::of("a join token");
    joins_twice(&mut token, &admin, world, &booting).await;
    token.print();
    let mut tables = [Table::of("root in a guest"), Table::of("root in the other guest")];
    for (table, (guest, other)) in tables.iter_mut().zip([(&first, &second), (&second, &first)]) {
        changes_its_node(table, &admin, guest).await;
        changes_its_pod(table, guest).await;
        marks_what_is_its_own(table, guest).await;
        makes_pods(table, world, guest, other).await;
        spreads_news(table, guest, other).await;
        rewrites_news(table, &admin, guest).await;
        asks_for_certificates(table, &admin, guest, other).await;
        reads_secrets(table, guest, other, &booting).await;
        reuses_its_token(table, world, guest).await;
    }
    booting.ends().await.unwrap();
    for (mut table, guest) in tables.into_iter().zip([first, second]) {
        outlives_its_node(&mut table, world, guest).await;
        table.print();
    }
}

async fn host(world: &World, name: &str) -> Client {
    let user = format!("{}{name}", names::NODE_USER_PREFIX);
    world.plane().user(&user, names::NODES_GROUP).await.unwrap()
}

async fn outlives_its_node(table: &mut Table, world: &World, guest: Guest) {
    let secrets = guest.api_in::<Secret>(&guest.namespace.name);
    let before = secrets.get("own").await;
    guest.pod.ends().await.unwrap();
    let says = "no relationship found between node";
    let after = secrets.get("own");
    table
        .refuses("read its pod's Secret when the pod is gone", says, after, async {
            before
        })
        .await;

    let node = |name: &str| from::<Node>(json!({"metadata": {"name": name}}));
    let nodes: Api<Node> = Api::all(guest.client.clone());
    let hosts: Api<Node> = Api::all(host(world, "host-9").await);
    table
        .refuses(
            "create its Node again when it is gone",
            "the Node of a marooned pod is made and deleted by the reconciler",
            nodes.create(&dry_run(), &node(&guest.node())),
            hosts.create(&dry_run(), &node("host-9")),
        )
        .await;
}
