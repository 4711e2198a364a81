//! The decision on the observed cluster.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use maroonedpods_common::api::{Architecture, ClusterReadyReason as Reason};
use maroonedpods_common::names;

use super::version::Version;
use super::{Decision, Finding};

/// Kubernetes: the first release with a stable `ValidatingAdmissionPolicy`.
const KUBERNETES_FLOOR: Version = Version::new(1, 30);
/// KubeVirt: the oldest release that accepted the VM's shape in a test.
const KUBEVIRT_FLOOR: Version = Version::new(1, 7);
/// The first Kubernetes on which KubeVirt needs its feature gate [`IMAGE_VOLUME`] (kubevirt issue 17858), and the first
/// KubeVirt that needs it no more.
const IMAGE_VOLUME_SINCE: (Version, Version) = (Version::new(1, 36), Version::new(1, 9));
/// The feature gate by which KubeVirt's launchers mount disks that are images.
pub const IMAGE_VOLUME: &str = "ImageVolume";

/// What the checks observe of the cluster. An `Err` is the API server's reason for a refusal to answer.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The rights by which the cluster itself would approve certificate requests of our bootstrap group.
    pub approvers: Result<Vec<Approver>, String>,
    /// The API server's version, as reported.
    pub kubernetes: Result<String, String>,
    /// `ValidatingAdmissionPolicy` v1 is served.
    pub policies: Result<bool, String>,
    /// The admission plugin `NodeRestriction` refused a node's attempt to set our class label.
    pub node_restriction: Result<bool, String>,
    /// Each KubeVirt resource.
    pub kubevirts: Result<Vec<KubeVirt>, String>,
    /// Architectures of the Nodes on which VMs may run.
    pub hosts: Result<BTreeSet<String>, String>,
    /// The architecture that the configuration names.
    pub configured_architecture: Option<Architecture>,
    /// How KubeVirt answered a dry run of one of our VMs.
    pub trial: Trial,
    /// Guests must use the cluster's own DNS Service, because the configuration names no other server.
    pub needs_dns: bool,
    /// Addresses of the cluster's DNS Service; `None` if there is no such Service.
    pub dns: Result<Option<Vec<String>>, String>,
}

/// A KubeVirt resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeVirt {
    /// `status.observedKubeVirtVersion`, once KubeVirt runs.
    pub version: Option<String>,
    /// The feature gate [`IMAGE_VOLUME`] is on.
    pub has_image_volume: bool,
}

/// A right that makes kube-controller-manager approve its holder's certificate requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    /// The subresource of `certificatesigningrequests` that may be created.
    pub subresource: &'static str,
    /// The reason, in the authorizer's words.
    pub why: String,
}

/// KubeVirt's answer to a VM of the present configuration, created with `dryRun=All` and strict field validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It would have been created.
    Accepted,
    /// It would have been created without `rebootPolicy`, which was refused for this reason: KubeVirt is older than 1.9, or
    /// its feature gate is off.
    AcceptedRebooting(String),
    /// KubeVirt, or its schema, refused it.
    Refused(String),
    /// The dry run was not possible; this says nothing about the VM.
    Impossible(String),
    /// No configuration is in force yet.
    NoConfig,
    /// `VirtualMachineInstance` is not served.
    NoKubeVirt,
}

/// The result of each check: what is in order, or what is wrong.
#[must_use]
pub fn checks(observed: &Observed) -> Vec<Result<String, Finding>> {
    let mut checks = vec![
        approval(&observed.approvers),
        kubernetes(&observed.kubernetes),
        policies(&observed.policies),
        node_restriction(&observed.node_restriction),
        trial(&observed.trial),
        hosts(observed),
    ];
    if observed.needs_dns {
        checks.push(dns(observed));
    }
    // Without KubeVirt there is no version to check.
    if observed.trial != Trial::NoKubeVirt {
        checks.push(kubevirt(observed));
    }
    checks
}

/// All findings, the blocking ones first, and the address of the cluster's DNS Service.
#[must_use]
pub fn decide(observed: &Observed) -> Decision {
    let mut findings: Vec<_> = checks(observed).into_iter().filter_map(Result::err).collect();
    findings.sort_by_key(|finding| !finding.blocks);
    Decision::Checked {
        findings,
        configured: observed.trial != Trial::NoConfig,
        cluster_dns: cluster_dns(observed),
        architecture: observed.architecture(),
        terminate_on_reboot: match observed.trial {
            Trial::Accepted => Some(true),
            Trial::AcceptedRebooting(_) => Some(false),
            Trial::Refused(_) | Trial::Impossible(_) | Trial::NoConfig | Trial::NoKubeVirt => None,
        },
    }
}

fn approval(approvers: &Result<Vec<Approver>, String>) -> Result<String, Finding> {
    let group = names::BOOTSTRAP_GROUP;
    match approvers {
        Ok(approvers) if approvers.is_empty() => Ok(format!(
            "only the reconciler approves certificate requests of group {group}"
        )),
        Ok(approvers) => {
            let rights: Vec<_> = approvers
                .iter()
                .map(|a| format!("certificatesigningrequests/{} ({})", a.subresource, a.why))
                .collect();
            Err(blocks(
                Reason::AutoApproval,
                format!(
                    "the cluster itself would approve certificate requests made with a leaked join token, because \
                     group {group} may create {}: take the group out of that binding",
                    rights.join(" and ")
                ),
            ))
        }
        Err(why) => Err(blocks(
            Reason::AutoApprovalUnknown,
            format!(
                "it cannot be checked that only the reconciler approves certificate requests of group {group}: {why}; \
                 grant create on subjectaccessreviews.authorization.k8s.io"
            ),
        )),
    }
}

fn kubernetes(version: &Result<String, String>) -> Result<String, Finding> {
    match version.as_ref().map(|text| Version::parse(text)) {
        Ok(Some(version)) if version >= KUBERNETES_FLOOR => Ok(format!("Kubernetes {version}")),
        Ok(Some(version)) => Err(blocks(
            Reason::KubernetesTooOld,
            format!(
                "the API server is Kubernetes {version}: upgrade the cluster to {KUBERNETES_FLOOR} or later"
            ),
        )),
        Ok(None) | Err(_) => {
            let (Ok(text) | Err(text)) = version;
            Err(warns(
                Reason::KubernetesVersionUnknown,
                format!(
                    "the API server's version cannot be read ({text}): make sure that it is {KUBERNETES_FLOOR} or \
                     later"
                ),
            ))
        }
    }
}

fn policies(served: &Result<bool, String>) -> Result<String, Finding> {
    match served {
        Ok(true) => Ok("ValidatingAdmissionPolicy v1 is served".to_owned()),
        Ok(false) => Err(blocks(
            Reason::PoliciesNotServed,
            "the API server does not serve ValidatingAdmissionPolicy in admissionregistration.k8s.io/v1, which \
             restricts hostile guests: enable that API"
                .to_owned(),
        )),
        Err(why) => Err(warns(
            Reason::PoliciesUnknown,
            format!("it cannot be checked that ValidatingAdmissionPolicy is served: {why}"),
        )),
    }
}

fn node_restriction(restricts: &Result<bool, String>) -> Result<String, Finding> {
    match restricts {
        Ok(true) => Ok("NodeRestriction keeps kubelets to their own Node".to_owned()),
        Ok(false) => Err(blocks(
            Reason::NodeRestrictionMissing,
            "the API server lets a kubelet set labels that are not its own to set, and change other nodes and their \
             pods: enable the admission plugin NodeRestriction, which restricts hostile guests to their own Node"
                .to_owned(),
        )),
        Err(why) => Err(warns(
            Reason::NodeRestrictionUnknown,
            format!(
                "it cannot be checked that the admission plugin NodeRestriction is enabled: {why}; make sure that it is"
            ),
        )),
    }
}

fn trial(trial: &Trial) -> Result<String, Finding> {
    match trial {
        Trial::Accepted => Ok("KubeVirt accepts the VMs of the present MaroonedPodsConfig".to_owned()),
        Trial::AcceptedRebooting(why) => Ok(format!(
            "KubeVirt accepts the VMs of the present MaroonedPodsConfig; a VM whose guest reboots is only destroyed when \
             its kubelet reports again, because KubeVirt refuses rebootPolicy ({why})"
        )),
        Trial::Refused(why) => Err(blocks(
            Reason::VmRefused,
            format!(
                "KubeVirt refuses the VMs of the present MaroonedPodsConfig: {why}; fix the configuration, or \
                 install KubeVirt {KUBEVIRT_FLOOR} or later"
            ),
        )),
        Trial::NoKubeVirt => Err(blocks(
            Reason::KubeVirtMissing,
            format!("the cluster has no VirtualMachineInstances: install KubeVirt {KUBEVIRT_FLOOR} or later"),
        )),
        Trial::Impossible(why) => Err(warns(
            Reason::VmNotTried,
            format!("a VM could not be tried: {why}"),
        )),
        Trial::NoConfig => Err(warns(
            Reason::VmNotTried,
            "a VM could not be tried: there is no valid MaroonedPodsConfig named \"default\" yet".to_owned(),
        )),
    }
}

fn kubevirt(observed: &Observed) -> Result<String, Finding> {
    let unknown = |what: &str| {
        warns(
            Reason::KubeVirtVersionUnknown,
            format!(
                "KubeVirt's version could not be checked: {what}; make sure that it is {KUBEVIRT_FLOOR} or later"
            ),
        )
    };
    let kubevirts = observed.kubevirts.as_ref().map_err(|why| unknown(why))?;
    let (kubernetes_since, kubevirt_since) = IMAGE_VOLUME_SINCE;
    let kubernetes = observed.kubernetes.as_ref().ok();
    let kubernetes = kubernetes.and_then(|text| Version::parse(text));
    let needs_gate =
        |version| kubernetes.is_some_and(|it| it >= kubernetes_since) && version < kubevirt_since;
    // KubeVirt supports one installation; if there are more, the check covers each.
    let mut good = Vec::new();
    for KubeVirt {
        version,
        has_image_volume,
    } in kubevirts
    {
        let Some(version) = version else {
            return Err(unknown(
                "the KubeVirt resource has no status.observedKubeVirtVersion yet",
            ));
        };
        match Version::parse(version) {
            Some(parsed) if parsed >= KUBEVIRT_FLOOR => {
                if needs_gate(parsed) && !has_image_volume {
                    return Err(warns(
                        Reason::KubeVirtGateMissing,
                        format!(
                            "KubeVirt {version} keeps many VMs Scheduled on Kubernetes {kubernetes_since} and later without \
                             its feature gate {IMAGE_VOLUME}: add that to \
                             spec.configuration.developerConfiguration.featureGates of the KubeVirt resource, or upgrade \
                             KubeVirt to {kubevirt_since} or later"
                        ),
                    ));
                }
                good.push(version.as_str());
            }
            Some(_) => {
                return Err(blocks(
                    Reason::KubeVirtTooOld,
                    format!("KubeVirt is {version}: upgrade it to {KUBEVIRT_FLOOR} or later"),
                ));
            }
            None => return Err(unknown(&format!("status.observedKubeVirtVersion is {version:?}"))),
        }
    }
    if good.is_empty() {
        return Err(unknown("the cluster has no KubeVirt resource"));
    }
    Ok(format!("KubeVirt {}", good.join(", ")))
}

/// The architecture of VMs: the configured one, else that of all hosts if they have one in common, else the default.
#[must_use]
pub fn architecture(
    configured: Option<Architecture>,
    hosts: &Result<BTreeSet<String>, String>,
) -> Architecture {
    let only = hosts.as_ref().ok().filter(|hosts| hosts.len() == 1);
    let common = |hosts: &BTreeSet<String>| {
        Architecture::ALL
            .into_iter()
            .find(|known| hosts.contains(known.as_str()))
    };
    configured.or_else(|| only.and_then(common)).unwrap_or_default()
}

impl Observed {
    /// Architecture of VMs.
    pub fn architecture(&self) -> Architecture {
        architecture(self.configured_architecture, &self.hosts)
    }
}

fn hosts(observed: &Observed) -> Result<String, Finding> {
    let architecture = observed.architecture();
    let names = |hosts: &BTreeSet<String>| hosts.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    match &observed.hosts {
        Ok(hosts) if !hosts.is_empty() && !hosts.contains(architecture.as_str()) => Err(warns(
            Reason::ArchitectureMismatch,
            format!(
                "VMs have the architecture {architecture}, but Nodes that match vm.nodeSelector have {}: set \
                 architecture in the MaroonedPodsConfig, or label hosts for VMs",
                names(hosts)
            ),
        )),
        Ok(hosts) if hosts.len() > 1 && observed.configured_architecture.is_none() => Err(warns(
            Reason::ArchitectureUnknown,
            format!(
                "Nodes that match vm.nodeSelector have several architectures ({}), so VMs have {architecture}: set \
                 architecture in the MaroonedPodsConfig",
                names(hosts)
            ),
        )),
        Ok(_) => Ok(format!("VMs have the architecture {architecture}")),
        Err(why) => Err(warns(
            Reason::ArchitectureUnknown,
            format!("VMs have the architecture {architecture}; the Nodes cannot be listed: {why}"),
        )),
    }
}

/// The address at which guests can reach the cluster's DNS Service: they have IPv4 addresses only.
fn cluster_dns(observed: &Observed) -> Option<String> {
    let addresses = observed.dns.as_ref().ok()?.as_ref()?;
    let is_ipv4 = |address: &&String| address.parse::<Ipv4Addr>().is_ok();
    addresses.iter().find(is_ipv4).cloned()
}

fn dns(observed: &Observed) -> Result<String, Finding> {
    let (namespace, name) = names::CLUSTER_DNS;
    if let Some(address) = cluster_dns(observed) {
        return Ok(format!(
            "guests resolve names at {address} (Service {namespace}/{name})"
        ));
    }
    let why = match &observed.dns {
        Ok(None) => format!("the cluster has no Service {namespace}/{name}"),
        Ok(Some(addresses)) => format!(
            "Service {namespace}/{name} has no IPv4 address ({}), and guests have only IPv4",
            addresses.join(", ")
        ),
        Err(why) => format!("Service {namespace}/{name} cannot be read: {why}"),
    };
    Err(warns(
        Reason::ClusterDnsUnknown,
        format!(
            "guests and their pods cannot resolve names: {why}; set join.clusterDNS to the address of the cluster's DNS \
             Service"
        ),
    ))
}

fn blocks(reason: Reason, message: String) -> Finding {
    Finding {
        reason,
        blocks: true,
        message,
    }
}

fn warns(reason: Reason, message: String) -> Finding {
    Finding {
        reason,
        blocks: false,
        message,
    }
}

#[cfg(test)]
mod tests;
