//! A user of the cluster: a namespace with kubectl, and pods that each ask for a size of their own.

use std::fmt::Debug;
use std::time::Instant;

use anyhow::Result;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{Api, Resource};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::accepts;
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::control_plane::ControlPlane;
use maroonedpods_e2e::fake_kubevirt::RealVm;
use maroonedpods_e2e::harness::marooned_pod::MaroonedPod;
use maroonedpods_e2e::harness::real_env::{RUNS, RealEnv, TOOLBOX};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::sizes::{Size, Sizes};

/// How many guests run at once: emulated ones take a processor each, and the host nodes of a small machine have no
/// room for more.
const GUESTS: u32 = 2;

/// The environment that all users share.
pub struct Setup<'a> {
    pub env: &'a RealEnv<'a>,
    pub sizes: Sizes,
    room: Semaphore,
}

impl<'a> Setup<'a> {
    pub fn new(env: &'a RealEnv<'a>) -> Self {
        Self {
            env,
            sizes: Sizes::default(),
            room: Semaphore::new(GUESTS as usize),
        }
    }

    /// Waits until so many guests more may run.
    pub async fn room_for(&self, guests: u32) -> SemaphorePermit<'_> {
        self.room.acquire_many(guests).await.unwrap()
    }

    pub fn control_plane(&self) -> &'a ControlPlane {
        self.env.cluster().control_plane()
    }
}

pub struct User<'a> {
    pub setup: &'a Setup<'a>,
    pub namespace: String,
    /// In front of everything that is printed: users act at the same time.
    who: &'static str,
    own: TestNamespace,
}

impl<'a> User<'a> {
    pub async fn new(setup: &'a Setup<'a>, who: &'static str) -> Self {
        let own = TestNamespace::new(&setup.env.admin, &[]).await.unwrap();
        Self {
            setup,
            namespace: own.name.clone(),
            who,
            own,
        }
    }

    /// Deletes the namespace, and waits until it is gone.
    pub async fn leaves(self) {
        self.own.close(&self.setup.env.admin).await.unwrap();
    }

    pub fn says(&self, what: &str) {
        println!("[{}] {what}", self.who);
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.setup.env.admin.clone(), &self.namespace)
    }

    pub async fn applies<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object = serde_json::from_value(object).unwrap();
        accepts(&self.api(), &object).await.unwrap()
    }

    /// Runs kubectl in the namespace, and prints nothing.
    pub async fn tries(&self, arguments: &[&str]) -> Result<String> {
        let namespace = ["--namespace", &self.namespace];
        self.setup
            .control_plane()
            .kubectl(&[&namespace, arguments].concat())
            .await
    }

    /// Runs kubectl in the namespace, which must succeed, and prints what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        let shown = self.tries(arguments).await.unwrap();
        self.says(&format!(
            "$ kubectl {}\n{}",
            arguments.join(" "),
            shown.trim_end()
        ));
        shown
    }

    /// Runs a shell script in the pod's first container, and prints nothing.
    pub async fn tries_in(&self, pod: &str, script: &str) -> Result<String> {
        self.tries(&["exec", pod, "--", "/bin/busybox", "sh", "-c", script])
            .await
    }

    /// Runs a shell script in the pod's first container, which must succeed, and prints what it printed.
    pub async fn shell(&self, pod: &str, script: &str) -> String {
        self.kubectl(&["exec", pod, "--", "/bin/busybox", "sh", "-c", script])
            .await
    }

    /// Creates a marooned pod whose first container asks for `size`, and waits until it runs, on a node it fits.
    pub async fn runs(&self, name: &str, size: Size, mut spec: Value) -> MaroonedPod {
        size.put_into(&mut spec);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {names::MAROON_LABEL: "true", "app": name}},
            "spec": spec,
        }))
        .unwrap();
        let admin = &self.setup.env.admin;
        let pod = MaroonedPod::create_pod(admin, &self.namespace, &pod)
            .await
            .unwrap();
        self.sees_running(&pod).await;
        pod
    }

    /// Waits until the pod runs, on a node it fits.
    pub async fn sees_running(&self, pod: &MaroonedPod) {
        let begun = Instant::now();
        if let Err(error) = pod.running_within(RUNS).await {
            panic!("[{}] {error:#}\n{}", self.who, self.setup.env.state().await);
        }
        let waited = begun.elapsed().as_secs_f64();
        self.says(&format!("pod {} runs after {waited:.1} s", pod.name));
        self.setup.sizes.fits(pod).await;
    }

    /// The VM that the pod is in.
    pub async fn vm(&self, pod: &MaroonedPod) -> RealVm<'a> {
        let vmi = names::vmi_name(&pod.uid.as_str().into(), 1);
        RealVm::find(self.setup.control_plane(), &vmi).await.unwrap()
    }

    /// Waits until the pod has failed because its VM ended, and nothing but the pod is left.
    pub async fn loses(&self, pod: &MaroonedPod) {
        pod.fails().await.unwrap();
        let told = "jsonpath={.status.phase} {.status.reason} {.status.message} {.status.conditions}";
        self.kubectl(&["get", "pod", &pod.name, "--output", told]).await;
        pod.leaves_nothing().await.unwrap();
    }
}

/// A container of the toolbox that runs this shell script.
pub fn shell(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": TOOLBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/busybox", "sh", "-c", script],
    })
}

/// [`shell`], with further fields.
pub fn shell_with(name: &str, script: &str, more: Value) -> Value {
    let (Value::Object(mut container), Value::Object(more)) = (shell(name, script), more) else {
        panic!("fields of a container");
    };
    container.extend(more);
    container.into()
}

/// What is known of a pod's container.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses);
    all.flatten().find(|container| container.name == name)
}

/// How often the pod's container was started again; none before its first start.
pub fn restarts(pod: &Pod, name: &str) -> Option<i32> {
    container(pod, name).map(|container| container.restart_count)
}
