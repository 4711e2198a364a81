//! A marooned pod's address is its VM's: reached and reaching like any pod, from other nodes and from other VMs.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Api;
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::api::read::node_is_ready;
use maroonedpods_e2e::cluster::REAL_LABEL;
use maroonedpods_e2e::fake_kubevirt::RealVm;
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use maroonedpods_e2e::harness::real_env::{CLUSTER_DOMAIN, RUNS, RealEnv, TOOLBOX};
use maroonedpods_e2e::install::dns::DNS_ADDRESS;
use serde_json::{Value, json};

use crate::ready;

/// Where the DNS server of these tests says that every name is.
const EVERYWHERE: &str = "192.0.2.53";
/// More than a packet on the way, and than several.
const DATAGRAMS: [&str; 4] = ["100", "1400", "5000", "20000"];

/// Two marooned pods, on VMs of different hosts, and an ordinary pod on each host.
struct Pods<'a> {
    env: &'a RealEnv<'a>,
    namespace: String,
    marooned: [MaroonedPod; 2],
    addresses: [(String, String); 4],
}

const PLAIN: [&str; 2] = ["plain-1", "plain-2"];
const MAROONED: [&str; 2] = ["marooned-a", "marooned-b"];

pub async fn pods_reach_each_other(env: &RealEnv<'_>) {
    let namespace = TestNamespace::new(&env.admin, &[]).await.unwrap();
    let pods = Pods::new(env, &namespace.name).await;
    every_pair_sees_real_addresses(&pods).await;
    services_lead_to_marooned_pods(&pods).await;
    names_are_resolved(&pods).await;
    kubectl_reaches_a_pod_in_a_vm(&pods).await;
    the_guest_is_closed(&pods).await;
    many_short_connections_succeed(&pods).await;
    a_dead_vms_address_takes_no_traffic(&pods).await;
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

    fn address(&self, name: &str) -> &str {
        let mut found = self.addresses.iter().filter(|(pod, _)| pod == name);
        &found.next().unwrap().1
    }

    async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let arguments = [&["--namespace", &self.namespace], arguments].concat();
        self.env.cluster().control_plane().kubectl(&arguments).await
    }

    /// Runs a program in a pod.
    async fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        self.kubectl(&[["exec", pod, "--"].as_slice(), command].concat())
            .await
    }

    async fn test(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        self.exec(pod, &[["/testserver"].as_slice(), command].concat())
            .await
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
            let sees = DATAGRAMS.map(|size| format!("{to} sees {source}, {size} bytes\n"));
            assert_eq!(
                said,
                format!("{to} sees {source}\n{}", sees.concat()),
                "{from} to {to}"
            );
            println!("{from} ({source}) to {to} ({target}): TCP, UDP up to 20000 bytes, ping");
        }
    }
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

/// By the cluster's DNS Service, which the configuration does not name.
async fn names_are_resolved(pods: &Pods<'_>) {
    let (namespace, _) = names::CLUSTER_DNS;
    let all: Api<Pod> = Api::namespaced(pods.env.admin.clone(), namespace);
    let server = json!({"nodeSelector": {REAL_LABEL: "true"}, "containers": [{
        "name": "main", "image": TOOLBOX, "imagePullPolicy": "IfNotPresent",
        "command": ["/testserver", "dns", EVERYWHERE],
    }]});
    let behind_the_service = json!({"k8s-app": "kube-dns"});
    accepts(&all, &pod("dns", &behind_the_service, &server))
        .await
        .unwrap();
    becomes(&all, "dns", "a pod that is ready", RUNS, ready)
        .await
        .unwrap();
    let answer = eventually("a name's address", RUNS, || async {
        let asked = pods
            .exec("marooned-a", &["/bin/busybox", "nslookup", "shop.example.com"])
            .await;
        Ok(asked.ok().filter(|answer| answer.contains(EVERYWHERE)))
    })
    .await
    .unwrap();
    println!("$ kubectl exec marooned-a -- nslookup shop.example.com\n{answer}");
    let resolver = ["/bin/busybox", "cat", "/etc/resolv.conf"];
    let resolver = pods.exec("marooned-a", &resolver).await.unwrap();
    println!("$ kubectl exec marooned-a -- cat /etc/resolv.conf\n{resolver}");
    let search = format!(
        "search {}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}",
        pods.namespace
    );
    assert!(resolver.contains(&search), "{resolver}");
    assert!(
        resolver.contains(&format!("nameserver {DNS_ADDRESS}\n")),
        "{resolver}"
    );
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

/// Nothing of the guest itself is reachable but its kubelet, and that asks for credentials.
async fn the_guest_is_closed(pods: &Pods<'_>) {
    let target = pods.address("marooned-a");
    let kubelet = names::KUBELET_PORT;
    let url = format!("https://{target}:{kubelet}/pods");
    let stranger = pods.test("plain-2", &["ask", &url]).await.unwrap();
    assert!(stranger.starts_with("401 Unauthorized"), "{stranger}");
    // 10248 and 10255 are a kubelet's usual ones; 22 is ssh; what answers them is the pod, in which no program listens.
    for port in [22, 10248, 10250, 10255] {
        let found = pods
            .test("plain-2", &["connect", &format!("{target}:{port}")])
            .await;
        assert!(found.is_err(), "{port} is open");
    }
    for own in [
        format!("{target}:{kubelet}"),
        format!("127.0.0.1:{kubelet}"),
        format!("10.0.2.2:{kubelet}"),
        format!("169.254.1.1:{kubelet}"),
        "10.0.2.1:22".to_owned(),
    ] {
        let found = pods.test("marooned-a", &["connect", &own]).await;
        assert!(found.is_err(), "the pod reaches {own}");
    }
    println!("of the guest, others reach nothing but port {kubelet}, and the pod in it nothing at all");
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

/// The VM of one of two pods behind a Service dies: its address may belong to another pod in a moment.
async fn a_dead_vms_address_takes_no_traffic(pods: &Pods<'_>) {
    let services: Api<Service> = Api::namespaced(pods.env.admin.clone(), &pods.namespace);
    let service = json!({
        "metadata": {"name": "both"},
        "spec": {"selector": {"tier": "marooned"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let made = accepts(&services, &serde_json::from_value(service).unwrap())
        .await
        .unwrap();
    let url = format!("http://{}/", made.spec.unwrap().cluster_ip.unwrap());
    eventually("an answer of the pod that will die", RUNS, || async {
        let answer = pods.test("plain-1", &["get", &url]).await;
        Ok(answer.ok().filter(|answer| answer == "this is marooned-b"))
    })
    .await
    .unwrap();
    let control_plane = pods.env.cluster().control_plane();
    let vm = RealVm::find(control_plane, &pods.marooned[1].node_name())
        .await
        .unwrap();
    let all: Api<Pod> = Api::namespaced(pods.env.admin.clone(), &pods.namespace);
    let dies = async {
        vm.kill().await.unwrap();
        let killed = Timestamp::now();
        becomes(&all, "marooned-b", "a pod that is not ready", RUNS, |pod| {
            !ready(pod)
        })
        .await
        .unwrap();
        (killed, Timestamp::now().duration_since(killed).as_secs_f64())
    };
    let watch = ["watch", &url];
    let (failed, (killed, unready)) = tokio::join!(pods.test("plain-1", &watch), dies);
    let failed: Vec<i64> = failed
        .unwrap()
        .lines()
        .map(|begun| begun.parse::<i64>().unwrap() - killed.as_millisecond())
        .collect();
    eventually("traffic for the living pod only", RUNS, || async {
        let said = pods.test("plain-1", &["storm", &url, "50"]).await?;
        Ok((said == "50 of 50 answered\n").then_some(()))
    })
    .await
    .unwrap();
    println!(
        "marooned-b's VM was killed: unready after {unready:.1} s; connections failed after {failed:?} ms"
    );
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
}
