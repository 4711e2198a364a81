//! Root in a guest, with all that is to be found there: the kubelet's certificate and the token of the seed.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Secret};
use k8s_openapi::api::events::v1::Event as NewEvent;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::check::{TestNamespace, accepts, eventually};
use maroonedpods_e2e::logs::logs;
use maroonedpods_e2e::pods::{Marooned, SOON};
use maroonedpods_e2e::vmhost::script::Script;
use maroonedpods_e2e::vmhost::{Ask, Loot};
use maroonedpods_e2e::world::World;
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::drafts::{dry_run, from, mirror, pod};
use crate::table::Table;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

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
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
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

    let mut table = Table::of("root in a guest");
    joins_twice(&mut table, &admin, world, &booting).await;
    for (guest, other) in [(&first, &second), (&second, &first)] {
        changes_its_node(&mut table, &admin, guest).await;
        makes_pods(&mut table, world, guest, other).await;
        spreads_news(&mut table, guest, other).await;
        asks_for_certificates(&mut table, &admin, guest, other).await;
        reads_secrets(&mut table, guest, other, &booting).await;
        reuses_its_token(&mut table, world, guest).await;
    }
    booting.ends().await.unwrap();
    for guest in [first, second] {
        outlives_its_node(&mut table, world, guest).await;
    }
    table.print();
}

async fn changes_its_node(table: &mut Table, admin: &Client, guest: &Guest) {
    let nodes: Api<Node> = Api::all(admin.clone());
    let cordoned = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes
        .patch(&guest.node(), &PatchParams::default(), &cordoned)
        .await
        .unwrap();
    let label = || json!({"metadata": {"labels": {"example.com/gpu": "true"}}});
    let says = "a marooned node cannot change its labels";
    table
        .refuses("relabel its Node", says, guest.change(label()), guest.heartbeat())
        .await;
    table
        .refuses(
            "… by way of the status",
            says,
            guest.report(label()),
            guest.heartbeat(),
        )
        .await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "none"});
    let address = json!({"type": "InternalIP", "address": "10.96.0.1"});
    for (attempt, says, body) in [
        (
            "relabel its Node as another pod's",
            "is not allowed to modify labels",
            json!({"metadata": {"labels": {names::IDENTITY_LABEL: "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10"}}}),
        ),
        (
            "untaint its Node",
            "is not allowed to modify taints",
            json!({"spec": {"taints": [{"$patch": "replace"}]}}),
        ),
        (
            "uncordon its Node",
            "a marooned node cannot change its spec",
            json!({"spec": {"unschedulable": null}}),
        ),
        (
            "annotate its Node",
            "a marooned node cannot change its annotations",
            json!({"metadata": {"annotations": {"alpha.kubernetes.io/provided-node-ip": "10.96.0.1"}}}),
        ),
        (
            "keep its Node by a finalizer",
            "a marooned node cannot change its finalizers",
            json!({"metadata": {"finalizers": ["example.com/stay"]}}),
        ),
        (
            "give its Node another owner",
            "not allowed to modify ownerReferences",
            json!({"metadata": {"ownerReferences": [owner]}}),
        ),
    ] {
        table
            .refuses(attempt, says, guest.change(body), guest.heartbeat())
            .await;
    }
    for (attempt, addresses) in [
        ("change its Node's address", json!([address])),
        (
            "add an address to its Node",
            json!([{"type": "ExternalIP", "address": "192.0.2.1"}]),
        ),
        ("drop its Node's addresses", json!([{"$patch": "replace"}])),
    ] {
        let body = json!({"status": {"addresses": addresses}});
        let says = "a marooned node cannot change its addresses";
        table
            .refuses(attempt, says, guest.report(body), guest.heartbeat())
            .await;
    }
}

async fn makes_pods(table: &mut Table, world: &World, guest: &Guest, other: &Guest) {
    let host = host(world, "host-1").await;
    let own = |client: &Client, name: String| {
        let nodes: Api<Node> = Api::all(client.clone());
        async move { mirror(&nodes.get(&name).await.unwrap()) }
    };
    let (of_guest, of_host) = (
        own(&guest.client, guest.node()).await,
        own(&host, "host-1".to_owned()).await,
    );
    let hosts: Api<Pod> = Api::namespaced(host, &other.namespace.name);
    table
        .refuses(
            "create a mirror pod in a foreign namespace",
            "no pod is created on a marooned node",
            guest
                .api_in::<Pod>(&other.namespace.name)
                .create(&dry_run(), &of_guest),
            hosts.create(&dry_run(), &of_host),
        )
        .await;
    let at_once = DeleteParams::default();
    table
        .refuses(
            "delete another guest's pod",
            "can only delete pods with spec.nodeName set to itself",
            guest.api_in::<Pod>(&other.namespace.name).delete("pod", &at_once),
            guest.api_in::<Pod>(&guest.namespace.name).get("pod"),
        )
        .await;
}

async fn host(world: &World, name: &str) -> Client {
    let user = format!("{}{name}", names::NODE_USER_PREFIX);
    world.plane().user(&user, names::NODES_GROUP).await.unwrap()
}

async fn spreads_news(table: &mut Table, guest: &Guest, other: &Guest) {
    let says = "a marooned node writes events about its own Node and its own pod only";
    let (own, foreign) = (guest.namespace.name.as_str(), other.namespace.name.as_str());
    let event = |namespace: &str, kind: &str, name: &str, uid: &str| -> Event {
        from(json!({
            "metadata": {"generateName": "e-"}, "reason": "Killing", "message": "m", "type": "Warning",
            "involvedObject": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid,
                "namespace": (namespace != "default").then_some(namespace)},
        }))
    };
    let write = |namespace: &str, kind: &str, name: &str, uid: &str| {
        let (api, event) = (
            guest.api_in::<Event>(namespace),
            event(namespace, kind, name, uid),
        );
        async move { api.create(&PostParams::default(), &event).await }
    };
    let (node, other_node) = (guest.node(), other.node());
    table
        .refuses(
            "write an event about another pod",
            says,
            write(foreign, "Pod", "pod", &other.uid),
            write(own, "Pod", "pod", &guest.uid),
        )
        .await;
    // The pod of that namespace has the same name, but is bound elsewhere.
    table
        .refuses(
            "write an event into a foreign namespace, with its own pod's UID",
            says,
            write(foreign, "Pod", "pod", &guest.uid),
            write(own, "Pod", "pod", &guest.uid),
        )
        .await;
    table
        .refuses(
            "write an event about another Node",
            says,
            write("default", "Node", &other_node, &other_node),
            write("default", "Node", &node, &node),
        )
        .await;
    table
        .refuses(
            "write an event about its Node into a foreign namespace",
            says,
            write(foreign, "Node", &node, &node),
            write("default", "Node", &node, &node),
        )
        .await;
    let new = |namespace: &str, uid: &str| {
        let event: NewEvent = from(json!({
            "metadata": {"generateName": "e-"}, "eventTime": "2026-01-01T00:00:00.000000Z", "reason": "Killing",
            "action": "Killing", "type": "Warning", "reportingController": "kubelet", "reportingInstance": "k",
            "regarding": {"apiVersion": "v1", "kind": "Pod", "name": "pod", "namespace": namespace, "uid": uid},
        }));
        let api = guest.api_in::<NewEvent>(namespace);
        async move { api.create(&PostParams::default(), &event).await }
    };
    table
        .refuses(
            "write an event about another pod through events.k8s.io",
            says,
            new(foreign, &other.uid),
            new(own, &guest.uid),
        )
        .await;
}

async fn asks_for_certificates(table: &mut Table, admin: &Client, guest: &Guest, other: &Guest) {
    let csrs: Api<CertificateSigningRequest> = Api::all(guest.client.clone());
    let own = Ask::serving(&guest.node(), vec![guest.node()]);
    let foreign = Ask::serving(&other.node(), vec![other.node()]);
    let renewal = Ask::client(&guest.node(), &[]);
    table
        .refuses(
            "ask for another node's serving certificate",
            "can only create a node CSR with CN=",
            file(&csrs, &foreign, None),
            file(&csrs, &own, None),
        )
        .await;
    let says = "a marooned node asks for serving certificates only";
    let attack = file(&csrs, &renewal, None);
    table
        .refuses(
            "renew its client certificate",
            says,
            attack,
            file(&csrs, &own, None),
        )
        .await;
    let attack = file(&csrs, &foreign, Some(CLIENT_SIGNER));
    let twin = file(&csrs, &own, None);
    table
        .refuses(
            "ask for another node's client certificate from another signer",
            says,
            attack,
            twin,
        )
        .await;
    for (attempt, san) in [
        (
            "ask for a serving certificate of kubernetes.default.svc",
            "kubernetes.default.svc",
        ),
        ("ask for a serving certificate of a foreign address", "10.96.0.1"),
    ] {
        let ask = Ask::serving(&guest.node(), vec![guest.node(), san.to_owned()]);
        let filed = csrs
            .create(&PostParams::default(), &signed(&ask, None))
            .await
            .unwrap();
        let (_, message) = answer(admin, &filed.name_any()).await;
        let says = "expected no subject alternative names but the node's own name and address";
        table.fails(attempt, says, message);
    }
    // The twin of both.
    let filed = csrs
        .create(&PostParams::default(), &signed(&own, None))
        .await
        .unwrap();
    assert_eq!(answer(admin, &filed.name_any()).await.0, "Approved");
}

fn signed(ask: &Ask, signer: Option<&str>) -> CertificateSigningRequest {
    let mut request = ask.request(&KeyPair::generate().unwrap()).unwrap();
    if let Some(signer) = signer {
        signer.clone_into(&mut request.spec.signer_name);
    }
    request
}

async fn file(
    csrs: &Api<CertificateSigningRequest>,
    ask: &Ask,
    signer: Option<&str>,
) -> kube::Result<CertificateSigningRequest> {
    csrs.create(&dry_run(), &signed(ask, signer)).await
}

/// What the reconciler says to a request.
async fn answer(admin: &Client, name: &str) -> (String, String) {
    let csrs: Api<CertificateSigningRequest> = Api::all(admin.clone());
    eventually("an answer to a certificate request", SOON, || async {
        let status = csrs.get(name).await?.status.unwrap_or_default();
        let first = status.conditions.and_then(|all| all.into_iter().next());
        Ok(first.map(|c| (c.type_, c.message.unwrap_or_default())))
    })
    .await
    .unwrap()
}

/// A guest that has not joined yet has its token, and this one holds it for others to use.
async fn joins_twice(table: &mut Table, admin: &Client, world: &World, booting: &Marooned) {
    let tokens: Api<Secret> = Api::namespaced(admin.clone(), names::TOKEN_NAMESPACE);
    let of_pod = ListParams::default().labels(&format!("{}={}", names::POD_UID_LABEL, booting.uid));
    let data = tokens.list(&of_pod).await.unwrap().items.remove(0).data.unwrap();
    let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
    let token = format!("{}.{}", text("token-id"), text("token-secret"));
    let csrs: Api<CertificateSigningRequest> = Api::all(world.plane().bearer(&token).await.unwrap());
    let (own, foreign) = (Ask::client(&booting.node_name(), &[]), Ask::client("host-1", &[]));
    eventually("the token to be known", SOON, || async {
        Ok(Some(file(&csrs, &own, None).await?))
    })
    .await
    .unwrap();
    table
        .refuses(
            "ask another signer with a join token",
            "a join token asks for a kubelet's client certificate only",
            file(&csrs, &own, Some(CLIENT_SIGNER)),
            file(&csrs, &own, None),
        )
        .await;
    let filed = csrs
        .create(&PostParams::default(), &signed(&foreign, None))
        .await
        .unwrap();
    let (_, message) = answer(admin, &filed.name_any()).await;
    let says = "expected subject O=system:nodes, CN=system:node:<name of the node>";
    table.fails("ask to be another node with a join token", says, message);
}

async fn reuses_its_token(table: &mut Table, world: &World, guest: &Guest) {
    let client = world.plane().bearer(&guest.loot.token).await.unwrap();
    let csrs: Api<CertificateSigningRequest> = Api::all(client);
    let ask = Ask::client(&guest.node(), &[]);
    // The API server remembers a token for 10 s; meanwhile what it files is refused (tests/csr.rs).
    eventually("the token to be forgotten", SOON, || async {
        let answer = file(&csrs, &ask, None).await;
        Ok(matches!(answer, Err(kube::Error::Api(status)) if status.code == 401).then_some(()))
    })
    .await
    .unwrap();
    let attack = file(&csrs, &ask, None);
    table
        .refuses(
            "use its bootstrap token after the join",
            "Unauthorized",
            attack,
            guest.heartbeat(),
        )
        .await;
}

async fn reads_secrets(table: &mut Table, guest: &Guest, other: &Guest, booting: &Marooned) {
    let says = "no relationship found between node";
    let secrets = guest.api_in::<Secret>(&guest.namespace.name);
    let join = names::join_secret_name(&booting.uid, 1);
    let second = names::join_secret_name(&booting.uid, 2);
    for (attempt, namespace, name) in [
        (
            "read another VM's join Secret",
            names::VM_NAMESPACE,
            join.as_str(),
        ),
        (
            "read that of its next attempt",
            names::VM_NAMESPACE,
            second.as_str(),
        ),
        (
            "read another guest's pod's Secret",
            other.namespace.name.as_str(),
            "own",
        ),
    ] {
        let foreign = guest.api_in::<Secret>(namespace);
        table
            .refuses(attempt, says, foreign.get(name), secrets.get("own"))
            .await;
    }
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
