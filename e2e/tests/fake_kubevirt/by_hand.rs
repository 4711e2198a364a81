//! The reconciler's part, done by hand: what it writes for a VM, and nothing more.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::api::JoinMode;
use maroonedpods_common::join_info::{JoinInfo, KubeletSettings, Token};
use maroonedpods_common::names;
use maroonedpods_e2e::api::apply::apply_yaml;
use maroonedpods_e2e::api::check::{accepts, becomes, eventually};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::api::read::vmis;
use maroonedpods_e2e::control_plane::{ControlPlane, ControlPlaneOptions};
use maroonedpods_e2e::fake_kubevirt::script::{SCRIPT_ANNOTATION, Script};
use maroonedpods_e2e::fake_kubevirt::{
    FakeKubeVirt, FakeKubeVirtOptions, GuestEvent, QUICK_TEARDOWN, install_crd,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::lives::{Deed, GRACE, World};

pub const SOON: Duration = Duration::from_secs(30);
const BOOTSTRAP_RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: marooned-bootstrap}
rules:
- apiGroups: [certificates.k8s.io]
  resources: [certificatesigningrequests]
  verbs: [create, get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: marooned-bootstrap}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: marooned-bootstrap}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:bootstrappers:maroonedpods'}]
---
apiVersion: v1
kind: Namespace
metadata: {name: marooned-vms}
";

pub fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A control plane with a fake KubeVirt on it.
pub struct TestEnv {
    pub control_plane: ControlPlane,
    pub admin: Client,
    pub host: FakeKubeVirt,
    pub namespace: TestNamespace,
}

impl TestEnv {
    pub async fn new() -> Self {
        let control_plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
        let admin = control_plane.admin().await.unwrap();
        apply_yaml(&admin, BOOTSTRAP_RIGHTS).await.unwrap();
        install_crd(&admin).await.unwrap();
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(admin.clone(), names::VM_NAMESPACE);
        becomes(&accounts, "default", "the default service account", SOON, |_| {
            true
        })
        .await
        .unwrap();
        let options = FakeKubeVirtOptions {
            control_plane: &control_plane,
            vm_namespace: names::VM_NAMESPACE.to_owned(),
            hosts: ["host-1", "host-2"].map(str::to_owned).to_vec(),
            teardown: QUICK_TEARDOWN,
            seed: 0,
        };
        let host = FakeKubeVirt::start(options).await.unwrap();
        let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
        Self {
            control_plane,
            admin,
            host,
            namespace,
        }
    }

    /// What the reconciler writes for a pod that carries `script`. The pod itself waits behind a gate.
    pub async fn launch(&self, script: &Value) -> MaroonedPod {
        let pods = Api::namespaced(self.admin.clone(), &self.namespace.name);
        let pod = accepts(&pods, &gated(script)).await.unwrap();
        let uid = pod.uid().unwrap();
        let marooned = MaroonedPod {
            name: names::node_name(&uid.as_str().into()),
            pod: pod.name_any(),
        };
        let token_id = &uid[..6];
        let token = Token::new(token_id, "0123456789abcdef");
        let secrets = |namespace| Api::<Secret>::namespaced(self.admin.clone(), namespace);
        let token_secret = from(json!({
            "metadata": {"name": names::token_secret_name(token_id)},
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": token_id, "token-secret": "0123456789abcdef",
                "usage-bootstrap-authentication": "true", "auth-extra-groups": names::BOOTSTRAP_GROUP},
        }));
        accepts(&secrets(names::TOKEN_NAMESPACE), &token_secret)
            .await
            .unwrap();
        let user_data = format!(
            "#cloud-config\n{}",
            serde_yaml_ng::to_string(&json!({"write_files": [{
                "path": names::JOIN_INFO_PATH,
                "permissions": "0600",
                "content": serde_yaml_ng::to_string(&self.join_info(&uid, token)).unwrap(),
            }]}))
            .unwrap()
        );
        let seed = from(json!({
            "metadata": {"name": names::join_secret_name(&uid.as_str().into(), 1)},
            "stringData": {"userdata": user_data},
        }));
        accepts(&secrets(names::VM_NAMESPACE), &seed).await.unwrap();
        accepts(&Api::all(self.admin.clone()), &node(&marooned.name))
            .await
            .unwrap();
        let pod = format!("{}/{}", self.namespace.name, marooned.pod);
        accepts(&vmis(&self.admin), &vmi(&marooned.name, &pod))
            .await
            .unwrap();
        marooned
    }

    pub fn join_info(&self, uid: &str, token: Token) -> JoinInfo {
        JoinInfo {
            server_url: self.control_plane.server_url().to_owned(),
            token,
            pod_uid: uid.to_owned(),
            taint_key: names::DEFAULT_TAINT_KEY.to_owned(),
            node_name: names::node_name(&uid.into()),
            ca: self.control_plane.ca_pem(),
            mode: JoinMode::Kubelet,
            cluster_dns: None,
            cluster_domain: names::DEFAULT_CLUSTER_DOMAIN.to_owned(),
            host_network: false,
            kubelet: KubeletSettings {
                port: names::KUBELET_PORT,
                reserved_cpu_milli: 500,
                reserved_memory_mi: 96,
                eviction_memory_mi: 50,
            },
        }
    }

    /// Judges the next request for `signer` that has no verdict yet.
    pub async fn judge(&self, signer: &str, verdict: &str) -> String {
        let csrs: Api<CertificateSigningRequest> = Api::all(self.admin.clone());
        let waiting = |csr: &CertificateSigningRequest| {
            csr.spec.signer_name.ends_with(signer)
                && csr
                    .status
                    .as_ref()
                    .is_none_or(|s| s.conditions.as_ref().is_none_or(Vec::is_empty))
        };
        let name = eventually("a certificate request", SOON, || async {
            let all = csrs.list(&ListParams::default()).await?;
            Ok(all.into_iter().find(waiting).map(|csr| csr.name_any()))
        })
        .await
        .unwrap();
        let condition = json!([{"type": verdict, "status": "True", "reason": "Test", "message": "by hand",
            "lastUpdateTime": Timestamp::now().to_string()}]);
        let body = Patch::Merge(json!({"status": {"conditions": condition}}));
        csrs.patch_subresource("approval", &name, &PatchParams::default(), &body)
            .await
            .unwrap();
        name
    }

    /// Gives the Node the address of its VMI's interface, found by name.
    pub async fn write_address(&self, marooned: &MaroonedPod) -> String {
        let running = self.vmi_becomes(marooned, "Running").await;
        let interfaces = running.data["status"]["interfaces"].as_array().unwrap().clone();
        let own = interfaces
            .iter()
            .find(|i| i["name"] == names::VM_INTERFACE)
            .unwrap();
        let address = own["ipAddress"].as_str().unwrap().to_owned();
        let body = Patch::Merge(json!({"status": {"addresses": [
            {"type": "InternalIP", "address": address}, {"type": "Hostname", "address": marooned.name}]}}));
        let nodes: Api<Node> = Api::all(self.admin.clone());
        nodes
            .patch_status(&marooned.name, &PatchParams::default(), &body)
            .await
            .unwrap();
        address
    }

    /// The launcher of the pod's VM.
    pub async fn launcher(&self, marooned: &MaroonedPod) -> Pod {
        let launchers: Api<Pod> = Api::namespaced(self.admin.clone(), names::VM_NAMESPACE);
        let all = launchers.list(&ListParams::default()).await.unwrap();
        let own = |pod: &Pod| pod.annotations().get("kubevirt.io/domain") == Some(&marooned.name);
        all.into_iter().find(own).unwrap()
    }

    /// A VM whose Node is ready.
    pub async fn launch_ready(&self, script: &Value) -> MaroonedPod {
        let marooned = self.launch(script).await;
        self.judge("client-kubelet", "Approved").await;
        self.write_address(&marooned).await;
        self.judge("serving", "Approved").await;
        self.node_becomes(&marooned, "True").await;
        marooned
    }

    pub async fn vmi_becomes(&self, marooned: &MaroonedPod, phase: &str) -> DynamicObject {
        let is = |vmi: &DynamicObject| vmi.data["status"]["phase"] == phase;
        becomes(&vmis(&self.admin), &marooned.name, phase, SOON, is)
            .await
            .unwrap()
    }

    pub async fn node_becomes(&self, marooned: &MaroonedPod, ready: &str) -> Node {
        let is = |node: &Node| {
            let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions
                .into_iter()
                .any(|c| c.type_ == "Ready" && c.status == ready)
        };
        becomes(
            &Api::all(self.admin.clone()),
            &marooned.name,
            "Ready to change",
            SOON,
            is,
        )
        .await
        .unwrap()
    }

    pub async fn logs(&self, marooned: &MaroonedPod, event: GuestEvent) {
        let what = format!("{event:?}");
        eventually(&what, Duration::from_secs(40), || async {
            let log = self.host.guest_log(&marooned.name);
            if log.contains(&event) {
                Ok(Some(()))
            } else {
                anyhow::bail!("{log:?}")
            }
        })
        .await
        .unwrap();
    }
}

impl World for TestEnv {
    const IMAGE: &'static str = "registry.example/node:1";
    const ROOM: usize = usize::MAX;

    fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    async fn prepare(&self, vmi: &mut Value, deed: Deed, deaf: bool) {
        // Long enough for the VM to be seen running.
        let then = Some(2.0);
        let mut script = Script::default();
        match deed {
            Deed::PowerOff => script.powers_off_at = then,
            Deed::Panic => script.reboot_at = then,
            Deed::Kill => script.dies_at = then,
            Deed::DeleteLauncher | Deed::DropLauncher | Deed::Evict | Deed::Nothing => {}
        }
        if deaf {
            script.slow_delete = Duration::from_secs(GRACE).as_secs_f64();
        }
        let pods = Api::namespaced(self.admin.clone(), &self.namespace.name);
        let pod = accepts(&pods, &gated(&serde_json::to_value(script).unwrap()))
            .await
            .unwrap();
        let pod = format!("{}/{}", self.namespace.name, pod.name_any());
        vmi["metadata"]["annotations"] = json!({"maroonedpods.io/pod": pod});
    }

    async fn is_up(&self, vmi: &str, times: usize) {
        eventually("a start of the guest", SOON, || async {
            let log = self.host.guest_log(vmi);
            let starts = log.iter().filter(|event| matches!(event, GuestEvent::Booted(_)));
            anyhow::ensure!(starts.count() >= times, "{log:?}");
            Ok(Some(()))
        })
        .await
        .unwrap();
    }

    /// As the script says.
    async fn does(&self, _: &DynamicObject, _: Deed) {}
}

/// A pod that carries `script`, and waits behind a gate.
fn gated(script: &Value) -> Pod {
    from(json!({
        "metadata": {"generateName": "web-", "annotations": {SCRIPT_ANNOTATION: script.to_string()}},
        "spec": {
            "schedulingGates": [{"name": names::GATE}],
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "web"}],
        },
    }))
}

pub struct MaroonedPod {
    pub name: String,
    pub pod: String,
}

pub fn node(name: &str) -> Node {
    from(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": names::CLASS_TAINT, "value": "true", "effect": "NoSchedule"}]},
        "status": {"capacity": {"cpu": "1", "memory": "512Mi", "pods": "110"},
            "allocatable": {"cpu": "500m", "memory": "256Mi", "pods": "110"}},
    }))
}

pub fn vmi(name: &str, pod: &str) -> DynamicObject {
    let disk = |name: &str| json!({"name": name, "serial": name, "disk": {"bus": "virtio"}});
    from(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "annotations": {"maroonedpods.io/pod": pod}},
        "spec": {
            "architecture": "amd64",
            "hostname": name,
            "evictionStrategy": "External",
            "domain": {
                "machine": {"type": "q35"},
                "cpu": {"sockets": 1, "cores": 1, "threads": 1, "maxSockets": 1},
                "memory": {"guest": "1024Mi", "maxGuest": "1024Mi"},
                "resources": {"requests": {"cpu": "1", "memory": "1024Mi"}},
                "firmware": {"uuid": Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()},
                "devices": {
                    "disks": [disk("root"), disk("scratch"), disk("seed")],
                    "interfaces": [{"name": "default", "model": "virtio", "masquerade": {}}],
                },
            },
            "networks": [{"name": "default", "pod": {}}],
            "volumes": [
                {"name": "root", "containerDisk": {"image": "registry.example/node:1"}},
                {"name": "scratch", "emptyDisk": {"capacity": "10Gi"}},
                {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": format!("{name}-join")}}},
            ],
        },
    }))
}
