//! The played KubeVirt and its guests on a real control plane: do they keep to what was measured on the real ones?
//! The test plays the reconciler, by hand.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::large_futures)]

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::api::JoinMode;
use maroonedpods_common::join_info::{JoinInfo, KubeletSettings, Token};
use maroonedpods_common::names;
use maroonedpods_e2e::check::{TestNamespace, accepts, becomes, eventually, gone, refused, rejects};
use maroonedpods_e2e::install::apply_yaml;
use maroonedpods_e2e::plane::{Plane, PlaneOptions};
use maroonedpods_e2e::vmhost::script::SCRIPT_ANNOTATION;
use maroonedpods_e2e::vmhost::{GuestEvent, VmHost, VmHostOptions, install_crd};
use serde_json::{Value, json};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(30);
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

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn vmis(client: &Client) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "kubevirt.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "kubevirt.io/v1".to_owned(),
        kind: "VirtualMachineInstance".to_owned(),
        plural: "virtualmachineinstances".to_owned(),
    };
    Api::namespaced_with(client.clone(), names::VM_NAMESPACE, &resource)
}

/// A plane with a played KubeVirt on it.
struct World {
    plane: Plane,
    admin: Client,
    host: VmHost,
    namespace: TestNamespace,
}

impl World {
    async fn new() -> Self {
        let plane = Plane::start(PlaneOptions::default()).await.unwrap();
        let admin = plane.admin().await.unwrap();
        apply_yaml(&admin, BOOTSTRAP_RIGHTS).await.unwrap();
        install_crd(&admin).await.unwrap();
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(admin.clone(), names::VM_NAMESPACE);
        becomes(&accounts, "default", "the default service account", SOON, |_| {
            true
        })
        .await
        .unwrap();
        let mut hosts = Vec::new();
        for name in ["host-1", "host-2"] {
            let user = format!("system:node:{name}");
            hosts.push((name.to_owned(), plane.user(&user, "system:nodes").await.unwrap()));
        }
        let options = VmHostOptions {
            client: admin.clone(),
            vm_namespace: names::VM_NAMESPACE.to_owned(),
            hosts,
            seed: 0,
        };
        let host = VmHost::start(options).await.unwrap();
        let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
        Self {
            plane,
            admin,
            host,
            namespace,
        }
    }

    /// What the reconciler writes for a pod that carries `script`. The pod itself waits behind a gate.
    async fn launch(&self, script: &Value) -> Marooned {
        let pods = Api::namespaced(self.admin.clone(), &self.namespace.name);
        let pod: Pod = from(json!({
            "metadata": {"generateName": "web-", "annotations": {SCRIPT_ANNOTATION: script.to_string()}},
            "spec": {
                "schedulingGates": [{"name": names::GATE}],
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "main", "image": "web"}],
            },
        }));
        let pod = accepts(&pods, &pod).await.unwrap();
        let uid = pod.uid().unwrap();
        let marooned = Marooned {
            name: names::node_name(&uid),
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
            "metadata": {"name": names::join_secret_name(&uid, 1)},
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

    fn join_info(&self, uid: &str, token: Token) -> JoinInfo {
        JoinInfo {
            server_url: self.plane.server_url().to_owned(),
            token,
            pod_uid: uid.to_owned(),
            taint_key: names::DEFAULT_TAINT_KEY.to_owned(),
            node_name: names::node_name(uid),
            ca: self.plane.ca_pem(),
            mode: JoinMode::Kubelet,
            cluster_dns: None,
            kubelet: KubeletSettings {
                port: names::KUBELET_PORT,
                reserved_cpu_milli: 500,
                reserved_memory_mi: 96,
                eviction_memory_mi: 50,
            },
        }
    }

    /// Judges the next request for `signer` that nobody has judged yet.
    async fn judge(&self, signer: &str, verdict: &str) -> String {
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
    async fn write_address(&self, marooned: &Marooned) -> String {
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

    /// A VM whose Node is ready.
    async fn launch_ready(&self, script: &Value) -> Marooned {
        let marooned = self.launch(script).await;
        self.judge("client-kubelet", "Approved").await;
        self.write_address(&marooned).await;
        self.judge("serving", "Approved").await;
        self.node_becomes(&marooned, "True").await;
        marooned
    }

    async fn vmi_becomes(&self, marooned: &Marooned, phase: &str) -> DynamicObject {
        let is = |vmi: &DynamicObject| vmi.data["status"]["phase"] == phase;
        becomes(&vmis(&self.admin), &marooned.name, phase, SOON, is)
            .await
            .unwrap()
    }

    async fn node_becomes(&self, marooned: &Marooned, ready: &str) -> Node {
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

    async fn logs(&self, marooned: &Marooned, event: GuestEvent) {
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

struct Marooned {
    name: String,
    pod: String,
}

fn node(name: &str) -> Node {
    from(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": names::CLASS_TAINT, "value": "true", "effect": "NoSchedule"}]},
        "status": {"capacity": {"cpu": "1", "memory": "512Mi", "pods": "110"},
            "allocatable": {"cpu": "500m", "memory": "256Mi", "pods": "110"}},
    }))
}

fn vmi(name: &str, pod: &str) -> DynamicObject {
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

/// Several VMs at a time would take each other's certificate requests: one test, one story after the other.
#[tokio::test(flavor = "multi_thread")]
async fn vms_live_and_die_as_kubevirts_do() {
    let world = World::new().await;
    virt_api_refuses(&world).await;
    a_vm_runs_its_pod(&world).await;
    a_lost_launcher_fails_the_vm(&world).await;
    a_vm_is_marked_for_evacuation(&world).await;
    a_script_is_followed(&world).await;
    ordinary_pods_run(&world).await;
    world.plane.stop().await.unwrap();
}

async fn virt_api_refuses(world: &World) {
    let api = vmis(&world.admin);
    let changed = |pointer: &str, value: Value| {
        let mut vmi = vmi("bad", "x/y");
        *vmi.data.pointer_mut(pointer).unwrap() = value;
        vmi
    };
    for (bad, message) in [
        (
            changed("/spec/domain", json!({"devices": {}})),
            "no memory requested",
        ),
        (
            changed("/spec/domain/devices/disks/0/name", json!("other")),
            "no volume",
        ),
        (
            changed("/spec/networks/0/name", json!("other")),
            "exactly one interface",
        ),
        (
            changed("/spec/volumes/2/cloudInitNoCloud", json!({})),
            "exactly one source",
        ),
        (changed("/spec/domain/machine/type", json!("microvm")), "machine"),
        (
            changed(
                "/spec/domain/firmware",
                json!({"kernelBoot": {"container": {"image": "i"}}}),
            ),
            "kernelPath",
        ),
    ] {
        let said = rejects(&api, &bad).await.unwrap();
        assert!(said.contains(message), "{said}");
    }
}

async fn a_vm_runs_its_pod(world: &World) {
    let marooned = world.launch_ready(&json!({"reuseToken": true})).await;
    let node: Node = Api::all(world.admin.clone()).get(&marooned.name).await.unwrap();
    let status = node.status.unwrap();
    assert_eq!(
        status.node_info.unwrap().system_uuid,
        Uuid::new_v5(&Uuid::NAMESPACE_OID, marooned.name.as_bytes()).to_string()
    );
    let addresses = status.addresses.unwrap();
    world.logs(&marooned, GuestEvent::ServingCertificate).await;

    let api = vmis(&world.admin);
    let frozen = Patch::Merge(json!({"spec": {"domain": {"cpu": {"cores": 4}}}}));
    let said = refused(api.patch(&marooned.name, &PatchParams::default(), &frozen).await).unwrap();
    assert!(said.contains("update of VMI object is restricted"), "{said}");
    let listed = |vmi: &DynamicObject| {
        vmi.data["status"]["interfaces"]
            .as_array()
            .is_some_and(|i| i.len() == 2)
    };
    let vmi = becomes(&api, &marooned.name, "the guest's interfaces", SOON, listed)
        .await
        .unwrap();
    assert_ne!(vmi.data["status"]["interfaces"][0]["name"], "default");

    let pods: Api<Pod> = Api::namespaced(world.admin.clone(), &world.namespace.name);
    let pod: Pod = from(json!({
        "metadata": {"name": "bound"},
        "spec": {"nodeName": marooned.name, "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "web"}]},
    }));
    accepts(&pods, &pod).await.unwrap();
    let too_large: Pod = from(json!({
        "metadata": {"name": "too-large"},
        "spec": {"nodeName": marooned.name, "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "web", "resources": {"requests": {"cpu": "4"}}}]},
    }));
    accepts(&pods, &too_large).await.unwrap();
    let phase =
        |phase: &'static str| move |pod: &Pod| pod.status.as_ref().unwrap().phase.as_deref() == Some(phase);
    let running = becomes(&pods, "bound", "Running", SOON, phase("Running"))
        .await
        .unwrap();
    assert_eq!(
        running.status.unwrap().pod_ip.as_ref(),
        Some(&addresses[0].address)
    );
    let refused = becomes(&pods, "too-large", "Failed", SOON, phase("Failed"))
        .await
        .unwrap();
    assert_eq!(refused.status.unwrap().reason.as_deref(), Some("OutOfcpu"));
    pods.delete("bound", &DeleteParams::default()).await.unwrap();
    gone(&pods, "bound", SOON).await.unwrap();

    // The token outlived the join, and so did the guest's appetite.
    world.logs(&marooned, GuestEvent::TokenStillGood).await;
    let token = names::token_secret_name(&marooned.name["marooned-".len()..][..6]);
    let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), names::TOKEN_NAMESPACE);
    secrets.delete(&token, &DeleteParams::default()).await.unwrap();
    world.logs(&marooned, GuestEvent::TokenRefused).await;

    api.delete(&marooned.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&api, &marooned.name, SOON).await.unwrap();
    let launchers: Api<Pod> = Api::namespaced(world.admin.clone(), names::VM_NAMESPACE);
    assert!(
        launchers
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let csrs: Api<CertificateSigningRequest> = Api::all(world.admin.clone());
    csrs.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
}

async fn a_lost_launcher_fails_the_vm(world: &World) {
    let marooned = world.launch_ready(&json!({})).await;
    let launchers: Api<Pod> = Api::namespaced(world.admin.clone(), names::VM_NAMESPACE);
    let launcher = launchers
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .remove(0);
    assert!(launcher.labels().contains_key("kubevirt.io/created-by"));
    launchers
        .delete(&launcher.name_any(), &DeleteParams::default())
        .await
        .unwrap();
    let vmi = world.vmi_becomes(&marooned, "Failed").await;
    assert!(vmi.data["status"].get("reason").is_none());
    let let_go = |vmi: &DynamicObject| vmi.finalizers().is_empty();
    becomes(&vmis(&world.admin), &marooned.name, "no finalizer", SOON, let_go)
        .await
        .unwrap();
    vmis(&world.admin)
        .delete(&marooned.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&vmis(&world.admin), &marooned.name, SOON).await.unwrap();
}

async fn a_vm_is_marked_for_evacuation(world: &World) {
    let marooned = world.launch(&json!({"neverJoins": true, "slowDelete": 1})).await;
    world.vmi_becomes(&marooned, "Running").await;
    world.host.evict(&marooned.name).await.unwrap();
    let vmi = vmis(&world.admin).get(&marooned.name).await.unwrap();
    assert_eq!(
        vmi.data["status"]["evacuationNodeName"],
        vmi.data["status"]["nodeName"]
    );
    vmis(&world.admin)
        .delete(&marooned.name, &DeleteParams::default())
        .await
        .unwrap();
    let vmi = vmis(&world.admin).get(&marooned.name).await.unwrap();
    assert_eq!(vmi.data["status"]["phase"], "Running", "it does not heed ACPI");
    gone(&vmis(&world.admin), &marooned.name, SOON).await.unwrap();
}

async fn a_script_is_followed(world: &World) {
    let stuck = world.launch(&json!({"unschedulable": true})).await;
    let blocked = |vmi: &DynamicObject| {
        let conditions = vmi.data["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|c| c["reason"] == "Unschedulable")
    };
    let vmi = becomes(&vmis(&world.admin), &stuck.name, "Unschedulable", SOON, blocked)
        .await
        .unwrap();
    assert_eq!(vmi.data["status"]["phase"], "Scheduling");
    vmis(&world.admin)
        .delete(&stuck.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&vmis(&world.admin), &stuck.name, SOON).await.unwrap();

    let denied = world
        .launch(&json!({"wrongNodeName": "host-1", "extraSans": ["192.0.2.1", "kubernetes"]}))
        .await;
    world.judge("client-kubelet", "Denied").await;
    world
        .logs(&denied, GuestEvent::ClientRequestDenied("Test".to_owned()))
        .await;
    vmis(&world.admin)
        .delete(&denied.name, &DeleteParams::default())
        .await
        .unwrap();
    gone(&vmis(&world.admin), &denied.name, SOON).await.unwrap();
    let csrs: Api<CertificateSigningRequest> = Api::all(world.admin.clone());
    csrs.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();

    let reboots = world.launch_ready(&json!({"rebootAt": 4, "notReadyAt": 7})).await;
    let boot_id = |node: &Node| node.status.clone().unwrap().node_info.unwrap().boot_id;
    let nodes: Api<Node> = Api::all(world.admin.clone());
    let first = boot_id(&nodes.get(&reboots.name).await.unwrap());
    let rebooted = |node: &Node| boot_id(node) != first;
    becomes(&nodes, &reboots.name, "another boot id", SOON, rebooted)
        .await
        .unwrap();
    assert_eq!(
        world.vmi_becomes(&reboots, "Running").await.name_any(),
        reboots.name
    );
    world.node_becomes(&reboots, "False").await;

    let dies = world.launch(&json!({"neverJoins": true, "diesAt": 0.5})).await;
    world.vmi_becomes(&dies, "Failed").await;

    let mad = world.launch(&json!({"neverBoot": true})).await;
    let vmi = world.vmi_becomes(&mad, "Failed").await;
    assert!(
        vmi.data["status"]["reason"]
            .as_str()
            .unwrap()
            .contains("neverBoot")
    );
}

async fn ordinary_pods_run(world: &World) {
    let pods: Api<Pod> = Api::namespaced(world.admin.clone(), &world.namespace.name);
    let pod: Pod = from(json!({
        "metadata": {"name": "job"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "web"}]},
    }));
    accepts(&pods, &pod).await.unwrap();
    let over = |pod: &Pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Succeeded");
    becomes(&pods, "job", "Succeeded", SOON, over).await.unwrap();
    pods.delete("job", &DeleteParams::default()).await.unwrap();
    gone(&pods, "job", SOON).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(world.admin.clone());
    assert!(namespaces.get_opt(&world.namespace.name).await.unwrap().is_some());
}
