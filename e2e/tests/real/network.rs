//! A marooned pod's address is its VM's: reached and reaching like any pod, from other nodes and from other VMs.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Api;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::api::read::node_is_ready;
use maroonedpods_e2e::cluster::REAL_LABEL;
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use maroonedpods_e2e::harness::real_env::{RUNS, RealEnv, TOOLBOX};
use serde_json::{Value, json};

use crate::{dead_vm, names as cluster_names, ports, ready};

/// More than a packet on the way, and than several.
const DATAGRAMS: [&str; 4] = ["100", "1400", "5000", "20000"];
/// UDP may lose datagrams on a busy machine: one in so many may have to be sent again.
const ONE_LOST_IN: u32 = 3;

/// Two marooned pods, on VMs of different hosts, and an ordinary pod on each host.
pub struct Pods<'a> {
    pub env: &'a RealEnv<'a>,
    pub namespace: String,
    pub marooned: [MaroonedPod; 2],
    addresses: [(String, String); 4],
}

const PLAIN: [&str; 2] = ["plain-1", "plain-2"];
const MAROONED: [&str; 2] = ["marooned-a", "marooned-b"];

pub async fn pods_reach_each_other(env: &RealEnv<'_>) {
    let namespace = TestNamespace::new(&env.admin, &[]).await.unwrap();
    let pods = Pods::new(env, &namespace.name).await;
    every_pair_sees_real_addresses(&pods).await;
    services_lead_to_marooned_pods(&pods).await;
    cluster_names::are_resolved(&pods).await;
    kubectl_reaches_a_pod_in_a_vm(&pods).await;
    ports::the_guest_is_closed(&pods).await;
    many_short_connections_succeed(&pods).await;
    dead_vm::a_dead_vms_address_takes_no_traffic(&pods).await;
    a_pod_on_the_host_network_has_the_same_address(&pods).await;
    namespace.close(&env.admin).await.unwrap();
}

impl<'a> Pods<'a> {
    async fn new(env: &'a RealEnv<'a>, namespace: &str) -> Self {
        let all: Api<Pod> = Api::namespaced(env.admin.clone(), namespace);
        for (name, node) in PLAIN.iter().zip(["node-1", "node-2"]) {
            let selector = json!({REAL_LABEL: "true", "kubernetes.io/hostname": node});
            accepts(&all, &pod(name, &json!({}), &json!({"nodeSelector": selector})))
                .await
                .unwrap();
        }
        let mut marooned = Vec::new();
        for name in MAROONED {
            let labels = json!({names::MAROON_LABEL: "true", "tier": "marooned"});
            let new = pod(name, &labels, &json!({}));
            let created = MaroonedPod::create_pod(&env.admin, namespace, &new).await;
            marooned.push(created.unwrap());
        }
        let mut addresses = Vec::new();
        for name in PLAIN.iter().chain(&MAROONED) {
            let up = becomes(&all, name, "a pod that is ready", RUNS, ready).await;
            let pod = match up {
                Ok(pod) => pod,
                Err(error) => panic!("{error:#}\n{}", env.state().await),
            };
            let address = pod.status.and_then(|status| status.pod_ip).unwrap();
            addresses.push(((*name).to_owned(), address));
        }
        Self {
            env,
            namespace: namespace.to_owned(),
            marooned: marooned.try_into().ok().unwrap(),
            addresses: addresses.try_into().unwrap(),
        }
    }

    pub fn address(&self, name: &str) -> &str {
        let mut found = self.addresses.iter().filter(|(pod, _)| pod == name);
        &found.next().unwrap().1
    }

    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let arguments = [&["--namespace", &self.namespace], arguments].concat();
        self.env.cluster().control_plane().kubectl(&arguments).await
    }

    /// Runs a program in a pod.
    pub async fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        self.kubectl(&[["exec", pod, "--"].as_slice(), command].concat())
            .await
    }

    /// Runs the test server in a pod.
    pub async fn test(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        self.exec(pod, &[["/testserver"].as_slice(), command].concat())
            .await
    }

    /// Scans ports from within a pod.
    pub async fn scan(&self, pod: &str, protocol: &str, address: &str, ports: &str) -> String {
        let begun = Instant::now();
        let seen = self.test(pod, &["scan", protocol, address, ports]).await.unwrap();
        let took = begun.elapsed().as_secs_f64();
        println!("{pod} scans {address} by {protocol} in {took:.1} s:\n{seen}");
        seen
    }
}

/// A pod that serves, and is ready when it does.
fn pod(name: &str, labels: &Value, more: &Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": TOOLBOX, "imagePullPolicy": "IfNotPresent",
                "command": ["/testserver", "serve"],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5},
            }],
        },
    });
    for (key, value) in labels.as_object().unwrap() {
        pod["metadata"]["labels"][key] = value.clone();
    }
    for (key, value) in more.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

/// TCP, UDP, fragments and ping, both ways between pods on nodes and pods in VMs, and between VMs.
async fn every_pair_sees_real_addresses(pods: &Pods<'_>) {
    let names: Vec<_> = PLAIN.iter().chain(&MAROONED).copied().collect();
    let (mut sent, mut again) = (0, 0);
    for from in &names {
        for to in names
            .iter()
            .filter(|to| MAROONED.contains(to) || MAROONED.contains(from))
        {
            let (source, target) = (pods.address(from), pods.address(to));
            let sends = DATAGRAMS.map(|size| format!("/testserver send {target}:8080 {size}; "));
            let sends = sends.concat();
            let script = format!(
                "set -e; /testserver get http://{target}:8080/sees; {sends}/bin/busybox ping -c 1 -s 4000 {target} >/dev/null"
            );
            let said = pods
                .exec(from, &["/bin/busybox", "sh", "-c", &script])
                .await
                .unwrap();
            let mut said = said.lines();
            let whole = format!("{to} sees {source}");
            assert_eq!(said.next(), Some(whole.as_str()), "{from} to {to}");
            for size in DATAGRAMS {
                let line = said.next().unwrap();
                let answer = format!("{to} sees {source}, {size} bytes, at try ");
                let tries = line.strip_prefix(&answer);
                let tries = tries.unwrap_or_else(|| panic!("{from} to {to}: {line}, not {answer}"));
                sent += 1;
                again += tries.parse::<u32>().unwrap() - 1;
            }
            assert_eq!(said.next(), None, "{from} to {to}");
            println!("{from} ({source}) to {to} ({target}): TCP, UDP up to 20000 bytes, ping");
        }
    }
    println!("of {sent} datagrams, {again} were sent again");
    assert!(again * ONE_LOST_IN <= sent, "{again} of {sent} were sent again");
}

async fn services_lead_to_marooned_pods(pods: &Pods<'_>) {
    let services: Api<Service> = Api::namespaced(pods.env.admin.clone(), &pods.namespace);
    for name in MAROONED.iter().chain(&PLAIN) {
        let service = json!({
            "metadata": {"name": name},
            "spec": {"type": "NodePort", "selector": {"app": name}, "ports": [
                {"name": "tcp", "port": 80, "targetPort": 8080},
                {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
            ]},
        });
        let service = serde_json::from_value(service).unwrap();
        let made = accepts(&services, &service).await.unwrap().spec.unwrap();
        let (address, port) = (
            made.cluster_ip.unwrap(),
            made.ports.unwrap()[0].node_port.unwrap(),
        );
        for from in PLAIN.iter().chain(&MAROONED) {
            // The hosts' proxies put their own addresses in, for all pods (`masqueradeAll`). To itself is the hairpin.
            let sees = format!("{name} sees ");
            let url = format!("http://{address}/sees");
            answers(pods, from, &["get", &url], &sees).await;
            answers(pods, from, &["send", &format!("{address}:80"), "100"], &sees).await;
        }
        for node in ["10.98.1.1", "10.98.1.2"] {
            let url = format!("http://{node}:{port}/sees");
            answers(pods, "plain-1", &["get", &url], name).await;
        }
        println!("Service {name} ({address}, NodePort {port}): from all pods, and from itself");
    }
}

/// Waits until what a pod asks is answered so. An endpoint comes when proxies have heard of it, and goes for a moment where
/// a busy machine lets a guest miss its probes.
async fn answers(pods: &Pods<'_>, from: &str, question: &[&str], begins: &str) {
    eventually(&format!("an answer to {question:?} of {from}"), RUNS, || async {
        let answer = pods.test(from, question).await?;
        Ok(answer.starts_with(begins).then_some(()))
    })
    .await
    .unwrap();
}

async fn kubectl_reaches_a_pod_in_a_vm(pods: &Pods<'_>) {
    let log = pods.kubectl(&["logs", "marooned-a"]).await.unwrap();
    assert!(log.starts_with("serving\n"), "{log}");
    for path in ["pods/marooned-a:8080", "services/marooned-a:tcp"] {
        let raw = format!("/api/v1/namespaces/{}/{path}/proxy/", pods.namespace);
        let answer = pods.kubectl(&["get", "--raw", &raw]).await.unwrap();
        assert_eq!(answer, "this is marooned-a", "{path}");
    }
}

async fn many_short_connections_succeed(pods: &Pods<'_>) {
    let url = format!("http://{}:8080/", pods.address("marooned-a"));
    let said = pods.test("plain-2", &["storm", &url, "1000"]).await.unwrap();
    assert!(said.ends_with("1000 of 1000 answered\n"), "{said}");
    // The kubelet's watches were idle for long, and the pod came in between.
    let nodes: Api<Node> = Api::all(pods.env.admin.clone());
    let node = nodes.get(&pods.marooned[0].node_name()).await.unwrap();
    assert!(node_is_ready(&node));
    pods.exec("marooned-a", &["/bin/busybox", "true"]).await.unwrap();
    println!("plain-2 to marooned-a: {said}");
}

/// `hostNetwork`: its host is its guest. Ready by a probe of its kubelet.
async fn a_pod_on_the_host_network_has_the_same_address(pods: &Pods<'_>) {
    let new = pod(
        "host",
        &json!({names::MAROON_LABEL: "true"}),
        &json!({"hostNetwork": true}),
    );
    let admin = &pods.env.admin;
    let marooned = MaroonedPod::create_pod(admin, &pods.namespace, &new)
        .await
        .unwrap();
    let up = becomes(&marooned.pods, "host", "a pod that is ready", RUNS, ready).await;
    let address = up.unwrap().status.unwrap().pod_ip.unwrap();
    let node = marooned.node_name();
    let plain = pods.address("plain-1");
    let to = pods
        .test("plain-1", &["get", &format!("http://{address}:8080/sees")])
        .await;
    assert_eq!(to.unwrap(), format!("{node} sees {plain}\n"));
    let from = pods
        .test("host", &["get", &format!("http://{plain}:8080/sees")])
        .await;
    assert_eq!(from.unwrap(), format!("plain-1 sees {address}\n"));
    println!("host ({address}) and plain-1 ({plain}) see each other, with hostNetwork");
    ports::a_guest_on_whose_network_its_pod_is(pods, &address).await;
}
