//! Our record, `MaroonedNode`: how it is made and how its status moves.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference};
use kube::Resource;
use maroonedpods_common::api::{
    Join, JoinMode, MaroonedNode, MaroonedNodeSpec, MaroonedNodeStatus, NodeCondition, PodRef, VmOptions,
    VmResources, VmSpec,
};
use maroonedpods_common::names;

use crate::conditions::{self, ConditionUpdate};
use crate::objects::identity;
use crate::read::{Keep, Kind, Mark, View};
use crate::settings::Settings;

/// A record as it is. It is marked by its pod's namespace, and by the users that its tokens stand for: those of each attempt so far, and of the
/// next, whose guest may be quicker than the watch that tells us of the attempt.
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
        let uid = self.metadata.uid.as_deref().unwrap_or_default();
        token_users(uid, attempt(self).saturating_add(1))
            .map(Mark::User)
            .chain([Mark::Namespace(self.spec.pod_ref.namespace.clone())])
            .collect()
    }
}

/// The users that the tokens of a record's attempts stand for: of this attempt and those before it that matter.
pub fn token_users(record_uid: &str, attempt: u32) -> impl Iterator<Item = String> {
    identity::recent_token_ids(record_uid, attempt).map(|id| format!("{}{id}", names::BOOTSTRAP_USER_PREFIX))
}

/// The record of a pod, with our finalizer on it from the start. `cluster_dns` is for a configuration that names none.
#[must_use]
pub fn new(
    pod: PodRef,
    host_network: bool,
    priority_class: &str,
    resources: VmResources,
    settings: &Settings,
    cluster_dns: Option<&str>,
) -> MaroonedNode {
    let spec = &settings.spec;
    MaroonedNode {
        metadata: ObjectMeta {
            name: Some(names::node_name(&pod.uid)),
            labels: Some(
                [
                    (names::POD_UID_LABEL.to_owned(), pod.uid.clone()),
                    (names::POD_NAMESPACE_LABEL.to_owned(), pod.namespace.clone()),
                ]
                .into(),
            ),
            finalizers: Some(vec![names::FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: MaroonedNodeSpec {
            pod_ref: pod,
            host_network,
            resources,
            config_hash: settings.hash.clone(),
            vm: VmSpec {
                node_image: spec.node_image.clone(),
                kernel_boot: spec.enable_kernel_boot.then(|| spec.kernel_boot_config.clone()),
                taint_key: spec.taint_key.clone(),
                join: join(&spec.join, cluster_dns),
                options: options(&spec.vm, priority_class),
            },
        },
        status: None,
    }
}

/// The pod's priority class is its VM's where the administrator lists it: the class of a launcher is paid for by all.
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

/// Empty values of a status are left out when it is written (`skip_serializing_if`); a merge patch must say
/// `null` for what is to go.
#[must_use]
pub fn status_patch(resource_version: &str, status: &MaroonedNodeStatus) -> serde_json::Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = body.as_object_mut() {
        for field in [
            "message",
            "notBefore",
            "vmiName",
            "vmiUID",
            "nodeUID",
            "address",
            "bootID",
        ] {
            fields.entry(field).or_insert(serde_json::Value::Null);
        }
        if let Some(stages) = fields
            .get_mut("stages")
            .and_then(serde_json::Value::as_object_mut)
        {
            for stage in ["launched", "registered", "ready", "lifted"] {
                stages.entry(stage).or_insert(serde_json::Value::Null);
            }
        }
    }
    serde_json::json!({"metadata": {"resourceVersion": resource_version}, "status": body})
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::view::PodView;
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
        let pod = PodView::of(&pod.unwrap()).unwrap().reference();
        let mut record = new(pod, false, "", size, &settings, None);
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
        let mut spec = crate::settings::tests::spec();
        spec.vm.priority_class_name = "vms".to_owned();
        spec.vm.priority_classes = vec!["gold".to_owned()];
        let settings = Settings::parse(spec).unwrap();
        for (own, rendered) in [("gold", "gold"), ("system-node-critical", "vms"), ("", "vms")] {
            let like = record().spec;
            let record = new(like.pod_ref, false, own, like.resources, &settings, None);
            let vmi = crate::objects::vmi::new(&record, 1, "marooned-vms");
            assert_eq!(vmi.data["spec"]["priorityClassName"], rendered, "{own}");
        }
    }

    #[test]
    fn a_patch_says_null_for_what_is_to_go() {
        let patch = status_patch("7", &MaroonedNodeStatus::default());
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        for field in ["notBefore", "vmiUID", "bootID", "message"] {
            assert!(
                patch["status"].as_object().unwrap().contains_key(field),
                "{field}"
            );
        }
        assert!(patch["status"]["stages"]["lifted"].is_null());
    }
}
