//! Root in a guest, with all that is to be found there: the kubelet's certificate and the token of the seed.

mod breached;
mod credentials;
mod news;
mod node;
mod objects;
mod pod;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::api::storage::v1::CSINode;
use kube::{Api, Client};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

use crate::fixtures::{dry_run, from};
use crate::table::Table;
use breached::{Guest, host};
use credentials::{JoinSecret, asks_for_certificates, joins_twice, reads_secrets, reuses_its_token};
use news::{rewrites_news, spreads_news};
use node::{changes_its_node, makes_pods};
use objects::marks_what_is_its_own;
use pod::changes_its_pod;

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_nowhere() {
    logs();
    let env = TestEnv::shared().await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let waits = Script {
        never_joins: true,
        ..Script::default()
    };
    let booting_in = TestNamespace::new(&admin, &[]).await.unwrap();
    let (first, second) = (
        Guest::breached(env, &admin).await,
        Guest::breached(env, &admin).await,
    );
    let booting = MaroonedPod::create(&admin, &booting_in.name, "booting", &waits)
        .await
        .unwrap();
    // Its seeds would be gone with its attempts, long before the last attack on them.
    let first_seed = JoinSecret::kept(&admin, &booting, 1).await;
    booting.vmi(1, "Running").await.unwrap();

    let mut token = Table::of("a join token");
    let joins = joins_twice(&mut token, &admin, env, &booting);
    let ((), second_seed) = tokio::join!(joins, JoinSecret::kept(&admin, &booting, 2));
    token.print();
    let seeds = [first_seed, second_seed];
    let mut tables = [Table::of("root in a guest"), Table::of("root in the other guest")];
    for table in &mut tables {
        for guest in [&first, &second] {
            aims_at(table, &admin, guest);
        }
    }
    for (table, (guest, other)) in tables.iter_mut().zip([(&first, &second), (&second, &first)]) {
        changes_its_node(table, &admin, guest).await;
        changes_its_pod(table, guest).await;
        marks_what_is_its_own(table, env, guest).await;
        makes_pods(table, env, guest, other).await;
        spreads_news(table, guest, other).await;
        rewrites_news(table, &admin, guest).await;
        asks_for_certificates(table, &admin, guest, other).await;
        reads_secrets(table, &admin, guest, other, &seeds).await;
        reuses_its_token(table, env, guest).await;
    }
    for seed in seeds {
        seed.let_go().await;
    }
    booting.ends().await.unwrap();
    for (table, guest) in tables.into_iter().zip([first, second]) {
        table.print();
        let mut table = Table::of("root in a guest whose pod is gone");
        outlives_its_node(&mut table, &admin, env, guest).await;
        table.print();
    }
}

/// All that is a guest's, or about it.
fn aims_at(table: &mut Table, admin: &Client, guest: &Guest) {
    let node = guest.node();
    table.aims_at(&guest.pod.pods, &guest.pod.name);
    table.aims_at(&guest.pod.nodes(), &node);
    table.aims_at::<Lease>(&Api::namespaced(admin.clone(), "kube-node-lease"), &node);
    table.aims_at::<CSINode>(&Api::all(admin.clone()), &node);
}

async fn outlives_its_node(table: &mut Table, admin: &Client, env: &TestEnv, guest: Guest) {
    let secrets = guest.api_in::<Secret>(&guest.namespace.name);
    let before = secrets.get("own").await;
    guest.pod.ends().await.unwrap();
    table.aims_at::<Secret>(&Api::namespaced(admin.clone(), &guest.namespace.name), "own");
    let says = "no relationship found between node";
    let after = secrets.get("own");
    table
        .refuses("read its pod's Secret when the pod is gone", says, after, async {
            before
        })
        .await;

    let node = |name: &str| from::<Node>(json!({"metadata": {"name": name}}));
    let nodes: Api<Node> = Api::all(guest.client.clone());
    let hosts: Api<Node> = Api::all(host(env, "host-9").await);
    table
        .refuses(
            "create its Node again when it is gone",
            "the Node of a marooned pod is made and deleted by the reconciler",
            nodes.create(&dry_run(), &node(&guest.node())),
            hosts.create(&dry_run(), &node("host-9")),
        )
        .await;
}
