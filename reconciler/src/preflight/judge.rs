//! The verdict on what was observed.

use maroonedpods_common::names;

use super::Finding;
use super::version::Version;

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
    // A KubeVirt that is not there has no version.
    if observed.trial != Trial::NoKubeVirt {
        checks.push(kubevirt(&observed.kubevirts));
    }
    checks
}

/// Everything that is wrong, what blocks first.
#[must_use]
pub fn judge(observed: &Observed) -> Vec<Finding> {
    let mut findings: Vec<_> = checks(observed).into_iter().filter_map(Result::err).collect();
    findings.sort_by_key(|finding| !finding.blocks);
    findings
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
                "AutoApproval",
                format!(
                    "the cluster itself would approve certificate requests made with a leaked join token, because \
                     group {group} may create {}: take the group out of that binding",
                    rights.join(" and ")
                ),
            ))
        }
        Err(why) => Err(blocks(
            "AutoApprovalUnknown",
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
            "KubernetesTooOld",
            format!(
                "the API server is Kubernetes {version}: upgrade the cluster to {KUBERNETES_FLOOR} or later"
            ),
        )),
        Ok(None) | Err(_) => {
            let (Ok(said) | Err(said)) = version;
            Err(warns(
                "KubernetesVersionUnknown",
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
            "PoliciesNotServed",
            "the API server does not serve ValidatingAdmissionPolicy in admissionregistration.k8s.io/v1, which \
             holds hostile guests in check: enable that API"
                .to_owned(),
        )),
        Err(why) => Err(warns(
            "PoliciesUnknown",
            format!("it cannot be checked that ValidatingAdmissionPolicy is served: {why}"),
        )),
    }
}

fn node_restriction(restricts: &Result<bool, String>) -> Result<String, Finding> {
    match restricts {
        Ok(true) => Ok("NodeRestriction keeps kubelets to their own Node".to_owned()),
        Ok(false) => Err(blocks(
            "NodeRestrictionMissing",
            "the API server lets a kubelet set labels that are not its own to set, and change other nodes and their \
             pods: enable the admission plugin NodeRestriction, which holds hostile guests to their own Node"
                .to_owned(),
        )),
        Err(why) => Err(warns(
            "NodeRestrictionUnknown",
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
            "VMRefused",
            format!(
                "KubeVirt refuses the VMs of the present MaroonedPodsConfig: {why}; mend the configuration, or \
                 install KubeVirt {KUBEVIRT_FLOOR} or later"
            ),
        )),
        Trial::NoKubeVirt => Err(blocks(
            "KubeVirtMissing",
            format!("the cluster has no VirtualMachineInstances: install KubeVirt {KUBEVIRT_FLOOR} or later"),
        )),
        Trial::Impossible(why) => Err(warns("VMNotTried", format!("a VM could not be tried: {why}"))),
        Trial::NoConfig => Err(warns(
            "VMNotTried",
            "a VM could not be tried: there is no valid MaroonedPodsConfig named \"default\" yet".to_owned(),
        )),
    }
}

fn kubevirt(versions: &Result<Vec<Option<String>>, String>) -> Result<String, Finding> {
    let unknown = |what: &str| {
        warns(
            "KubeVirtVersionUnknown",
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
                    "KubeVirtTooOld",
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

fn blocks(reason: &'static str, message: String) -> Finding {
    Finding {
        reason,
        blocks: true,
        message,
    }
}

fn warns(reason: &'static str, message: String) -> Finding {
    Finding {
        reason,
        blocks: false,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Break = Box<dyn Fn(&mut Observed)>;

    fn good() -> Observed {
        Observed {
            approvers: Ok(Vec::new()),
            kubernetes: Ok("1.36".to_owned()),
            policies: Ok(true),
            node_restriction: Ok(true),
            kubevirts: Ok(vec![Some("v1.9.0".to_owned())]),
            trial: Trial::Accepted,
        }
    }

    #[test]
    fn a_good_cluster_gives_no_finding() {
        assert_eq!(judge(&good()), []);
        let at_the_floors = Observed {
            kubernetes: Ok("1.30+".to_owned()),
            kubevirts: Ok(vec![Some("v1.7.0".to_owned())]),
            ..good()
        };
        assert_eq!(judge(&at_the_floors), []);
        let well: Vec<_> = checks(&good()).into_iter().map(Result::unwrap).collect();
        assert_eq!(well[1], "Kubernetes 1.36");
        assert_eq!(well[5], "KubeVirt v1.9.0");
    }

    #[test]
    fn each_fault_is_found_alone_and_says_what_it_is() {
        let why = || "forbidden".to_owned();
        let approver = Approver {
            subresource: "nodeclient",
            why: "allowed by ClusterRoleBinding \"x\"".to_owned(),
        };
        let cases: Vec<(Break, &str, bool, &str)> = vec![
            (
                Box::new(move |o| o.approvers = Ok(vec![approver.clone()])),
                "AutoApproval",
                true,
                "certificatesigningrequests/nodeclient (allowed by ClusterRoleBinding \"x\")",
            ),
            (
                Box::new(move |o| o.approvers = Err(why())),
                "AutoApprovalUnknown",
                true,
                "forbidden",
            ),
            (
                Box::new(|o| o.kubernetes = Ok("1.29".to_owned())),
                "KubernetesTooOld",
                true,
                "is Kubernetes 1.29: upgrade the cluster to 1.30",
            ),
            (
                Box::new(|o| o.kubernetes = Ok("?".to_owned())),
                "KubernetesVersionUnknown",
                false,
                "1.30",
            ),
            (
                Box::new(|o| o.policies = Ok(false)),
                "PoliciesNotServed",
                true,
                "admissionregistration.k8s.io/v1",
            ),
            (
                Box::new(move |o| o.policies = Err(why())),
                "PoliciesUnknown",
                false,
                "forbidden",
            ),
            (
                Box::new(|o| o.node_restriction = Ok(false)),
                "NodeRestrictionMissing",
                true,
                "enable the admission plugin NodeRestriction",
            ),
            (
                Box::new(move |o| o.node_restriction = Err(why())),
                "NodeRestrictionUnknown",
                false,
                "forbidden",
            ),
            (
                Box::new(|o| o.trial = Trial::Refused("unknown field".to_owned())),
                "VMRefused",
                true,
                "unknown field",
            ),
            (
                Box::new(|o| o.trial = Trial::Impossible("quota".to_owned())),
                "VMNotTried",
                false,
                "quota",
            ),
            (
                Box::new(|o| o.trial = Trial::NoConfig),
                "VMNotTried",
                false,
                "MaroonedPodsConfig",
            ),
            (
                Box::new(|o| o.kubevirts = Ok(vec![Some("v1.6.3".to_owned())])),
                "KubeVirtTooOld",
                true,
                "KubeVirt is v1.6.3: upgrade it to 1.7",
            ),
            (
                Box::new(|o| o.kubevirts = Ok(vec![Some("devel".to_owned())])),
                "KubeVirtVersionUnknown",
                false,
                "devel",
            ),
            (
                Box::new(|o| o.kubevirts = Ok(vec![None])),
                "KubeVirtVersionUnknown",
                false,
                "observedKubeVirtVersion",
            ),
            (
                Box::new(|o| o.kubevirts = Ok(Vec::new())),
                "KubeVirtVersionUnknown",
                false,
                "no KubeVirt resource",
            ),
        ];
        for (break_it, reason, blocks, part) in cases {
            let mut observed = good();
            break_it(&mut observed);
            let findings = judge(&observed);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!((findings[0].reason, findings[0].blocks), (reason, blocks));
            assert!(findings[0].message.contains(part), "{}", findings[0].message);
        }
    }

    #[test]
    fn what_blocks_comes_first_and_a_missing_kubevirt_has_no_version() {
        let observed = Observed {
            kubernetes: Err("no".to_owned()),
            kubevirts: Err("no".to_owned()),
            trial: Trial::NoKubeVirt,
            ..good()
        };
        let findings = judge(&observed);
        let reasons: Vec<_> = findings.iter().map(|f| f.reason).collect();
        assert_eq!(reasons, ["KubeVirtMissing", "KubernetesVersionUnknown"]);
    }
}
