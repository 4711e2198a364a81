//! Root in a real guest: what it sees, and how far it gets with all that is to be found there.

use std::fs;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::phase;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::system::pki::Pair;
use serde_json::json;

use crate::attacks::Guest;
use crate::credentials::Credentials;
use crate::faults;
use crate::sizes::Size;
use crate::user::{Setup, User, shell_with};

/// The guest's own root file system, for a container that is privileged and sees the guest's processes.
const ROOT: &str = "/proc/1/root";

/// Two guests: one that is broken into, and another one.
pub async fn breached(setup: &Setup<'_>) {
    let _room = setup.room_for(2).await;
    let (attacker, other) = tokio::join!(User::new(setup, "attacker"), User::new(setup, "other"));
    let (own, victim) = tokio::join!(
        makes(&attacker, "root", Size("400m", "300Mi")),
        makes(&other, "victim", Size("200m", "150Mi")),
    );
    let (pod, foreign) = (&own.pod, &victim.pod);
    sees_the_guest_alone(&attacker).await;
    let token = finds_its_token(&attacker, &own).await;
    is_refused_with_the_token(&attacker, &token).await;
    let guest = Guest {
        client: takes_the_certificate(&attacker).await,
        user: &attacker,
        pod,
    };
    guest.reads(&own.secret, foreign, &victim.secret).await;
    guest.reads_what_joins_another(&other).await;
    guest.changes_nodes(foreign).await;
    tokio::join!(
        async {
            faults::kubelet_killed(&attacker, pod).await;
            faults::panicked(&attacker, pod).await;
        },
        faults::powered_off(&other, foreign),
    );
    attacker.leaves().await;
    other.leaves().await;
}

/// A privileged pod that runs, with a Secret of its own.
struct Made {
    pod: MaroonedPod,
    /// The Secret's name.
    secret: String,
    /// What the pod's guest joined with.
    joined: Credentials,
}

/// What is in a Secret of this name.
fn content(secret: &str) -> String {
    format!("content of {secret}")
}

async fn makes(user: &User<'_>, name: &'static str, size: Size) -> Made {
    let secret = format!("secret-of-{name}");
    let _: Secret = user
        .applies(json!({"metadata": {"name": secret}, "stringData": {"is": content(&secret)}}))
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
    let pod = user.creates(name, size, spec).await;
    let joined = Credentials::of(user, &pod).await;
    user.sees_running(&pod).await;
    joined.are_revoked().await;
    let still = pod.pods.get(name).await.unwrap();
    assert_eq!(phase(&still), "Running");
    user.says("seed and token are deleted, and the pod runs");
    Made { pod, secret, joined }
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
async fn finds_its_token(user: &User<'_>, own: &Made) -> String {
    let script = format!(
        "for disk in /sys/block/vd*; do [ \"$(cat $disk/serial)\" = seed ] && strings {ROOT}/dev/${{disk##*/}}; done; true"
    );
    let seed = user.tries_in("root", &script).await.unwrap();
    let token = token_in(&seed)
        .unwrap_or_else(|| panic!("no token in {seed}"))
        .to_owned();
    // It is what the API server had, and what this node joined with.
    assert_eq!(token, own.joined.token());
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
    let files_with = async |text: &str| {
        let (first, rest) = text.split_at(1);
        let search = format!(
            "cd {ROOT}; found=$(find etc run tmp var/lib/kubelet -type f -exec /bin/busybox grep -l '[{first}]{rest}' {{}} +); echo ${{found:-nowhere}}"
        );
        user.tries_in("root", &search).await.unwrap()
    };
    // The search finds what is there.
    let found = files_with(&content(&own.secret)).await;
    assert!(found.contains("/own/"), "{found}");
    assert_eq!(files_with(&token).await.trim(), "nowhere");
    user.says(&format!(
        "{} holds its token on the seed's disk alone",
        own.pod.node_name()
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
