//! One pod, and what its VM is to it: another kernel, of the size that the configuration's defaults give.

use std::fs;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use maroonedpods_common::{names, quantity};
use maroonedpods_e2e::api::check::{accepts, becomes};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::api::read;
use maroonedpods_e2e::cluster::REAL_LABEL;
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use maroonedpods_e2e::harness::real_env::{RUNS, RealEnv, TOOLBOX};
use serde_json::{Value, json};

/// Each differs between two running kernels: the release, one boot from another, and who started it with what.
const OF_A_KERNEL: [&str; 3] = [
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/random/boot_id",
    "/proc/cmdline",
];
const MI: u64 = 1 << 20;

/// A marooned pod that asks for nothing, and runs.
pub struct First<'a> {
    env: &'a RealEnv<'a>,
    namespace: TestNamespace,
    pod: MaroonedPod,
}

impl<'a> First<'a> {
    pub async fn runs(env: &'a RealEnv<'a>) -> Self {
        let namespace = TestNamespace::new(&env.admin, &[]).await.unwrap();
        let new = pod("first", &json!({names::MAROON_LABEL: "true"}), &json!({}));
        let begun = Instant::now();
        let pod = MaroonedPod::create_pod(&env.admin, &namespace.name, &new)
            .await
            .unwrap();
        if let Err(error) = pod.running_within(RUNS).await {
            panic!("{error:#}\n{}", env.state().await);
        }
        println!("running after {:.1} s", begun.elapsed().as_secs_f64());
        let first = Self { env, namespace, pod };
        for arguments in [
            ["get", "pods,nodes,mn", "-A", "-o", "wide"].as_slice(),
            &["-n", &first.namespace.name, "logs", "first"],
        ] {
            let said = env.cluster().control_plane().kubectl(arguments).await.unwrap();
            println!("$ kubectl {}\n{said}", arguments.join(" "));
        }
        first
    }

    /// Its Node.
    pub async fn node(&self) -> Node {
        self.pod.nodes().get(&self.pod.node_name()).await.unwrap()
    }

    /// An ordinary pod has this machine's kernel, so that what is read tells kernels apart; the marooned pod has another.
    pub async fn has_another_kernel(&self) {
        let pods: Api<Pod> = Api::namespaced(self.env.admin.clone(), &self.namespace.name);
        let on_a_host = json!({"nodeSelector": {REAL_LABEL: "true"}});
        accepts(&pods, &pod("plain", &json!({}), &on_a_host))
            .await
            .unwrap();
        becomes(&pods, "plain", "a pod that runs", RUNS, read::runs)
            .await
            .unwrap();
        for file in OF_A_KERNEL {
            let machine = fs::read_to_string(file).unwrap();
            let (plain, marooned) = (self.reads("plain", file).await, self.reads("first", file).await);
            println!("{file} in the VM: {}", marooned.trim());
            assert_eq!(plain, machine, "{file}");
            assert!(!marooned.trim().is_empty(), "{file}");
            assert_ne!(marooned, machine, "{file}");
        }
    }

    async fn reads(&self, pod: &str, file: &str) -> String {
        let arguments = ["exec", pod, "--", "/bin/busybox", "cat", file];
        let arguments = [["-n", &self.namespace.name].as_slice(), &arguments].concat();
        let control_plane = self.env.cluster().control_plane();
        control_plane.kubectl(&arguments).await.unwrap()
    }

    /// A pod without requests has a VM of 1 vCPU and 1024 MiB. Half of each is the pod's by its kubelet's own account: the
    /// overhead is 500m and 512 MiB.
    pub async fn has_the_default_size(&self) {
        let vmi = self.pod.vmi(1, "Running").await.unwrap();
        let domain = &vmi.data["spec"]["domain"];
        let bytes = |quantity: &Value| quantity::units(&serde_json::from_value(quantity.clone()).unwrap());
        assert_eq!(domain["cpu"]["cores"], 1, "{domain}");
        assert_eq!(bytes(&domain["memory"]["guest"]).unwrap(), 1024 * MI, "{domain}");
        let processors = self.reads("first", "/proc/cpuinfo").await;
        assert_eq!(processors.matches("processor\t:").count(), 1, "{processors}");
        let memory = self.reads("first", "/proc/meminfo").await;
        // What the kernel keeps for itself is not in it.
        let total = kib(&memory, "MemTotal:") * 1024;
        assert!((900 * MI..1024 * MI).contains(&total), "{memory}");

        let status = self.node().await.status.unwrap();
        assert_ne!(
            status.node_info.unwrap().kubelet_version,
            "",
            "the kubelet has spoken"
        );
        let allocatable = status.allocatable.unwrap();
        println!("in {} MiB: {allocatable:?}", total / MI);
        assert_eq!(quantity::milli(&allocatable["cpu"]).unwrap(), 500);
        let memory = quantity::units(&allocatable["memory"]).unwrap();
        assert!((512 * MI..600 * MI).contains(&memory), "{allocatable:?}");
    }

    /// Deletes the namespace. An honest kubelet was refused no write.
    pub async fn ends(self) {
        // Before that, for events in a namespace that is going are refused to all.
        let user = format!("{}{}", names::NODE_USER_PREFIX, self.pod.node_name());
        let mut refused = self.env.cluster().control_plane().audit().unwrap();
        refused.retain(|event| event.user == user && event.is_write() && matches!(event.code, 403 | 422));
        assert!(refused.is_empty(), "an honest kubelet was refused: {refused:#?}");
        self.namespace.close(&self.env.admin).await.unwrap();
    }
}

fn pod(name: &str, labels: &Value, more: &Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": TOOLBOX, "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/busybox", "sh", "-c", "/bin/busybox uname -a; exec /testserver serve"]}],
        },
    });
    for (key, value) in more.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

/// A line of `/proc/meminfo`.
fn kib(memory: &str, name: &str) -> u64 {
    let line = memory.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
