//! A cluster with real guests on it, and VMIs by hand.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, DynamicObject};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually, gone};
use maroonedpods_e2e::api::read::vmis;
use maroonedpods_e2e::cluster::test_server::{TEST_SERVER, test_server};
use maroonedpods_e2e::cluster::{Cluster, REAL_LABEL};
use maroonedpods_e2e::control_plane::ControlPlane;
use maroonedpods_e2e::harness::real_env::provide_tools;
use maroonedpods_e2e::harness::test_env::make_vm_namespace;
use maroonedpods_e2e::kubevirt::{self, Kvm, Programs, RealVm};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::lives::{Deed, World};
use crate::stand_in;
use crate::story::condition;
use crate::variants::vmi;

/// An emulated guest boots in 3 s on an idle machine.
pub const SOON: Duration = Duration::from_secs(120);
/// For a guest to repeat what it was told.
const HEARD: Duration = Duration::from_secs(10);
const CLIENT: &str = "client";

/// `KubeVirt`, and archives of the images of guests and the client.
pub struct Images {
    kubevirt: Programs,
    archives: [PathBuf; 2],
    _folder: TempDir,
}

impl Images {
    /// Makes them. From a cluster's network, nothing that is missing could be downloaded.
    pub fn new() -> Self {
        provide_tools().unwrap();
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        Self {
            kubevirt: Programs::build().unwrap(),
            archives: [stand_in::image(path), test_server(path).unwrap()],
            _folder: folder,
        }
    }

    /// What nodes have from the start.
    pub fn of_nodes(&self) -> PathBuf {
        self.kubevirt.images()
    }
}

pub struct Setup<'a> {
    cluster: &'a Cluster,
    pub admin: Client,
    pub pods: Api<Pod>,
    vmis: Api<DynamicObject>,
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl<'a> Setup<'a> {
    /// Imports the images, installs `KubeVirt`, and starts a pod on node-2 to call guests from.
    pub async fn new(cluster: &'a Cluster, images: &Images) -> Self {
        for archive in &images.archives {
            cluster.import(archive).await.unwrap();
        }
        let admin = cluster.control_plane().admin().await.unwrap();
        kubevirt::install(cluster, &images.kubevirt, Kvm::Auto)
            .await
            .unwrap();
        make_vm_namespace(&admin).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(admin.clone(), names::VM_NAMESPACE);
        accepts(&pods, &client_pod()).await.unwrap();
        Self {
            cluster,
            vmis: vmis(&admin),
            pods,
            admin,
        }
    }

    /// Creates a VMI and its Secret; `more` is merged into the spec, and null takes a field away.
    pub async fn launch(&self, name: &str, more: &Value) -> String {
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), names::VM_NAMESPACE);
        let secret: Secret = from(json!({
            "metadata": {"name": format!("{name}-join")},
            "stringData": {"userdata": "#cloud-config\nwrite_files: []\n", "networkdata": "version: 2\n"},
        }));
        accepts(&secrets, &secret).await.unwrap();
        let mut vmi = vmi(name, stand_in::IMAGE);
        vmi["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node-1"});
        json_patch::merge(&mut vmi["spec"], more);
        accepts(&self.vmis, &from::<DynamicObject>(vmi)).await.unwrap();
        name.to_owned()
    }

    pub async fn reaches(&self, vmi: &str, phase: &str) -> DynamicObject {
        let settled = |vmi: &DynamicObject| {
            let found = vmi.data["status"]["phase"].as_str().unwrap_or_default();
            found == phase || matches!(found, "Succeeded" | "Failed")
        };
        match becomes(&self.vmis, vmi, phase, SOON, settled).await {
            Ok(vmi) if vmi.data["status"]["phase"] == phase => vmi,
            Ok(other) => panic!("{vmi} is {}\n{}", other.data["status"], self.launchers().await),
            Err(error) => panic!("{error:#}\n{}", self.launchers().await),
        }
    }

    /// Waits until the VMI's condition Ready holds, which it does shortly after it runs.
    pub async fn is_ready(&self, vmi: &str) {
        let holds = |vmi: &DynamicObject| condition(vmi, "Ready")["status"] == "True";
        becomes(&self.vmis, vmi, "ready", SOON, holds).await.unwrap();
    }

    /// What administrators would look at when a VM hangs.
    async fn launchers(&self) -> String {
        let control_plane = self.cluster.control_plane();
        let namespace = ["--namespace", names::VM_NAMESPACE];
        let selector = ["--selector", "kubevirt.io=virt-launcher"];
        let mut seen = String::new();
        for arguments in [
            ["describe", "pods"].as_slice(),
            &["logs", "--container", "guest-console-log"],
            &["logs", "--container", "compute", "--tail=60"],
        ] {
            match control_plane
                .kubectl(&[&namespace, arguments, &selector].concat())
                .await
            {
                Ok(text) => seen += &text,
                Err(error) => seen += &error.to_string(),
            }
        }
        seen
    }

    pub async fn vm(&self, vmi: &str) -> RealVm<'a> {
        RealVm::find(self.cluster.control_plane(), vmi).await.unwrap()
    }

    /// Waits until the guest has said `line`, and returns its console.
    pub async fn says(&self, vm: &RealVm<'_>, line: &str) -> String {
        let said = eventually(line, SOON, || async {
            let console = vm.console().await?;
            anyhow::ensure!(console.contains(line), "{console}");
            Ok(Some(console))
        });
        said.await.unwrap()
    }

    /// Tells the guest at this address what to do, until it has repeated that.
    async fn tell(&self, address: &str, what: &str) {
        let heard = eventually("the guest to hear", SOON, || async {
            let mut stream = TcpStream::connect((address, 9000)).await?;
            stream.write_all(format!("{what}\n").as_bytes()).await?;
            let mut heard = String::new();
            timeout(HEARD, BufReader::new(stream).read_line(&mut heard)).await??;
            anyhow::ensure!(heard.trim() == what, "it heard {heard:?}");
            Ok(Some(()))
        });
        heard.await.unwrap();
    }

    pub async fn delete(&self, vmi: &str) {
        self.vmis.delete(vmi, &DeleteParams::default()).await.unwrap();
        gone(&self.vmis, vmi, SOON).await.unwrap();
    }

    /// What the client pod gets from a URL.
    pub async fn get_from_client(&self, url: &str) -> String {
        let answer = eventually("an answer", SOON, || async {
            Ok(Some(self.try_get_from_client(url).await?))
        });
        answer.await.unwrap()
    }

    pub async fn try_get_from_client(&self, url: &str) -> anyhow::Result<String> {
        let arguments = [
            "--namespace",
            names::VM_NAMESPACE,
            "exec",
            CLIENT,
            "--",
            "/testserver",
            "get",
            url,
        ];
        self.cluster.control_plane().kubectl(&arguments).await
    }

    pub async fn client_address(&self) -> String {
        self.pods
            .get(CLIENT)
            .await
            .unwrap()
            .status
            .unwrap()
            .pod_ip
            .unwrap()
    }
}

impl World for Setup<'_> {
    const IMAGE: &'static str = stand_in::IMAGE;
    /// An emulated guest takes a processor.
    const ROOM: usize = 3;

    fn control_plane(&self) -> &ControlPlane {
        self.cluster.control_plane()
    }

    /// The guest finds in its VMI whether it is deaf.
    async fn prepare(&self, _: &mut Value, _: Deed, _: bool) {}

    async fn is_up(&self, vmi: &str, times: usize) {
        let vm = self.vm(vmi).await;
        let started = eventually("a start of the guest", SOON, || async {
            let console = vm.console().await?;
            let starts = console.matches("stand-in: ready").count();
            anyhow::ensure!(starts >= times, "{console}");
            Ok(Some(()))
        });
        started.await.unwrap();
    }

    async fn does(&self, vmi: &DynamicObject, deed: Deed) {
        let address = vmi.data["status"]["interfaces"][0]["ipAddress"].as_str();
        match deed {
            Deed::PowerOff => self.tell(address.unwrap(), "poweroff").await,
            Deed::Panic => self.tell(address.unwrap(), "panic").await,
            _ => self.vm(&vmi.name_any()).await.kill().await.unwrap(),
        }
    }
}

fn client_pod() -> Pod {
    from(json!({
        "metadata": {"name": CLIENT},
        "spec": {
            "nodeSelector": {REAL_LABEL: "true", "kubernetes.io/hostname": "node-2"},
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": TEST_SERVER, "args": ["serve"]}],
        },
    }))
}
