//! Each fault alone, and a cluster without faults.

use super::*;

type Break = Box<dyn Fn(&mut Observed)>;

fn version(version: &str) -> Vec<KubeVirt> {
    vec![KubeVirt {
        version: Some(version.to_owned()),
        has_image_volume: false,
    }]
}

fn good() -> Observed {
    Observed {
        approvers: Ok(Vec::new()),
        kubernetes: Ok("1.36".to_owned()),
        policies: Ok(true),
        node_restriction: Ok(true),
        kubevirts: Ok(version("v1.9.0")),
        trial: Trial::Accepted,
        hosts: Ok(["amd64".to_owned()].into()),
        configured_architecture: None,
        needs_dns: true,
        dns: Ok(Some(vec!["10.96.0.10".to_owned()])),
    }
}

#[test]
fn a_good_cluster_gives_no_finding() {
    assert!(decide(&good()).findings().is_empty());
    let at_the_floors = Observed {
        kubernetes: Ok("1.30+".to_owned()),
        kubevirts: Ok(version("v1.7.0")),
        ..good()
    };
    assert!(decide(&at_the_floors).findings().is_empty());
    let with_the_gate = Observed {
        kubevirts: Ok(vec![KubeVirt {
            version: Some("v1.8.2".to_owned()),
            has_image_volume: true,
        }]),
        ..good()
    };
    assert!(decide(&with_the_gate).findings().is_empty());
    let well: Vec<_> = checks(&good()).into_iter().map(Result::unwrap).collect();
    assert_eq!(well[1], "Kubernetes 1.36");
    assert_eq!(
        well[6],
        "guests resolve names at 10.96.0.10 (Service kube-system/kube-dns)"
    );
    assert_eq!(well[7], "KubeVirt v1.9.0");
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a table of one line or three for each fault"
)]
fn each_fault_alone_gives_one_finding_that_names_it() {
    let why = || "forbidden".to_owned();
    let approver = Approver {
        subresource: "nodeclient",
        why: "allowed by ClusterRoleBinding \"x\"".to_owned(),
    };
    let cases: Vec<(Break, Reason, bool, &str)> = vec![
        (
            Box::new(move |o| o.approvers = Ok(vec![approver.clone()])),
            Reason::AutoApproval,
            true,
            "certificatesigningrequests/nodeclient (allowed by ClusterRoleBinding \"x\")",
        ),
        (
            Box::new(move |o| o.approvers = Err(why())),
            Reason::AutoApprovalUnknown,
            true,
            "forbidden",
        ),
        (
            Box::new(|o| o.kubernetes = Ok("1.29".to_owned())),
            Reason::KubernetesTooOld,
            true,
            "is Kubernetes 1.29: upgrade the cluster to 1.30",
        ),
        (
            Box::new(|o| o.kubernetes = Ok("?".to_owned())),
            Reason::KubernetesVersionUnknown,
            false,
            "1.30",
        ),
        (
            Box::new(|o| {
                o.configured_architecture = Some(Architecture::Amd64);
                o.hosts = Ok(["arm64".to_owned()].into());
            }),
            Reason::ArchitectureMismatch,
            false,
            "set architecture",
        ),
        (
            Box::new(|o| o.hosts = Ok(["amd64", "arm64"].map(str::to_owned).into())),
            Reason::ArchitectureUnknown,
            false,
            "several architectures (amd64, arm64)",
        ),
        (
            Box::new(move |o| o.hosts = Err(why())),
            Reason::ArchitectureUnknown,
            false,
            "cannot be listed: forbidden",
        ),
        (
            Box::new(|o| o.policies = Ok(false)),
            Reason::PoliciesNotServed,
            true,
            "admissionregistration.k8s.io/v1",
        ),
        (
            Box::new(move |o| o.policies = Err(why())),
            Reason::PoliciesUnknown,
            false,
            "forbidden",
        ),
        (
            Box::new(|o| o.node_restriction = Ok(false)),
            Reason::NodeRestrictionMissing,
            true,
            "enable the admission plugin NodeRestriction",
        ),
        (
            Box::new(move |o| o.node_restriction = Err(why())),
            Reason::NodeRestrictionUnknown,
            false,
            "forbidden",
        ),
        (
            Box::new(|o| o.trial = Trial::Refused("unknown field".to_owned())),
            Reason::VmRefused,
            true,
            "unknown field",
        ),
        (
            Box::new(|o| o.trial = Trial::Impossible("quota".to_owned())),
            Reason::VmNotTried,
            false,
            "quota",
        ),
        (
            Box::new(|o| o.trial = Trial::NoConfig),
            Reason::VmNotTried,
            false,
            "MaroonedPodsConfig",
        ),
        (
            Box::new(|o| o.dns = Ok(None)),
            Reason::ClusterDnsUnknown,
            false,
            "no Service kube-system/kube-dns; set join.clusterDNS",
        ),
        (
            Box::new(|o| o.dns = Ok(Some(vec!["fd00::a".to_owned()]))),
            Reason::ClusterDnsUnknown,
            false,
            "no IPv4 address (fd00::a)",
        ),
        (
            Box::new(move |o| o.dns = Err(why())),
            Reason::ClusterDnsUnknown,
            false,
            "forbidden",
        ),
        (
            Box::new(|o| o.kubevirts = Ok(version("v1.6.3"))),
            Reason::KubeVirtTooOld,
            true,
            "KubeVirt is v1.6.3: upgrade it to 1.7",
        ),
        (
            Box::new(|o| o.kubevirts = Ok(version("v1.8.2"))),
            Reason::KubeVirtGateMissing,
            false,
            "feature gate ImageVolume",
        ),
        (
            Box::new(|o| o.kubevirts = Ok(version("devel"))),
            Reason::KubeVirtVersionUnknown,
            false,
            "devel",
        ),
        (
            Box::new(|o| o.kubevirts = Ok(vec![KubeVirt::default()])),
            Reason::KubeVirtVersionUnknown,
            false,
            "observedKubeVirtVersion",
        ),
        (
            Box::new(|o| o.kubevirts = Ok(Vec::new())),
            Reason::KubeVirtVersionUnknown,
            false,
            "no KubeVirt resource",
        ),
    ];
    for (break_it, reason, blocks, part) in cases {
        let mut observed = good();
        break_it(&mut observed);
        let decision = decide(&observed);
        let findings = decision.findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!((findings[0].reason, findings[0].blocks), (reason, blocks));
        assert!(findings[0].message.contains(part), "{}", findings[0].message);
    }
}

#[test]
fn the_dns_service_is_checked_only_without_a_configured_address_and_for_ipv4() {
    let configured = Observed {
        needs_dns: false,
        dns: Ok(None),
        ..good()
    };
    assert_eq!(
        (decide(&configured).findings(), cluster_dns(&configured)),
        ([].as_slice(), None)
    );
    let both = Observed {
        dns: Ok(Some(vec!["fd00::a".to_owned(), "10.96.0.10".to_owned()])),
        ..good()
    };
    assert_eq!(cluster_dns(&both).as_deref(), Some("10.96.0.10"));
    assert!(decide(&both).findings().is_empty());
}

#[test]
fn blocking_findings_come_first_and_a_missing_kubevirt_has_no_version() {
    let observed = Observed {
        kubernetes: Err("no".to_owned()),
        kubevirts: Err("no".to_owned()),
        trial: Trial::NoKubeVirt,
        ..good()
    };
    let decision = decide(&observed);
    let findings = decision.findings();
    let reasons: Vec<_> = findings.iter().map(|f| f.reason).collect();
    assert_eq!(
        reasons,
        [Reason::KubeVirtMissing, Reason::KubernetesVersionUnknown]
    );
}

#[test]
fn vms_have_the_architecture_that_all_hosts_have() {
    let hosts = |all: &[&str]| Ok(all.iter().map(ToString::to_string).collect());
    assert_eq!(architecture(None, &hosts(&["arm64"])), Architecture::Arm64);
    assert_eq!(
        architecture(Some(Architecture::Amd64), &hosts(&["arm64"])),
        Architecture::Amd64
    );
    for other in [
        hosts(&[]),
        hosts(&["amd64", "arm64"]),
        hosts(&["riscv64"]),
        Err("forbidden".to_owned()),
    ] {
        assert_eq!(architecture(None, &other), Architecture::Amd64, "{other:?}");
    }
}

#[test]
fn hosts_of_several_architectures_or_none_are_no_fault_of_a_configured_one() {
    for (configured, hosts) in [
        (Some(Architecture::Arm64), &["amd64", "arm64"][..]),
        (Some(Architecture::Amd64), &["amd64"]),
        (Some(Architecture::Arm64), &[]),
        (None, &[]),
    ] {
        let observed = Observed {
            configured_architecture: configured,
            hosts: Ok(hosts.iter().map(ToString::to_string).collect()),
            ..good()
        };
        assert!(
            decide(&observed).findings().is_empty(),
            "{configured:?} {hosts:?}"
        );
        assert_eq!(observed.architecture(), configured.unwrap_or_default());
    }
}

#[test]
fn a_reboot_ends_a_vm_only_where_kubevirt_accepted_that() {
    let learned = |trial| {
        let decision = decide(&Observed { trial, ..good() });
        (decision.findings().len(), decision.terminate_on_reboot())
    };
    assert_eq!(learned(Trial::Accepted), (0, Some(true)));
    assert_eq!(
        learned(Trial::AcceptedRebooting("unknown field".to_owned())),
        (0, Some(false))
    );
    assert_eq!(learned(Trial::Impossible("down".to_owned())), (1, None));
    assert_eq!(learned(Trial::Refused("no memory".to_owned())), (1, None));
    assert_eq!(Decision::Unchecked.terminate_on_reboot(), None);
}

/// What KubeVirt accepts is not known then, and the check after the configuration's creation will tell.
#[test]
fn no_vm_is_started_before_a_check_had_a_configuration() {
    let hold = |trial| decide(&Observed { trial, ..good() }).hold();
    assert!(hold(Trial::NoConfig).unwrap().contains("have not been tried yet"));
    assert_eq!(hold(Trial::Impossible("down".to_owned())), None);
}

#[test]
fn what_kubevirt_accepts_is_remembered_while_it_cannot_be_asked() {
    let decided = |trial| decide(&Observed { trial, ..good() });
    let down = || decided(Trial::Impossible("down".to_owned()));
    let accepted = decided(Trial::Accepted);
    let learned = |decision: Decision, former| decision.or_as_formerly(former).terminate_on_reboot();
    assert_eq!(learned(down(), &accepted), Some(true));
    let refused = decided(Trial::AcceptedRebooting("unknown field".to_owned()));
    assert_eq!(learned(refused, &accepted), Some(false));
    assert_eq!(learned(down(), &Decision::Unchecked), None);
}
