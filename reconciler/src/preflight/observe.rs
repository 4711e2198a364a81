//! Reads what [`super::decide`] needs.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Node, PodSpec, Service};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::Resource;
use kube::core::request::Request;
use maroonedpods_common::api::{Architecture, PodRef, VmPlacement};
use maroonedpods_common::{names, sizing};

use serde_json::Value;

use super::decide::{Approver, IMAGE_VOLUME, KubeVirt, Observed, Trial, architecture};
use crate::api::{CallError, Cluster, call, find};
use crate::objects::record::{self, ClusterDefaults};
use crate::objects::{node, vmi};
use crate::read::{self, Keep, Kind, View};
use crate::settings::Settings;
use crate::{act, params};

/// The rights by which kube-controller-manager's approver decides whose requests to approve.
const APPROVED_BY: [&str; 2] = ["nodeclient", "selfnodeclient"];
const POLICY_GROUP: &str = "admissionregistration.k8s.io/v1";
const POLICIES: &str = "validatingadmissionpolicies";
/// Part of `NodeRestriction`'s answer to a node that sets a label which nodes may not set.
const RESTRICTED: &str = "is not allowed to set the following labels";
/// A UID that no object has.
const NO_OBJECT: &str = "00000000-0000-0000-0000-000000000000";

/// Observes the cluster; what the API server refuses to answer is part of the observation.
///
/// # Errors
/// The API server could not be queried, or not now: nothing was learned.
pub async fn observe(cluster: &Cluster, settings: Option<&Settings>) -> Result<Observed, CallError> {
    let hosts = refusal_as_answer(hosts(cluster, settings).await)?;
    let configured = settings.and_then(|settings| settings.spec.architecture);
    let architecture = architecture(configured, &hosts);
    Ok(Observed {
        approvers: refusal_as_answer(approvers(cluster).await)?,
        kubernetes: refusal_as_answer(kubernetes(cluster).await)?,
        policies: refusal_as_answer(policies(cluster).await)?,
        node_restriction: refusal_as_answer(node_restriction(cluster).await)?,
        kubevirts: refusal_as_answer(kubevirts(cluster).await)?,
        trial: trial(cluster, settings, architecture).await?,
        hosts,
        configured_architecture: configured,
        needs_dns: settings.is_some_and(|settings| record::needs_dns(&settings.spec.join)),
        dns: refusal_as_answer(dns(cluster).await)?,
    })
}

/// A refusal is an answer; any other failure is not.
fn refusal_as_answer<T>(answer: Result<T, CallError>) -> Result<Result<T, String>, CallError> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.is_refusal() => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Queries the rights of a guest with a token: its user name and groups.
async fn approvers(cluster: &Cluster) -> Result<Vec<Approver>, CallError> {
    let reviews = cluster.all::<SubjectAccessReview>();
    let mut approvers = Vec::new();
    for subresource in APPROVED_BY {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("{}aaaaaa", names::BOOTSTRAP_USER_PREFIX)),
                groups: Some(
                    [
                        "system:bootstrappers",
                        names::BOOTSTRAP_GROUP,
                        "system:authenticated",
                    ]
                    .map(ToOwned::to_owned)
                    .to_vec(),
                ),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    version: Some("*".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some("create".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = call(reviews.create(&params::create(), &review)).await?;
        let status = answer.status.unwrap_or_default();
        if status.allowed {
            let why = status.reason.unwrap_or_default();
            approvers.push(Approver { subresource, why });
        }
    }
    Ok(approvers)
}

async fn kubernetes(cluster: &Cluster) -> Result<String, CallError> {
    let version = call(cluster.client.apiserver_version()).await?;
    Ok(format!("{}.{}", version.major, version.minor))
}

async fn policies(cluster: &Cluster) -> Result<bool, CallError> {
    match call(cluster.client.list_api_group_resources(POLICY_GROUP)).await {
        Ok(served) => Ok(served.resources.iter().any(|resource| resource.name == POLICIES)),
        Err(error) if error.is_unserved() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a kubelet is prevented from setting our class label on its Node: tries to, as a node that does not exist.
async fn node_restriction(cluster: &Cluster) -> Result<bool, CallError> {
    let mut node = Node::default();
    node.metadata.name = Some(names::PREFLIGHT_NODE.to_owned());
    let class = (names::CLASS_LABEL.to_owned(), names::CLASS_LABEL_VALUE.to_owned());
    node.metadata.labels = Some([class].into());
    let unsent =
        |error: &dyn std::fmt::Display| CallError::Unexpected(format!("cannot build the request: {error}"));
    let body = serde_json::to_vec(&node).map_err(|error| unsent(&error))?;
    let mut request = Request::new(Node::url_path(&(), None))
        .create(&params::dry_run(), body)
        .map_err(|error| unsent(&error))?;
    let user = format!("{}{}", names::NODE_USER_PREFIX, names::PREFLIGHT_NODE);
    let identity = [
        ("Impersonate-User", user.as_str()),
        ("Impersonate-Group", names::NODES_GROUP),
    ];
    for (header, value) in identity {
        let value = value.parse().map_err(|error| unsent(&error))?;
        request.headers_mut().insert(header, value);
    }
    match call(cluster.client.request::<Node>(request)).await {
        // The Node would have been created, or the name is taken: the request passed the plugin.
        Ok(_) => Ok(false),
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) if error.is_forbidden() && error.to_string().contains(RESTRICTED) => Ok(true),
        Err(error) => Err(error),
    }
}

async fn kubevirts(cluster: &Cluster) -> Result<Vec<KubeVirt>, CallError> {
    let resource = ApiResource {
        kind: "KubeVirt".to_owned(),
        plural: "kubevirts".to_owned(),
        ..vmi::api_resource()
    };
    let kubevirts = Api::<DynamicObject>::all_with(cluster.client.clone(), &resource);
    match read::list::<KubeVirt, _>(&kubevirts, &ListParams::default()).await {
        Ok(listed) => {
            let read = listed.items.into_iter().map(|(_, kubevirt)| kubevirt);
            let unread = listed.unreadable.iter().map(|_| KubeVirt::default());
            Ok(read.chain(unread).collect())
        }
        Err(error) if error.is_unserved() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn dns(cluster: &Cluster) -> Result<Option<Vec<String>>, CallError> {
    let (namespace, name) = names::CLUSTER_DNS;
    let service = find(&cluster.within::<Service>(namespace), name).await?;
    let addresses = |service: Service| {
        let spec = service.spec.unwrap_or_default();
        // `clusterIPs` is newer than `clusterIP`, which is its first entry.
        spec.cluster_ips
            .unwrap_or_else(|| Vec::from_iter(spec.cluster_ip))
    };
    Ok(service.map(addresses))
}

/// The architecture of a Node, from its label.
#[derive(PartialEq)]
struct Host(Option<String>);

impl View for Host {
    const KIND: Kind = Kind::Hosts;
    const KEEP: Keep = Keep::Fields(&[(
        "metadata",
        Keep::Fields(&[("labels", Keep::Fields(&[(node::ARCHITECTURE_LABEL, Keep::All)]))]),
    )]);
    type Object = Node;

    fn read(node: Node) -> Option<Self> {
        let mut labels = node.metadata.labels.unwrap_or_default();
        Some(Self(labels.remove(node::ARCHITECTURE_LABEL)))
    }
}

/// Architectures of the Nodes on which the configuration lets VMs run.
async fn hosts(cluster: &Cluster, settings: Option<&Settings>) -> Result<BTreeSet<String>, CallError> {
    let configured = settings.map(|settings| &settings.spec.vm.node_selector);
    let wanted = configured.into_iter().flatten();
    let selector = wanted.map(|(label, value)| format!("{label}={value}"));
    let selector: Vec<_> = std::iter::once(format!("!{}", names::CLASS_LABEL))
        .chain(selector)
        .collect();
    let params = ListParams::default().labels(&selector.join(","));
    let listed = read::list::<Host, _>(&cluster.all::<Node>(), &params).await?;
    Ok(listed.items.into_iter().filter_map(|(_, host)| host.0).collect())
}

impl View for KubeVirt {
    const KIND: Kind = Kind::KubeVirts;
    const KEEP: Keep = Keep::Fields(&[
        ("status", Keep::Fields(&[("observedKubeVirtVersion", Keep::All)])),
        (
            "spec",
            Keep::Fields(&[(
                "configuration",
                Keep::Fields(&[(
                    "developerConfiguration",
                    Keep::Fields(&[("featureGates", Keep::All)]),
                )]),
            )]),
        ),
    ]);
    type Object = Value;

    fn read(kubevirt: Value) -> Option<Self> {
        let version = kubevirt["status"]["observedKubeVirtVersion"].as_str();
        let gates = &kubevirt["spec"]["configuration"]["developerConfiguration"]["featureGates"];
        let mut gates = gates.as_array().into_iter().flatten();
        Some(Self {
            version: version
                .filter(|version| !version.is_empty())
                .map(ToOwned::to_owned),
            has_image_volume: gates.any(|gate| gate == IMAGE_VOLUME),
        })
    }
}

/// Tries the VM of a pod without requests: as it should be, and if KubeVirt refuses that, without what only some releases
/// of KubeVirt accept.
async fn trial(
    cluster: &Cluster,
    settings: Option<&Settings>,
    architecture: Architecture,
) -> Result<Trial, CallError> {
    let Some(settings) = settings else {
        return Ok(Trial::NoConfig);
    };
    let defaults = |terminate_on_reboot| ClusterDefaults {
        architecture,
        terminate_on_reboot,
        ..ClusterDefaults::default()
    };
    let whole = try_vm(cluster, settings, defaults(true)).await?;
    let Trial::Refused(why) = whole else {
        return Ok(whole);
    };
    Ok(match try_vm(cluster, settings, defaults(false)).await? {
        Trial::Accepted if why.to_lowercase().contains("rebootpolicy") => Trial::AcceptedRebooting(why),
        // The refusal was about something else, and did not last.
        Trial::Accepted => Trial::Impossible(why),
        other => other,
    })
}

async fn try_vm(
    cluster: &Cluster,
    settings: &Settings,
    defaults: ClusterDefaults<'_>,
) -> Result<Trial, CallError> {
    let spec = &settings.spec;
    let size = sizing::effective_request(&PodSpec::default())
        .and_then(|request| sizing::size(request, spec.base_vm_resources, &spec.resource_overhead));
    let size = match size {
        Ok(size) => size,
        Err(error) => return Ok(Trial::Impossible(error.to_string())),
    };
    let no_pod = PodRef {
        namespace: cluster.vm_namespace.clone(),
        name: "preflight".to_owned(),
        uid: NO_OBJECT.into(),
    };
    let mut specimen = record::new(record::spec(
        no_pod,
        false,
        "",
        size,
        VmPlacement::default(),
        settings,
        defaults,
    ));
    // The VM's owner reference needs a UID.
    specimen.metadata.uid = Some(NO_OBJECT.to_owned());
    match act::post_vmi(cluster, &specimen, 1, &params::dry_run()).await {
        Ok(_) => Ok(Trial::Accepted),
        Err(error) if error.is_unserved() => Ok(Trial::NoKubeVirt),
        // Rights, quota or a missing namespace are not the VM's fault. KubeVirt's own webhook may be down (500).
        Err(error) if error.is_forbidden() || error.is_gone() || error.is_internal() => {
            Ok(Trial::Impossible(error.to_string()))
        }
        Err(error) if error.is_refusal() => Ok(Trial::Refused(error.to_string())),
        Err(error) => Err(error),
    }
}
