//! The decision on what was observed.

use std::net::Ipv4Addr;

use maroonedpods_common::api::ClusterReadyReason as Reason;
use maroonedpods_common::names;

use super::version::Version;
use super::{Decision, Finding};

/// Kubernetes: `ValidatingAdmissionPolicy` is stable since.
const KUBERNETES_FLOOR: Version = Version::new(1, 30);
/// KubeVirt: the oldest that the VM's shape was tried on.
const KUBEVIRT_FLOOR: Version = Version::new(1, 7);

/// The cluster, as far as the checks look at it. An `Err` is the API server's sentence why it would not say.
#[derive(Clone, Debug)]
pub struct Observed {
    /// What would approve certificate requests of our bootstrap group without us.
    pub approvers: Result<Vec<Approver>, String>,
    /// The API server's version, as it gives it.
    pub kubernetes: Result<String, String>,
    /// `ValidatingAdmissionPolicy` v1 is served.
    pub policies: Result<bool, String>,
    /// The admission plugin `NodeRestriction` refused a node's try to set our class label.
    pub node_restriction: Result<bool, String>,
    /// `status.observedKubeVirtVersion` of each KubeVirt resource.
    pub kubevirts: Result<Vec<Option<String>>, String>,
    /// How KubeVirt took a VM of ours that was only tried.
    pub trial: Trial,
    /// Guests are to ask the cluster's own DNS Service, for the configuration names no other.
    pub needs_dns: bool,
    /// Addresses of the cluster's DNS Service; `None` where there is no such Service.
    pub dns: Result<Option<Vec<String>>, String>,
}

/// A right that makes kube-controller-manager approve the certificate requests of who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    /// The subresource of `certificatesigningrequests` that may be created.
    pub subresource: &'static str,
    /// Why, in the authorizer's words.
    pub why: String,
}

/// How KubeVirt took a VM of the present configuration, created with `dryRun=All` and strict field validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It would have been created.
    Accepted,
    /// KubeVirt, or its schema, refused it.
    Refused(String),
    /// It could not be tried; says nothing about the VM.
    Impossible(String),
    /// No configuration is in force yet.
    NoConfig,
    /// `VirtualMachineInstance` is not served.
    NoKubeVirt,
}

/// What each thing that was looked at came to: what is well, or what is wrong with it.
#[must_use]
pub fn checks(observed: &Observed) -> Vec<Result<String, Finding>> {
    let mut checks = vec![
        approval(&observed.approvers),
        kubernetes(&observed.kubernetes),
        policies(&observed.policies),
        node_restriction(&observed.node_restriction),
        trial(&observed.trial),
    ];
    if observed.needs_dns {
        checks.push(dns(observed));
    }
    // A KubeVirt that is not there has no version.
    if observed.trial != Trial::NoKubeVirt {
        checks.push(kubevirt(&observed.kubevirts));
    }
    checks
}

/// Everything that is wrong, what blocks first, and the address of the cluster's DNS Service.
#[must_use]
pub fn decide(observed: &Observed) -> Decision {
    let mut findings: Vec<_> = checks(observed).into_iter().filter_map(Result::err).collect();
    findings.sort_by_key(|finding| !finding.blocks);
    Decision::Checked {
        findings,
        cluster_dns: cluster_dns(observed),
    }
}

fn approval(approvers: &Result<Vec<Approver>, String>) -> Result<String, Finding> {
    let group = names::BOOTSTRAP_GROUP;
    match approvers {
        Ok(approvers) if approvers.is_empty() => Ok(format!(
            "nobody else approves certificate requests of group {group}"
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
                "it cannot be checked that nobody else approves the certificate requests of group {group}: {why}; \
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
            let (Ok(said) | Err(said)) = version;
            Err(warns(
                Reason::KubernetesVersionUnknown,
                format!(
                    "the API server's version cannot be read ({said}): make sure that it is {KUBERNETES_FLOOR} or \
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
             holds hostile guests in check: enable that API"
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
             pods: enable the admission plugin NodeRestriction, which holds hostile guests to their own Node"
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
        Trial::Accepted => Ok("KubeVirt takes the VMs of the present MaroonedPodsConfig".to_owned()),
        Trial::Refused(why) => Err(blocks(
            Reason::VmRefused,
            format!(
                "KubeVirt refuses the VMs of the present MaroonedPodsConfig: {why}; mend the configuration, or \
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

fn kubevirt(versions: &Result<Vec<Option<String>>, String>) -> Result<String, Finding> {
    let unknown = |what: &str| {
        warns(
            Reason::KubeVirtVersionUnknown,
            format!(
                "KubeVirt's version could not be checked: {what}; make sure that it is {KUBEVIRT_FLOOR} or later"
            ),
        )
    };
    let versions = versions.as_ref().map_err(|why| unknown(why))?;
    // KubeVirt supports one; of more, each must do.
    let mut well = Vec::new();
    for said in versions {
        let Some(said) = said else {
            return Err(unknown(
                "the KubeVirt resource has no status.observedKubeVirtVersion yet",
            ));
        };
        match Version::parse(said) {
            Some(version) if version >= KUBEVIRT_FLOOR => well.push(said.as_str()),
            Some(_) => {
                return Err(blocks(
                    Reason::KubeVirtTooOld,
                    format!("KubeVirt is {said}: upgrade it to {KUBEVIRT_FLOOR} or later"),
                ));
            }
            None => return Err(unknown(&format!("status.observedKubeVirtVersion is {said:?}"))),
        }
    }
    if well.is_empty() {
        return Err(unknown("the cluster has no KubeVirt resource"));
    }
    Ok(format!("KubeVirt {}", well.join(", ")))
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
            "guests ask {address} for names (Service {namespace}/{name})"
        ));
    }
    let why = match &observed.dns {
        Ok(None) => format!("the cluster has no Service {namespace}/{name}"),
        Ok(Some(addresses)) => format!(
            "Service {namespace}/{name} has no IPv4 address ({}), and guests have no other",
            addresses.join(", ")
        ),
        Err(why) => format!("Service {namespace}/{name} cannot be read: {why}"),
    };
    Err(warns(
        Reason::ClusterDnsUnknown,
        format!(
            "guests and their pods resolve no names: {why}; set join.clusterDNS to the address of the cluster's DNS \
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
