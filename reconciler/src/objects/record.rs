//! Our record, `MaroonedNode`: how it is made and how its status moves.

use jiff::Timestamp;
use json_patch::Patch;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference};
use kube::Resource;
use maroonedpods_common::api::{
    Architecture, Join, JoinMode, MaroonedNode, MaroonedNodeSpec, MaroonedNodeStatus, NodeCondition, PodRef,
    VmOptions, VmPlacement, VmResources, VmSpec,
};
use maroonedpods_common::names;

use crate::conditions::{self, ConditionUpdate};
use crate::objects::{identity, patch};
use crate::read::{Keep, Kind, Mark, View};
use crate::settings::Settings;

/// The whole record. Its marks are its pod's namespace and the users of its tokens: those of each attempt so far, and
/// of the next, whose guest may be quicker than the watch that reports the attempt.
impl View for MaroonedNode {
    const KIND: Kind = Kind::MaroonedNodes;
    const KEEP: Keep = Keep::But(&[(
        "metadata",
        Some(Keep::But(&[
            ("managedFields", None),
            ("annotations", None),
            ("creationTimestamp", Some(Keep::Time)),
            ("deletionTimestamp", Some(Keep::Deadline)),
        ])),
    )]);
    type Object = Self;

    fn read(record: Self) -> Option<Self> {
        Some(record)
    }

    fn marks(&self) -> Vec<Mark> {
        token_users(self, attempt(self).saturating_add(1))
            .map(Mark::User)
            .chain([Mark::Namespace(self.spec.pod_ref.namespace.clone())])
            .collect()
    }
}

/// The users that the tokens of a record's attempts stand for: of this attempt and those before it that matter.
pub fn token_users(record: &MaroonedNode, attempt: u32) -> impl Iterator<Item = String> {
    identity::recent_token_ids(record, attempt).map(|id| format!("{}{id}", names::BOOTSTRAP_USER_PREFIX))
}

/// What the cluster has that a configuration may leave open.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterDefaults<'a> {
    /// Address of its DNS Service.
    pub dns: Option<&'a str>,
    /// Architecture of its Nodes.
    pub architecture: Architecture,
    /// Its KubeVirt accepts `rebootPolicy: Terminate`.
    pub terminate_on_reboot: bool,
}

/// The specification of a pod's record. `cluster` fills in what the configuration leaves open.
#[must_use]
pub fn spec(
    pod: PodRef,
    host_network: bool,
    priority_class: &str,
    resources: VmResources,
    placement: VmPlacement,
    settings: &Settings,
    cluster: ClusterDefaults<'_>,
) -> MaroonedNodeSpec {
    let spec = &settings.spec;
    MaroonedNodeSpec {
        pod_ref: pod,
        host_network,
        resources,
        config_hash: settings.hash.clone(),
        vm: VmSpec {
            node_image: spec.node_image.clone(),
            architecture: spec.architecture.unwrap_or(cluster.architecture),
            kernel_boot: spec.enable_kernel_boot.then(|| spec.kernel_boot_config.clone()),
            terminate_on_reboot: cluster.terminate_on_reboot,
            taint_key: spec.taint_key.clone(),
            join: join(&spec.join, cluster.dns),
            options: options(&spec.vm, priority_class),
        },
        placement,
    }
}

/// The record with this specification, and with our finalizer from the start.
#[must_use]
pub fn new(spec: MaroonedNodeSpec) -> MaroonedNode {
    let pod = &spec.pod_ref;
    MaroonedNode {
        metadata: ObjectMeta {
            name: Some(names::node_name(&pod.uid)),
            labels: Some(
                [
                    (names::POD_UID_LABEL.to_owned(), pod.uid.to_string()),
                    (names::POD_NAMESPACE_LABEL.to_owned(), pod.namespace.clone()),
                ]
                .into(),
            ),
            finalizers: Some(vec![names::FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// The VM gets the pod's priority class if the administrator lists it: all tenants pay for a launcher's class.
fn options(configured: &VmOptions, priority_class: &str) -> VmOptions {
    let listed = configured.priority_classes.iter().any(|c| c == priority_class);
    let name = if listed {
        priority_class
    } else {
        &configured.priority_class_name
    };
    VmOptions {
        priority_class_name: name.to_owned(),
        priority_classes: Vec::new(),
        ..configured.clone()
    }
}

fn join(configured: &Join, cluster_dns: Option<&str>) -> Join {
    let mut join = configured.clone();
    if needs_dns(configured) {
        join.cluster_dns = cluster_dns.map(ToOwned::to_owned);
    }
    join
}

/// Whether guests need to be told of a name server, and the configuration names none. A k3s agent asks its server.
#[must_use]
pub fn needs_dns(join: &Join) -> bool {
    join.mode == JoinMode::Kubelet && join.cluster_dns.is_none()
}

/// The reference that makes the record the owner of what is made for it, so that garbage collection finds what
/// we might leave.
#[must_use]
pub fn owner_reference(record: &MaroonedNode) -> OwnerReference {
    OwnerReference {
        api_version: MaroonedNode::api_version(&()).into_owned(),
        kind: MaroonedNode::kind(&()).into_owned(),
        name: record.metadata.name.clone().unwrap_or_default(),
        uid: record.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// A condition of a record, if it is there.
#[must_use]
pub fn condition(status: &MaroonedNodeStatus, type_: NodeCondition) -> Option<&Condition> {
    conditions::find(&status.conditions, type_.into())
}

/// Sets a condition of a record.
pub fn set_condition(
    status: &mut MaroonedNodeStatus,
    type_: NodeCondition,
    holds: bool,
    reason: impl Into<&'static str>,
    message: &str,
    now: Timestamp,
) {
    let says = ConditionUpdate {
        holds,
        reason: reason.into(),
        message,
    };
    conditions::set(&mut status.conditions, type_.into(), says, None, now);
}

/// Whether this attempt's kubelet has joined, and the join credential went with that.
#[must_use]
pub fn has_joined(status: &MaroonedNodeStatus) -> bool {
    condition(status, NodeCondition::Registered).is_some_and(|registered| registered.status == "True")
}

/// The attempt that the record is in, from 1.
#[must_use]
pub fn attempt(record: &MaroonedNode) -> u32 {
    record.status.as_ref().map_or(1, |s| s.attempts.max(1))
}

/// The patch that replaces the status, of the record as it was at this version. The API server answers 409 for any
/// other version: unlike the 422 of a failed `test`, that cannot be taken for a status which it refuses.
///
/// # Errors
/// The status cannot be written as JSON.
pub fn status_patch(resource_version: &str, status: &MaroonedNodeStatus) -> serde_json::Result<Patch> {
    Ok(Patch(vec![
        patch::replace(&["metadata", "resourceVersion"], resource_version),
        patch::add(&["status"], serde_json::to_value(status)?),
    ]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::view::PodView;
    use maroonedpods_common::api::MaroonedPodsConfigSpec;
    use serde_json::json;

    pub(crate) const POD_UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";
    pub(crate) const RECORD_UID: &str = "0b7c1f5e-0000-4000-8000-000000000001";

    /// A record as the API server would hold it right after step 1.
    pub(crate) fn record() -> MaroonedNode {
        let settings = Settings::parse(crate::settings::tests::spec()).unwrap();
        let pod =
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "pod", "uid": POD_UID}}));
        let size = VmResources {
            cpu: 1,
            memory_mi: 1024,
            disk_mi: 10240,
            reserved_memory_mi: 366,
            reserved_cpu_milli: 500,
        };
        let pod = PodView::of(&pod.unwrap()).unwrap().pod_ref();
        let mut record = new(spec(
            pod,
            false,
            "",
            size,
            VmPlacement::default(),
            &settings,
            ClusterDefaults::default(),
        ));
        record.metadata.uid = Some(RECORD_UID.to_owned());
        record.metadata.resource_version = Some("1".to_owned());
        record
    }

    #[test]
    fn a_name_server_is_the_configured_one_else_the_clusters() {
        let with = |join: serde_json::Value, clusters: Option<&str>| {
            super::join(&serde_json::from_value(join).unwrap(), clusters).cluster_dns
        };
        let clusters = Some("10.96.0.10");
        let least = json!({"serverURL": "https://a"});
        assert_eq!(with(least.clone(), clusters).as_deref(), clusters);
        assert_eq!(with(least, None), None);
        let named = json!({"serverURL": "https://a", "clusterDNS": "10.0.0.53"});
        assert_eq!(with(named, clusters).as_deref(), Some("10.0.0.53"));
        let k3s = json!({"serverURL": "https://a", "mode": "K3s"});
        assert_eq!(with(k3s, clusters), None);
    }

    #[test]
    fn a_listed_priority_class_is_the_vms_and_no_other() {
        let mut configured = crate::settings::tests::spec();
        configured.vm.priority_class_name = "vms".to_owned();
        configured.vm.priority_classes = vec!["gold".to_owned()];
        let settings = Settings::parse(configured).unwrap();
        for (own, rendered) in [("gold", "gold"), ("system-node-critical", "vms"), ("", "vms")] {
            let like = record().spec;
            let record = new(spec(
                like.pod_ref,
                false,
                own,
                like.resources,
                VmPlacement::default(),
                &settings,
                ClusterDefaults::default(),
            ));
            let vmi = crate::objects::vmi::new(&record, 1, "marooned-vms");
            assert_eq!(vmi.data["spec"]["priorityClassName"], rendered, "{own}");
        }
    }

    /// The record of a pod without wishes of its own, by this configuration.
    fn record_by(edit: impl FnOnce(&mut MaroonedPodsConfigSpec)) -> MaroonedNode {
        let mut configured = crate::settings::tests::spec();
        edit(&mut configured);
        let settings = Settings::parse(configured).unwrap();
        let like = record().spec;
        let cluster = ClusterDefaults::default();
        let placement = VmPlacement::default();
        new(spec(
            like.pod_ref,
            false,
            "",
            like.resources,
            placement,
            &settings,
            cluster,
        ))
    }

    #[test]
    fn what_is_configured_of_vms_is_rendered() {
        let rendered = |edit: fn(&mut MaroonedPodsConfigSpec)| {
            crate::objects::vmi::new(&record_by(edit), 1, "marooned-vms").data["spec"].clone()
        };
        let toleration = json!([{"key": "vms", "operator": "Exists"}]);
        let vmi = rendered(|configured| {
            configured.enable_kernel_boot = true;
            configured.vm = serde_json::from_value(json!({
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "vms", "operator": "Exists"}],
                "imagePullSecret": "pull",
                "networkBinding": "Bridge",
            }))
            .unwrap();
        });
        let image = json!({"image": "registry.example/marooned-node@sha256:0000", "imagePullSecret": "pull"});
        assert_eq!(vmi["nodeSelector"], json!({"disk": "ssd"}));
        assert_eq!(vmi["tolerations"], toleration);
        assert_eq!(vmi["volumes"][0]["containerDisk"], image);
        let boot = &vmi["domain"]["firmware"]["kernelBoot"]["container"];
        assert_eq!(
            (&boot["image"], &boot["imagePullSecret"]),
            (&image["image"], &image["imagePullSecret"])
        );
        assert_eq!(
            (&boot["kernelPath"], &boot["initrdPath"]),
            (&json!("/boot/vmlinuz"), &json!("/boot/initrd"))
        );
        let interface = &vmi["domain"]["devices"]["interfaces"][0];
        assert!(interface.get("bridge").is_some() && interface.get("masquerade").is_none());

        let plain = rendered(|_| {});
        for absent in ["nodeSelector", "tolerations", "priorityClassName"] {
            assert_eq!(plain.get(absent), None, "{absent}");
        }
        assert_eq!(
            plain["volumes"][0]["containerDisk"],
            json!({"image": image["image"]})
        );
        assert_eq!(plain["domain"]["firmware"].get("kernelBoot"), None);
    }

    #[test]
    fn a_status_is_written_whole() {
        let mut stored = json!({"metadata": {"resourceVersion": "7"}, "status": {"vmiUID": "gone", "stages": {"lifted": "x"}}});
        let status = MaroonedNodeStatus::default();
        let patch = status_patch("7", &status).unwrap();
        assert_eq!(
            serde_json::to_value(&patch.0[0]).unwrap(),
            json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}),
            "the precondition"
        );
        json_patch::patch(&mut stored, &patch).unwrap();
        assert_eq!(stored["status"], serde_json::to_value(&status).unwrap());
    }
}
