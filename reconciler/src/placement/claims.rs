//! The volume claims of a pod: what its guest must offer for them, and which hosts their volumes allow.
//!
//! Claims, volumes and classes are read once, before the pod's VM is spent, and judged as the scheduler and the kubelet judge
//! them when the pod has its Node: what those would wait for, the pod waits for here. None of them is watched.
//!
//! A claim that binds when its pod is scheduled has no volume yet, and is judged by its class. One whose class makes no volumes
//! gets one of those that there are, most of which are local ones: an administrator says of which classes guests can use
//! them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
};
use k8s_openapi::api::storage::v1::StorageClass;
use maroonedpods_common::{PodUid, text};

use super::{guest, hosts};
use crate::read::{Keep, Kind, View};
use crate::view::{Packed, topology};

/// The most claims that a pod may have.
pub const MOST_CLAIMS: usize = 16;
/// The most bytes of an object's name.
const LONGEST_NAME: usize = 253;
/// The most bytes that the hosts of one volume may take, [`Packed`].
const MOST_HOSTS: usize = 2 << 10;
const REMEDY: &str = "use another volume, or opt the pod out";
/// The provisioner of classes that make no volumes.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The older way of naming a claim's class; it takes precedence.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Older names of zone and region on volumes, in the order of [`topology::LABELS`].
const OLDER_LABELS: [&str; 2] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Which claim of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimName {
    /// Its name.
    pub name: String,
    /// Kubernetes makes it for an ephemeral volume of the pod.
    pub ephemeral: bool,
}

/// A claim of a pod, and what is behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodClaim {
    /// Which one.
    pub name: ClaimName,
    /// The claim; `None` if there is none of this name.
    pub claim: Option<ClaimView>,
    /// What it refers to.
    pub behind: Behind,
}

/// What a claim refers to, by [`ClaimView::refers_to`].
#[derive(Clone, Debug, PartialEq)]
pub enum Behind {
    /// Nothing that is read.
    Nothing,
    /// The volume of a bound claim; `None` if it does not exist.
    Volume(Option<VolumeView>),
    /// The class of an unbound claim; `None` if it does not exist.
    Class(Option<ClassView>),
}

/// The object that decides on a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// The `PersistentVolume` of this name.
    Volume(&'a str),
    /// The `StorageClass` of this name.
    Class(&'a str),
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimView {
    uid: String,
    /// UID of its controller.
    controller: Option<String>,
    deleting: bool,
    phase: String,
    volume: String,
    class: String,
}

/// A volume.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeView {
    /// UID of the claim that it is bound to.
    claim: Option<String>,
    /// It is a folder or a disk of one node.
    local: bool,
    asks: Asks,
}

/// A class of volumes.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassView {
    /// Its claims are bound when their pods are scheduled.
    delayed: bool,
    asks: Asks,
}

/// What a volume asks of who uses it, or what one of a class will.
#[derive(Clone, Debug, PartialEq)]
struct Asks {
    /// Of the guest, as capabilities are written.
    guest: BTreeSet<String>,
    /// Of the node: it must match a term of each of these. `None` if that is too long to keep.
    nodes: Option<Packed<Vec<Vec<NodeSelectorTerm>>>>,
}

/// Judges the claims of a pod: the guest must offer what they need. Gives what they ask of the node.
///
/// # Errors
/// A sentence about the first claim that is not ready, or whose volume the pod cannot use.
pub(super) fn judge(
    pod: &PodUid,
    claims: &[PodClaim],
    offered: &[String],
) -> Result<Vec<hosts::Required>, String> {
    let mut required = Vec::new();
    for claim in claims {
        let asks = claim.ready(pod)?;
        let what = claim.volume();
        guest::check(&what, &asks.guest, offered, REMEDY)?;
        let Some(nodes) = asks.nodes.as_ref().and_then(Packed::unpacked) else {
            return Err(format!(
                "{what} asks for its node in more than {MOST_HOSTS} bytes, which is not judged: take another volume"
            ));
        };
        required.extend(nodes.into_iter().map(|terms| hosts::Required {
            whose: what.clone(),
            remedy: REMEDY,
            terms,
        }));
    }
    Ok(required)
}

impl PodClaim {
    /// Whether the pod must wait for this claim, or cannot use it, whatever its guest offers.
    #[must_use]
    pub fn holds_back(&self, pod: &PodUid) -> bool {
        self.ready(pod).is_err()
    }

    /// What the claim's volume asks for, if the scheduler would go on with this claim.
    fn ready(&self, pod: &PodUid) -> Result<&Asks, String> {
        let name = text::value(&self.name.name);
        let is = |what: &str| Err(format!("the pod's claim {name} {what}"));
        let Some(claim) = &self.claim else {
            return if self.name.ephemeral {
                is("does not exist yet: Kubernetes makes it for the pod's ephemeral volume")
            } else {
                is("does not exist: create it")
            };
        };
        if self.name.ephemeral && claim.controller.as_deref() != Some(pod.as_str()) {
            return is("exists, but was not made for the ephemeral volume of this pod: delete that claim");
        }
        if claim.deleting {
            return is("is being deleted: create it again when it is gone");
        }
        if claim.phase == "Lost" {
            return is("has lost its volume: replace the claim");
        }
        match &self.behind {
            Behind::Volume(Some(volume)) if volume.claim.as_ref() != Some(&claim.uid) => {
                is("names a volume that is bound to another claim, or to none: replace the claim")
            }
            Behind::Volume(Some(volume)) if volume.local => is(
                "has a local volume, which is on another machine than the pod's VM: take another volume, or opt the pod out",
            ),
            Behind::Volume(Some(volume)) => Ok(&volume.asks),
            Behind::Volume(None) => is("names a volume that does not exist: replace the claim"),
            Behind::Class(Some(class)) if class.delayed => Ok(&class.asks),
            Behind::Class(None) => is(&format!(
                "is not bound, and its StorageClass {} does not exist: create the class, or a volume for the claim",
                text::value(&claim.class)
            )),
            Behind::Nothing if claim.class.is_empty() && claim.volume.is_empty() => {
                is("is not bound, and has no StorageClass: create a volume for it, or a claim with a class")
            }
            Behind::Class(Some(_)) | Behind::Nothing => is("is not bound to a volume yet"),
        }
    }

    fn volume(&self) -> String {
        format!("the volume of the pod's claim {}", text::value(&self.name.name))
    }
}

impl ClaimView {
    /// Whether it has its volume.
    #[must_use]
    pub fn bound(&self) -> bool {
        self.phase == "Bound"
    }

    /// What is to be read to judge the claim. One that names its volume waits for that, as if its class did not delay it.
    #[must_use]
    pub fn refers_to(&self) -> Option<Reference<'_>> {
        if self.bound() {
            is_name(&self.volume).then_some(Reference::Volume(&self.volume))
        } else {
            let by_class = self.volume.is_empty() && is_name(&self.class);
            by_class.then_some(Reference::Class(&self.class))
        }
    }
}

/// A name that a user wrote. What is longer than names are is shortened, and is none.
fn kept(name: Option<String>) -> String {
    text::shortened(&name.unwrap_or_default(), LONGEST_NAME).into_owned()
}

/// Whether an object can have this name. Whoever may write pods and claims writes the names in them, and what is none would
/// ask the API server for something else.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= LONGEST_NAME
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|c| plain(c) || c == b'-' || c == b'.')
}

impl View for ClaimView {
    const KIND: Kind = Kind::PersistentVolumeClaims;
    const KEEP: Keep = Keep::Fields(&[
        (
            "metadata",
            Keep::Fields(&[
                ("uid", Keep::All),
                ("deletionTimestamp", Keep::Deadline),
                ("annotations", Keep::Fields(&[(CLASS_ANNOTATION, Keep::All)])),
                (
                    "ownerReferences",
                    Keep::Each(&Keep::Fields(&[("uid", Keep::All), ("controller", Keep::All)])),
                ),
            ]),
        ),
        (
            "spec",
            Keep::Fields(&[("volumeName", Keep::All), ("storageClassName", Keep::All)]),
        ),
        ("status", Keep::Fields(&[("phase", Keep::All)])),
    ]);
    type Object = PersistentVolumeClaim;

    fn read(claim: PersistentVolumeClaim) -> Option<Self> {
        let (meta, spec) = (claim.metadata, claim.spec.unwrap_or_default());
        let annotated = meta
            .annotations
            .and_then(|mut annotations| annotations.remove(CLASS_ANNOTATION));
        let mut owners = meta.owner_references.into_iter().flatten();
        Some(Self {
            uid: meta.uid.unwrap_or_default(),
            controller: owners
                .find(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid),
            deleting: meta.deletion_timestamp.is_some(),
            phase: claim.status.and_then(|status| status.phase).unwrap_or_default(),
            volume: kept(spec.volume_name),
            class: kept(annotated.or(spec.storage_class_name)),
        })
    }
}

impl View for VolumeView {
    const KIND: Kind = Kind::PersistentVolumes;
    const KEEP: Keep = Keep::Fields(&[
        ("metadata", Keep::Fields(&[("labels", Keep::All)])),
        (
            "spec",
            Keep::But(&[
                ("accessModes", None),
                ("capacity", None),
                ("claimRef", Some(Keep::Fields(&[("uid", Keep::All)]))),
                ("csi", Some(Keep::Fields(&[("driver", Keep::All)]))),
                ("mountOptions", None),
            ]),
        ),
    ]);
    type Object = PersistentVolume;

    fn read(volume: PersistentVolume) -> Option<Self> {
        let labels = volume.metadata.labels.unwrap_or_default();
        let spec = volume.spec.unwrap_or_default();
        let mut needs = guest::Needs::default();
        needs.of_persistent_volume(&spec);
        // The scheduler heeds zone and region among the labels, which older provisioners set.
        let by_label = |(key, older): (&'static str, &'static str)| {
            let zones = labels.get(key).or_else(|| labels.get(older))?;
            Some(is_in(key, zones.split("__").map(ToOwned::to_owned).collect()))
        };
        let by_labels = topology::LABELS
            .into_iter()
            .zip(OLDER_LABELS)
            .filter_map(by_label);
        let by_labels: Vec<_> = by_labels
            .map(|requirement| vec![all_of(vec![requirement])])
            .collect();
        let by_affinity = spec.node_affinity.and_then(|affinity| affinity.required);
        let nodes = by_affinity
            .map(|required| required.node_selector_terms)
            .into_iter()
            .chain(by_labels)
            .collect();
        Some(Self {
            claim: spec.claim_ref.and_then(|claim| claim.uid),
            local: spec.local.is_some(),
            asks: Asks {
                guest: needs.into_set(),
                nodes: Packed::of(&nodes, MOST_HOSTS),
            },
        })
    }
}

impl View for ClassView {
    const KIND: Kind = Kind::StorageClasses;
    const KEEP: Keep = Keep::Fields(&[
        ("metadata", Keep::Fields(&[("name", Keep::All)])),
        ("provisioner", Keep::All),
        ("volumeBindingMode", Keep::All),
        ("allowedTopologies", Keep::All),
    ]);
    type Object = StorageClass;

    fn read(class: StorageClass) -> Option<Self> {
        let mut needs = guest::Needs::default();
        if class.provisioner == NO_PROVISIONER {
            needs.named("storage-class", &class.metadata.name.unwrap_or_default());
        } else {
            needs.named("csi", &class.provisioner);
        }
        let topologies = class.allowed_topologies.filter(|terms| !terms.is_empty());
        let nodes = topologies.map(|terms| {
            let of_term = terms.into_iter().map(|term| {
                let labels = term.match_label_expressions.into_iter().flatten();
                all_of(labels.map(|label| is_in(&label.key, label.values)).collect())
            });
            of_term.collect()
        });
        Some(Self {
            delayed: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            asks: Asks {
                guest: needs.into_set(),
                nodes: Packed::of(&nodes.into_iter().collect(), MOST_HOSTS),
            },
        })
    }
}

fn is_in(key: &str, values: Vec<String>) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(values),
    }
}

fn all_of(requirements: Vec<NodeSelectorRequirement>) -> NodeSelectorTerm {
    NodeSelectorTerm {
        match_expressions: Some(requirements),
        match_fields: None,
    }
}
