//! A user of the cluster: a namespace with kubectl, and pods that each ask for a size of their own.

use std::fmt::Debug;
use std::time::Instant;

use anyhow::Result;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::ListParams;
use kube::{Api, Resource};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::api::read::{self, condition};
use maroonedpods_e2e::control_plane::ControlPlane;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::real_env::{RUNS, RealEnv, TOOLBOX};
use maroonedpods_e2e::kubevirt::RealVm;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::sizes::{Size, Sizes};

/// How many guests run at once: emulated ones take a processor each, and the host nodes of a small machine have no
/// room for more.
const GUESTS: u32 = 2;

/// Why a pod has failed whose VM ended before it did.
pub const VM_GONE: &str = "VirtualMachineGone";
const VM_GONE_MESSAGE: &str = "the virtual machine that the pod ran on is gone";

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

    /// kubectl in the namespace, for what must be fed or goes on running. It ends when it is dropped.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let arguments = [["--namespace", &self.namespace].as_slice(), arguments].concat();
        self.setup.control_plane().kubectl_command(&arguments).unwrap()
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

    /// Creates a marooned pod whose first container asks for `size`.
    pub async fn creates(&self, name: &str, size: Size, mut spec: Value) -> MaroonedPod {
        size.put_into(&mut spec);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {names::MAROON_LABEL: "true", "app": name}},
            "spec": spec,
        }))
        .unwrap();
        let admin = &self.setup.env.admin;
        MaroonedPod::create_pod(admin, &self.namespace, &pod)
            .await
            .unwrap()
    }

    /// [`Self::creates`], and waits until the pod runs, on a node it fits.
    pub async fn runs(&self, name: &str, size: Size, spec: Value) -> MaroonedPod {
        let pod = self.creates(name, size, spec).await;
        self.sees_running(&pod).await;
        pod
    }

    /// Waits until the pod runs, on a node it fits.
    pub async fn sees_running(&self, pod: &MaroonedPod) {
        let begun = Instant::now();
        // Two waits: on a busy machine, a pod of many containers takes as long as its VM's boot.
        let bound = |pod: &Pod| !read::node(pod).is_empty();
        let up = async {
            becomes(&pod.pods, &pod.name, "a pod with a node", RUNS, bound).await?;
            pod.running_within(RUNS).await
        };
        if let Err(error) = up.await {
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

    /// Waits until the pod has failed because its VM ended, says so to whoever looks, and nothing but the pod is left.
    pub async fn loses(&self, pod: &MaroonedPod) {
        let failed = pod.fails().await.unwrap();
        let told = "jsonpath={.status.phase} {.status.reason} {.status.message} {.status.conditions}";
        self.kubectl(&["get", "pod", &pod.name, "--output", told]).await;
        let status = failed.status.clone().unwrap();
        assert_eq!(status.reason.as_deref(), Some(VM_GONE));
        assert_eq!(status.message.as_deref(), Some(VM_GONE_MESSAGE));
        let wanted = Some(("True".to_owned(), VM_GONE.to_owned()));
        assert_eq!(condition(&failed, "DisruptionTarget"), wanted);
        for type_ in ["Ready", "ContainersReady"] {
            let status = condition(&failed, type_).map(|(status, _)| status);
            assert_eq!(status.as_deref(), Some("False"), "{type_}");
        }
        let disrupted = status.conditions.into_iter().flatten();
        let disrupted = disrupted.filter(|condition| condition.type_ == "DisruptionTarget");
        let messages: Vec<_> = disrupted.filter_map(|condition| condition.message).collect();
        assert_eq!(messages, [VM_GONE_MESSAGE]);
        assert_eq!(pod.reports("NodeLost").await.unwrap(), "the pod's VM has ended");
        self.sees_event(&pod.name, "NodeLost", "the pod's VM has ended")
            .await;
        pod.leaves_nothing().await.unwrap();
    }

    /// Waits for an event about the pod.
    pub async fn sees_event(&self, pod: &str, reason: &str, says: &str) {
        let about = format!("involvedObject.name={pod},reason={reason}");
        let about = ListParams::default().fields(&about);
        let events = self.api::<Event>();
        eventually(&format!("an event {reason} that says {says}"), SOON, || async {
            let seen = events.list(&about).await?.items;
            let mut said = seen.iter().filter_map(|event| event.message.as_deref());
            Ok(said.any(|message| message.contains(says)).then_some(()))
        })
        .await
        .unwrap();
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
