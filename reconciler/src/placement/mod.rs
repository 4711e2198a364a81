//! Whether a pod can run on a Node of its own, and where its VM goes: judged from the pod's own words before anything is
//! spent, for a VM that does not help its pod is held for nothing.
//!
//! Each field of a pod that bears on scheduling is one of these:
//!
//! | | fields | judged in |
//! |---|---|---|
//! | carried to the VM's host | selectors of host labels, affinity to other pods, spread, tolerations by allow-list | [`hosts`], [`neighbours`] |
//! | promised by the Node | selectors of labels that each marooned Node has | [`hosts`] |
//! | met by the guest | resources, volumes, sysctls, security profiles, runtimes | [`guest`] |
//! | met by the guest and the VM's host | volume claims, by what they are bound to | [`claims`] |
//! | met by the VM's size | requests | `maroonedpods_common::sizing` |
//!
//! The real scheduler then judges spread and affinity where they mean something, when it places the VM's launcher pod.
//!
//! Guarantees: no I/O, no clock. The pod is read as it is now, not as it was admitted: a queue may add selectors while the
//! pod is gated.

pub mod claims;
mod guest;
mod hosts;
mod neighbours;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, PodAffinity, PodAntiAffinity, Toleration};
use maroonedpods_common::api::{
    Architecture, MaroonedPodsConfigSpec, PlacementOptions, SpreadReplicas, VmPlacement,
};
use maroonedpods_common::text;

use crate::binding;
use crate::fingerprint::fingerprint;
use crate::objects::node;
use crate::view::{NodeView, Packed, PodView, topology};

use claims::{ClaimName, MOST_CLAIMS, PodClaim};
pub use hosts::is_of_host;
pub use wishes::Wishes;

/// The most bytes that a pod's wishes may take, [`Packed`].
pub const MOST_WISHES: usize = 4 << 10;

/// Why a pod gets no VM. The sentences name what is in the way, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// By its own words it cannot run on a Node of its own.
    Pod(String),
    /// Its claims are not ready, or it cannot use their volumes.
    Claims(String),
    /// By its own words it can, and its claims have yet to be read.
    ClaimsUnread,
}

/// A pod that can run on a Node of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Where its VM goes.
    pub placement: VmPlacement,
    /// What the pod only prefers, and no host can be chosen by: kinds of preferences with their labels.
    pub ignored: Vec<String>,
}

/// Fingerprint of what the pod asks for: a pod that has another one by now needs another VM. Its labels count where it is to be
/// near, apart or spread, because the VM's terms have their values. `None` if that is too long to keep.
#[must_use]
pub fn asked(pod: &PodView) -> Option<String> {
    let wishes = pod.wishes.as_ref()?;
    let labels = pod.labels.as_ref().filter(|_| {
        wishes
            .unpacked()
            .is_some_and(|wishes| neighbours::are_meant(&wishes))
    });
    let text = format!(
        "{}{}",
        wishes.json(),
        labels.map(Packed::json).unwrap_or_default()
    );
    Some(fingerprint(&text))
}

/// Whether a kubelet with this Node takes the pod, by its node selector and required node affinity. A pod or Node that is too
/// long to keep is left to the kubelet.
#[must_use]
pub fn fits(pod: &PodView, node: &NodeView) -> bool {
    let wishes = pod.wishes.as_ref().and_then(Packed::unpacked);
    let labels = node.labels.as_ref().and_then(Packed::unpacked);
    let (Some(wishes), Some(labels)) = (wishes, labels) else {
        return true;
    };
    let affinity = wishes.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let terms = binding::required_terms(affinity);
    binding::selects(&wishes.node_selector, terms, &node.name, &labels)
}

/// The claims of a pod; empty if they are not judged.
#[must_use]
pub fn claims_of(pod: &PodView) -> Vec<ClaimName> {
    let wishes = pod.wishes.as_ref().and_then(Packed::unpacked);
    let claims = wishes.map(|wishes| claim_names(pod, &wishes));
    claims
        .filter(|claims| claims.len() <= MOST_CLAIMS)
        .unwrap_or_default()
}

fn claim_names(pod: &PodView, wishes: &Wishes) -> Vec<ClaimName> {
    let named = wishes.claims.iter().map(|name| ClaimName {
        name: name.clone(),
        ephemeral: false,
    });
    let made = wishes.ephemeral.iter().map(|volume| ClaimName {
        name: format!("{}-{volume}", pod.name),
        ephemeral: true,
    });
    named.chain(made).collect()
}

/// Where the VM of a pod goes. `claims` are those of [`claims_of`], if they were read.
///
/// # Errors
/// Why the pod gets no VM.
pub fn judge(
    pod: &PodView,
    claims: Option<&[PodClaim]>,
    config: &MaroonedPodsConfigSpec,
    architecture: Architecture,
) -> Result<Fit, Unfit> {
    let (Some(asked), Some(wishes)) = (asked(pod), pod.wishes.as_ref().and_then(Packed::unpacked)) else {
        return Err(Unfit::Pod(format!(
            "node selector, affinities, spread constraints and volumes of the pod take more than {MOST_WISHES} bytes, and \
             are not judged: shorten them"
        )));
    };
    let placed = |required: &[hosts::Required]| fit(pod, &asked, &wishes, required, config, architecture);
    let alone = placed(&[]).map_err(Unfit::Pod)?;
    let number = claim_names(pod, &wishes).len();
    if number > MOST_CLAIMS {
        return Err(Unfit::Pod(format!(
            "the pod has {number} volume claims, and more than {MOST_CLAIMS} are not judged: use fewer"
        )));
    }
    match claims {
        _ if number == 0 => Ok(alone),
        None => Err(Unfit::ClaimsUnread),
        Some(claims) => claims::judge(&pod.uid, claims, &config.guest_capabilities)
            .and_then(|required| placed(&required))
            .map_err(Unfit::Claims),
    }
}

fn fit(
    pod: &PodView,
    asked: &str,
    wishes: &Wishes,
    by_volumes: &[hosts::Required],
    config: &MaroonedPodsConfigSpec,
    architecture: Architecture,
) -> Result<Fit, String> {
    guest::check(
        "the pod",
        &wishes.guest,
        &config.guest_capabilities,
        hosts::WITHOUT,
    )?;
    let labels = pod.labels.as_ref().and_then(Packed::unpacked);
    // A kubelet compares this label of a pod with its node's (kubelet/lifecycle, OS selector).
    if let Some(os) = labels
        .as_ref()
        .and_then(|labels| labels.get(node::OS_LABEL))
        .filter(|os| *os != "linux")
    {
        return Err(format!(
            "the pod has the label {}={}, and VMs run Linux: {}",
            node::OS_LABEL,
            text::value(os),
            hosts::WITHOUT
        ));
    }
    let options = &config.placement;
    let promised = promised(pod, options, config.architecture.unwrap_or(architecture));
    let hosts = hosts::carry(wishes, by_volumes, &promised, &options.host_labels)?;
    let me = neighbours::Me {
        namespace: &pod.namespace,
        labels: labels.as_ref(),
        host_labels: &options.host_labels,
    };
    let mut apart = neighbours::apart(wishes, &me)?;
    let owner = pod.maker.controller();
    if options.spread_replicas == SpreadReplicas::Preferred
        && let Some(owner) = owner
    {
        neighbours::spread_replicas(&mut apart, &me, owner);
    }
    let together = neighbours::together(wishes, &me)?;
    let host_labels = host_labels(hosts.as_ref(), wishes, &options.host_labels);
    let affinity = Affinity {
        node_affinity: hosts,
        pod_affinity: (together != PodAffinity::default()).then_some(together),
        pod_anti_affinity: (apart != PodAntiAffinity::default()).then_some(apart),
    };
    let mut ignored = hosts::ignored(wishes, &promised, &options.host_labels);
    ignored.extend(neighbours::ignored(wishes, &me));
    Ok(Fit {
        placement: VmPlacement {
            asked: asked.to_owned(),
            labels: neighbours::labels(&me, owner),
            affinity: (affinity != Affinity::default()).then_some(affinity),
            topology_spread_constraints: neighbours::spread(wishes, &me)?,
            tolerations: tolerations(&pod.tolerations, &options.host_taints),
            host_labels,
            node_labels: options.node_labels.clone(),
        },
        ignored,
    })
}

/// The labels of the pod's Node that do not depend on its host.
fn promised(
    pod: &PodView,
    options: &PlacementOptions,
    architecture: Architecture,
) -> BTreeMap<String, String> {
    let ours = node::own_labels(&pod.uid, architecture);
    let ours = ours.map(|(key, value)| (key.to_owned(), value.to_owned()));
    options.node_labels.clone().into_iter().chain(ours).collect()
}

/// Keys of labels that the Node must have as its host has them, beside zone and region: its kubelet checks the pod's selectors
/// again, and a scheduler of the pod's own whatever it places by. Only labels by which pods may choose are among them: a pod
/// that names another one must not have it changed on its Node.
fn host_labels(hosts: Option<&NodeAffinity>, wishes: &Wishes, allowed: &[String]) -> Vec<String> {
    let keys: BTreeSet<&str> = hosts
        .into_iter()
        .flat_map(hosts::required_keys)
        .chain(neighbours::required_keys(wishes))
        .filter(|key| hosts::is_of_host(key, allowed) && !topology::LABELS.contains(key))
        .collect();
    keys.into_iter().map(ToOwned::to_owned).collect()
}

/// Those of a pod's tolerations that its VM has too. One without a key tolerates each of the listed taints.
pub fn tolerations(own: &[Toleration], allowed: &[String]) -> Vec<Toleration> {
    let listed = |toleration: &Toleration| match toleration.key.as_deref() {
        None | Some("") => allowed
            .iter()
            .map(|key| Toleration {
                key: Some(key.clone()),
                ..toleration.clone()
            })
            .collect(),
        Some(key) if allowed.iter().any(|a| a == key) => vec![toleration.clone()],
        Some(_) => Vec::new(),
    };
    own.iter().flat_map(listed).collect()
}

#[cfg(test)]
mod tests;
