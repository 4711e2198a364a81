//! Root in a real guest: what it sees, and how far it gets with all that is to be found there.

use std::fmt::Debug;
use std::fs;

use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::system::pki::Pair;
use serde::Serialize;
use serde_json::{Value, json};

use crate::faults;
use crate::sizes::Size;
use crate::user::{Setup, User, shell_with};

/// The guest's own root file system, for a container that is privileged and sees the guest's processes.
const ROOT: &str = "/proc/1/root";

/// Two guests: one that is broken into, and another one.
pub async fn breached(setup: &Setup<'_>) {
    let _room = setup.room_for(2).await;
    let (attacker, other) = tokio::join!(User::new(setup, "attacker"), User::new(setup, "other"));
    let ((own, pod), (victim, foreign)) = tokio::join!(
        makes(&attacker, "root", Size("400m", "300Mi")),
        makes(&other, "victim", Size("200m", "150Mi")),
    );
    sees_the_guest_alone(&attacker).await;
    let token = finds_its_token(&attacker, &pod).await;
    is_refused_with_the_token(&attacker, &token).await;
    let guest = Guest {
        client: takes_the_certificate(&attacker).await,
        user: &attacker,
        pod: &pod,
    };
    guest.reads(&own, &foreign, &victim, &other).await;
    guest.changes_nodes(&foreign).await;
    tokio::join!(
        async {
            faults::kubelet_killed(&attacker, &pod).await;
            faults::panicked(&attacker, &pod).await;
        },
        faults::powered_off(&other, &foreign),
    );
    attacker.leaves().await;
    other.leaves().await;
}

/// A privileged pod with a Secret of its own; the Secret's name and the pod.
async fn makes(user: &User<'_>, name: &'static str, size: Size) -> (String, MaroonedPod) {
    let secret = format!("secret-of-{name}");
    let _: Secret = user
        .applies(json!({"metadata": {"name": secret}, "stringData": {"is": name}}))
        .await;
    let mounted = json!({
        "securityContext": {"privileged": true},
        "volumeMounts": [{"name": "own", "mountPath": "/own"}],
    });
    let spec = json!({
        "hostPID": true,
        "terminationGracePeriodSeconds": 1,
        "containers": [shell_with("main", "sleep 3600", mounted)],
        "volumes": [{"name": "own", "secret": {"secretName": secret}}],
    });
    let pod = user.runs(name, size, spec).await;
    (secret, pod)
}

/// Processes and kernel are the guest's.
async fn sees_the_guest_alone(user: &User<'_>) {
    let kernel = user
        .shell("root", "uname -a; cat /proc/sys/kernel/random/boot_id")
        .await;
    for own in ["osrelease", "random/boot_id"] {
        let of_this_machine = fs::read_to_string(format!("/proc/sys/kernel/{own}")).unwrap();
        assert!(!kernel.contains(of_this_machine.trim()), "{kernel}");
    }
    let processes = user.shell("root", "ps -o pid,args | grep -v '\\['").await;
    assert!(processes.contains("kubelet --config="), "{processes}");
    for outside in [
        "qemu",
        "apiserver",
        "etcd",
        "kube-proxy",
        "maroonedpods-reconciler",
    ] {
        assert!(!processes.contains(outside), "{outside} in {processes}");
    }
}

/// The seed's disk cannot be erased by the guest, so root finds the token there; nowhere else.
async fn finds_its_token(user: &User<'_>, pod: &MaroonedPod) -> String {
    let script = format!(
        "for disk in /sys/block/vd*; do [ \"$(cat $disk/serial)\" = seed ] && strings {ROOT}/dev/${{disk##*/}}; done; true"
    );
    let seed = user.tries_in("root", &script).await.unwrap();
    let token = token_in(&seed)
        .unwrap_or_else(|| panic!("no token in {seed}"))
        .to_owned();
    // It is what this node joined with.
    let (id, _) = token.split_once('.').unwrap();
    let requests = user.kubectl(&["get", "certificatesigningrequests"]).await;
    assert!(
        requests.contains(&format!("{}{id}", names::BOOTSTRAP_USER_PREFIX)),
        "{id} in {requests}"
    );
    let join = format!("{ROOT}/etc/marooned");
    let left = user.shell("root", &format!("ls -A {join}")).await;
    for file in ["join-info.yaml", "bootstrap.kubeconfig"] {
        assert!(!left.contains(file), "{left}");
    }
    // As a pattern that does not match itself: the runtime keeps what it runs in a file for a moment.
    let (first, rest) = token.split_at(1);
    let search = format!(
        "cd {ROOT}; found=$(find etc run tmp var/lib/kubelet -type f -exec /bin/busybox grep -l '[{first}]{rest}' {{}} +); echo ${{found:-nowhere}}"
    );
    assert_eq!(user.tries_in("root", &search).await.unwrap().trim(), "nowhere");
    user.says(&format!(
        "{} holds its token on the seed's disk alone",
        pod.node_name()
    ));
    token
}

/// A bootstrap token, `abcdef.0123456789abcdef`.
fn token_in(text: &str) -> Option<&str> {
    let of_token = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
    text.split(|c| !of_token(c))
        .find(|word| word.len() == 23 && word.find('.') == Some(6))
}

async fn is_refused_with_the_token(user: &User<'_>, token: &str) {
    let ask = |token: &str| format!("/testserver ask https://$KUBERNETES_SERVICE_HOST/api {token}");
    // The API server remembers a token for 10 s.
    let refused = eventually("the token to be forgotten", SOON, || async {
        let answer = user.tries_in("root", &ask(token)).await?;
        Ok(answer.starts_with("401 Unauthorized").then_some(answer))
    });
    user.says(&format!(
        "with the join token, from inside the guest: {}",
        refused.await.unwrap().trim()
    ));
    let account = "$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)";
    let answer = user.tries_in("root", &ask(account)).await.unwrap();
    assert!(answer.starts_with("200 OK"), "{answer}");
}

/// The guest's identity at the API server.
async fn takes_the_certificate(user: &User<'_>) -> Client {
    // The link to the current one would lead to the container's own files.
    let file = format!("cat {ROOT}/var/lib/kubelet/pki/kubelet-client-2*.pem");
    let pem = user.tries_in("root", &file).await.unwrap();
    let (certificate, key) = pem.split_at(pem.find("-----BEGIN EC PRIVATE KEY").unwrap());
    let pair = Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    };
    user.setup.control_plane().certified(&pair).await.unwrap()
}

/// Who holds a guest's certificate.
struct Guest<'a> {
    client: Client,
    user: &'a User<'a>,
    pod: &'a MaroonedPod,
}

impl Guest<'_> {
    /// The API server must refuse the attempt, in words that contain `says`.
    async fn refused<T: Debug + Serialize>(
        &self,
        attempt: &str,
        says: &str,
        answer: impl Future<Output = kube::Result<T>>,
    ) {
        let message = maroonedpods_e2e::api::check::refused(answer.await).unwrap();
        assert!(message.contains(says), "{attempt}: {message}");
        self.user.says(&format!("{attempt}: {message}"));
    }

    fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn reads(&self, own: &str, foreign: &MaroonedPod, victim: &str, other: &User<'_>) {
        // What it may: else the refusals below would say little.
        self.secrets(&self.user.namespace).get(own).await.unwrap();
        let pods: Api<Pod> = Api::all(self.client.clone());
        let of_node = ListParams::default().fields(&format!("spec.nodeName={}", self.pod.node_name()));
        assert_eq!(pods.list(&of_node).await.unwrap().items.len(), 1);

        let unrelated = "no relationship found between node";
        let secrets = self.secrets(&other.namespace);
        self.refused(
            "read another guest's pod's Secret",
            unrelated,
            secrets.get(victim),
        )
        .await;
        let join = names::join_secret_name(&foreign.uid.as_str().into(), 1);
        let secrets = self.secrets(names::VM_NAMESPACE);
        self.refused("read another guest's join Secret", unrelated, secrets.get(&join))
            .await;
        let join = names::join_secret_name(&self.pod.uid.as_str().into(), 1);
        self.refused("read its own join Secret", unrelated, secrets.get(&join))
            .await;
        let all = ListParams::default();
        self.refused(
            "list all Secrets",
            "is forbidden",
            Api::<Secret>::all(self.client.clone()).list(&all),
        )
        .await;
        self.refused("list all pods", "is forbidden", pods.list(&all))
            .await;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &other.namespace);
        self.refused(
            "read another guest's pod",
            "is forbidden",
            pods.get(&foreign.name),
        )
        .await;
        let of_node = ListParams::default().fields(&format!("spec.nodeName={}", foreign.node_name()));
        self.refused(
            "list the pods of another guest's Node",
            "is forbidden",
            pods.list(&of_node),
        )
        .await;
    }

    async fn changes_nodes(&self, foreign: &MaroonedPod) {
        let (nodes, own) = (self.nodes(), self.pod.node_name());
        let patch = PatchParams::default();
        let change = |body: Value| Patch::Strategic(body);
        // What every kubelet writes.
        let beat = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "by hand"});
        let beat = change(json!({"status": {"conditions": [beat]}}));
        nodes.patch_status(&own, &patch, &beat).await.unwrap();

        let label = change(json!({"metadata": {"labels": {"example.com/gpu": "true"}}}));
        let says = "a marooned node cannot change its labels";
        self.refused("relabel its Node", says, nodes.patch(&own, &patch, &label))
            .await;
        self.refused(
            "relabel it by way of its status",
            says,
            nodes.patch_status(&own, &patch, &label),
        )
        .await;
        let stolen = change(json!({"metadata": {"labels": {names::IDENTITY_LABEL: foreign.uid}}}));
        let says = "is not allowed to modify labels";
        self.refused(
            "relabel its Node as another pod's",
            says,
            nodes.patch(&own, &patch, &stolen),
        )
        .await;
        let free = change(json!({"spec": {"taints": [{"$patch": "replace"}]}}));
        let says = "is not allowed to modify taints";
        self.refused("untaint its Node", says, nodes.patch(&own, &patch, &free))
            .await;
        let address = json!([{"type": "InternalIP", "address": "10.96.0.1"}]);
        let moved = change(json!({"status": {"addresses": address}}));
        let says = "a marooned node cannot change its addresses";
        self.refused(
            "set its Node's address",
            says,
            nodes.patch_status(&own, &patch, &moved),
        )
        .await;
        let other = foreign.node_name();
        self.refused(
            "report for another guest's Node",
            "is forbidden",
            nodes.patch_status(&other, &patch, &beat),
        )
        .await;
        let delete = async { nodes.delete(&own, &DeleteParams::default()).await.map(drop) };
        self.refused("delete its Node", "is forbidden", delete).await;
        let again: Node = serde_json::from_value(json!({"metadata": {"name": own}})).unwrap();
        let says = "the Node of a marooned pod is made and deleted by the reconciler";
        self.refused(
            "create its Node again",
            says,
            nodes.create(&PostParams::default(), &again),
        )
        .await;
    }
}
