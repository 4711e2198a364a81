//! Every label, taint, annotation, group and derived name, in one place.
//!
//! Names derive from the pod's UID: such a name cannot be created twice, reused or taken by another pod.

use crate::PodUid;

/// Opt-in label on a pod or a namespace: [`MAROON_TRUE`], [`MAROON_FALSE`] (pods only) or [`MAROON_ENFORCED`]
/// (namespaces only). The webhook copies it to pods that their namespace opted in, so that one label selector
/// finds every marooned pod.
pub const MAROON_LABEL: &str = "maroonedpods.io/maroon";
/// Value of [`MAROON_LABEL`] that opts a pod, or every pod of a namespace, in.
pub const MAROON_TRUE: &str = "true";
/// Value of [`MAROON_LABEL`] by which a pod opts out of its namespace's `"true"`.
pub const MAROON_FALSE: &str = "false";
/// Value of [`MAROON_LABEL`] on a namespace whose pods cannot opt out.
pub const MAROON_ENFORCED: &str = "enforced";

/// The scheduling gate (KEP-3521) that the webhook adds and only the reconciler removes.
pub const GATE: &str = "maroonedpods.io/gate";

/// Scheduler of the pods that the reconciler binds. No scheduler runs under this name.
pub const SCHEDULER_NAME: &str = "maroonedpods";

/// Class selector and node label. Kubelets cannot set labels under `node-restriction.kubernetes.io`
/// (`NodeRestriction` admission), so a lifted pod never lands on an ordinary node.
pub const CLASS_LABEL: &str = "maroonedpods.node-restriction.kubernetes.io/marooned";
/// Value of [`CLASS_LABEL`].
pub const CLASS_LABEL_VALUE: &str = "true";
/// Key of the class taint and of the toleration that the webhook adds.
pub const CLASS_TAINT: &str = "maroonedpods.io/marooned";
/// Value of [`CLASS_TAINT`].
pub const CLASS_TAINT_VALUE: &str = "true";
/// Effects of both the class and the identity taint.
pub const TAINT_EFFECTS: [&str; 2] = ["NoSchedule", "NoExecute"];

/// Identity selector and node label: the UID of the one pod that the Node is for.
pub const IDENTITY_LABEL: &str = "maroonedpods.node-restriction.kubernetes.io/pod-uid";
/// The pod's UID on Nodes, VMIs and Secrets, for people and list calls; never trusted.
pub const POD_UID_LABEL: &str = "maroonedpods.io/pod-uid";
/// Label that names a node. Its value is unique to the node.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// Namespace of the pod, on its record: for people and for counts.
pub const POD_NAMESPACE_LABEL: &str = "maroonedpods.io/pod-namespace";
/// On a VM: what stands for its pod's controller, so that VMs of one controller can keep apart.
pub const OWNER_LABEL: &str = "maroonedpods.io/owner";
/// Taint on a Node until its identity is verified; removed right before the gate is lifted.
pub const STARTUP_TAINT: &str = "maroonedpods.io/starting";

/// Seconds after which a pod leaves a node that is not ready or unreachable, where neither the user nor the
/// cluster's own default (`DefaultTolerationSeconds`) says so.
pub const UNREACHABLE_TOLERATION_SECONDS: i64 = 30;

/// Type of the pod condition that says how far the pod's own node is, and what it waits for.
pub const NODE_READY_CONDITION: &str = "maroonedpods.io/NodeReady";
/// Finalizer on our own record; there is none on a user's object, ever.
pub const FINALIZER: &str = "maroonedpods.io/release";

/// Namespace of VMIs and their join data. Tenants hold no right there.
pub const VM_NAMESPACE: &str = "marooned-vms";
/// Namespace of bootstrap token Secrets, fixed by Kubernetes.
pub const TOKEN_NAMESPACE: &str = "kube-system";
/// Extra group of our bootstrap tokens. Never kubeadm's group, whose CSRs may be approved by others.
pub const BOOTSTRAP_GROUP: &str = "system:bootstrappers:maroonedpods";
/// Prefix of the user that a bootstrap token authenticates as; the token's id follows.
pub const BOOTSTRAP_USER_PREFIX: &str = "system:bootstrap:";
/// Prefix of the user that a kubelet's certificate authenticates as; the Node's name follows.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// Group (organization) of every kubelet.
pub const NODES_GROUP: &str = "system:nodes";

/// Name of a node that does not exist, under which preflight checks whether kubelets are restricted. It has not the form
/// of a marooned node's name, so that none of our guards answers in place of the API server.
pub const PREFLIGHT_NODE: &str = "marooned-preflight";

/// Name of our `MutatingWebhookConfiguration`.
pub const WEBHOOK_CONFIGURATION: &str = "maroonedpods";
/// Name of the one [`crate::api::MaroonedPodsConfig`].
pub const CONFIG_NAME: &str = "default";
/// Default of `spec.taintKey`, the spelling of the original node image.
pub const DEFAULT_TAINT_KEY: &str = "maroonedpods.io";
/// Default of `spec.join.clusterDomain`.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
/// Namespace and name of the Service that most clusters resolve their names by.
pub const CLUSTER_DNS: (&str, &str) = ("kube-system", "kube-dns");
/// Port of the kubelet of a marooned node: an unusual one, so that 10250 stays free for the pod.
pub const KUBELET_PORT: u16 = 65250;
/// Where the guest finds its join data.
pub const JOIN_INFO_PATH: &str = "/etc/marooned/join-info.yaml";
/// Name of the VMI's one interface; its address is looked up by this name, never by position.
pub const VM_INTERFACE: &str = "default";

/// Annotation on a VMI: `<namespace>/<name>` of the pod that it is for. For people.
pub const POD_ANNOTATION: &str = "maroonedpods.io/pod";
/// Annotation on a lifted pod: the address of its Node, which is the pod's own. Its kubelet may report no other.
pub const ADDRESS_ANNOTATION: &str = "maroonedpods.io/address";

const TOKEN_SECRET_PREFIX: &str = "bootstrap-token-";
const PREFIX: &str = "marooned-";
const UID_LENGTH: usize = 36;

/// Name of the record, of the Node and of the first attempt's VMI: `marooned-<pod uid>` (45 characters).
#[must_use]
pub fn node_name(pod_uid: &PodUid) -> String {
    format!("{PREFIX}{pod_uid}")
}

/// Name of the VMI of the given attempt (from 1): the node's name, and `-r<attempt>` from the second on.
#[must_use]
pub fn vmi_name(pod_uid: &PodUid, attempt: u32) -> String {
    if attempt <= 1 {
        node_name(pod_uid)
    } else {
        format!("{PREFIX}{pod_uid}-r{attempt}")
    }
}

/// Name of the join-info Secret of the given attempt (from 1).
#[must_use]
pub fn join_secret_name(pod_uid: &PodUid, attempt: u32) -> String {
    format!("{}-join", vmi_name(pod_uid, attempt))
}

/// Name of the Secret that makes `token_id` a bootstrap token.
#[must_use]
pub fn token_secret_name(token_id: &str) -> String {
    format!("{TOKEN_SECRET_PREFIX}{token_id}")
}

/// The token id inside the name of a bootstrap token's Secret, `None` for another name.
#[must_use]
pub fn token_id_of(secret_name: &str) -> Option<&str> {
    secret_name.strip_prefix(TOKEN_SECRET_PREFIX)
}

/// The pod UID inside any name made by this module, `None` for a foreign name.
#[must_use]
pub fn pod_uid_of(name: &str) -> Option<PodUid> {
    let rest = name.strip_prefix(PREFIX)?;
    let uid = rest.get(..UID_LENGTH)?;
    let suffix = &rest[UID_LENGTH..];
    let is_uid = uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    (is_uid && (suffix.is_empty() || suffix.starts_with('-'))).then(|| uid.into())
}

/// Whether a text is a DNS subdomain in lower case (RFC 1123), Kubernetes' rule for most objects' names.
#[must_use]
pub fn is_dns_subdomain(name: &str) -> bool {
    let is_end = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.len() <= 63
            && bytes.first().copied().is_some_and(is_end)
            && bytes.last().copied().is_some_and(is_end)
            && bytes.iter().all(|&c| is_end(c) || c == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// How the key of every identity taint ends, whatever the configuration's `taintKey` is.
pub const IDENTITY_TAINT_SUFFIX: &str = "/dedicated";

/// Key of the identity taint, `<taintKey>/dedicated`; its value is the pod's UID.
#[must_use]
pub fn identity_taint(taint_key: &str) -> String {
    format!("{taint_key}{IDENTITY_TAINT_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

    #[test]
    fn names_carry_the_uid_and_give_it_back() {
        let uid = PodUid::from(UID);
        assert_eq!(node_name(&uid).len(), 45);
        assert_eq!(vmi_name(&uid, 1), node_name(&uid));
        assert_eq!(vmi_name(&uid, 2), format!("marooned-{UID}-r2"));
        for name in [node_name(&uid), vmi_name(&uid, 3), join_secret_name(&uid, 2)] {
            assert_eq!(pod_uid_of(&name).as_ref(), Some(&uid));
        }
    }

    /// Lengths and forms by which Kubernetes, KubeVirt and people know these names.
    #[test]
    fn names_are_spelt_as_others_expect_them() {
        let uid = PodUid::from(UID);
        assert_eq!(node_name(&uid), format!("marooned-{UID}"));
        assert_eq!(vmi_name(&uid, 0), node_name(&uid));
        assert_eq!(join_secret_name(&uid, 1), format!("marooned-{UID}-join"));
        assert_eq!(join_secret_name(&uid, 12), format!("marooned-{UID}-r12-join"));
        // Kubernetes finds a bootstrap token by the name of its Secret: bootstrap-token-<token id>.
        assert_eq!(token_secret_name("07401b"), "bootstrap-token-07401b");
        assert_eq!(token_id_of("bootstrap-token-07401b"), Some("07401b"));
        assert_eq!(token_id_of("token-07401b"), None);
        assert_eq!(identity_taint("example.org"), "example.org/dedicated");
    }

    /// Objects of an earlier release bear these, as do users' manifests, policies and dashboards: none may change.
    #[test]
    fn what_others_rely_on_stays_as_it_is() {
        assert_eq!(
            [MAROON_LABEL, MAROON_TRUE, MAROON_FALSE, MAROON_ENFORCED],
            ["maroonedpods.io/maroon", "true", "false", "enforced"]
        );
        let restricted = |name: &str| format!("maroonedpods.node-restriction.kubernetes.io/{name}");
        for (name, expected) in [
            (CLASS_LABEL, &*restricted("marooned")),
            (CLASS_LABEL_VALUE, "true"),
            (IDENTITY_LABEL, &restricted("pod-uid")),
            (CLASS_TAINT, "maroonedpods.io/marooned"),
            (CLASS_TAINT_VALUE, "true"),
            (STARTUP_TAINT, "maroonedpods.io/starting"),
            (&identity_taint(DEFAULT_TAINT_KEY), "maroonedpods.io/dedicated"),
            (GATE, "maroonedpods.io/gate"),
            (NODE_READY_CONDITION, "maroonedpods.io/NodeReady"),
            (FINALIZER, "maroonedpods.io/release"),
            (POD_UID_LABEL, "maroonedpods.io/pod-uid"),
            (POD_NAMESPACE_LABEL, "maroonedpods.io/pod-namespace"),
            (OWNER_LABEL, "maroonedpods.io/owner"),
            (SCHEDULER_NAME, "maroonedpods"),
            (POD_ANNOTATION, "maroonedpods.io/pod"),
            (ADDRESS_ANNOTATION, "maroonedpods.io/address"),
            (VM_NAMESPACE, "marooned-vms"),
            (CONFIG_NAME, "default"),
            (WEBHOOK_CONFIGURATION, "maroonedpods"),
            (JOIN_INFO_PATH, "/etc/marooned/join-info.yaml"),
            (BOOTSTRAP_GROUP, "system:bootstrappers:maroonedpods"),
        ] {
            assert_eq!(name, expected);
        }
        assert_eq!(KUBELET_PORT, 65250);
    }

    /// Kubernetes' own names.
    #[test]
    fn what_kubernetes_calls_so_is_called_so() {
        assert_eq!(TAINT_EFFECTS, ["NoSchedule", "NoExecute"]);
        assert_eq!(CLUSTER_DNS, ("kube-system", "kube-dns"));
        for (name, expected) in [
            (HOSTNAME_LABEL, "kubernetes.io/hostname"),
            (TOKEN_NAMESPACE, "kube-system"),
            (BOOTSTRAP_USER_PREFIX, "system:bootstrap:"),
            (NODE_USER_PREFIX, "system:node:"),
            (NODES_GROUP, "system:nodes"),
            (DEFAULT_CLUSTER_DOMAIN, "cluster.local"),
        ] {
            assert_eq!(name, expected);
        }
    }

    #[test]
    fn dns_subdomains_are_distinguished_from_others() {
        let label = "a".repeat(63);
        for good in ["a", "cluster.local", "4-2.x", &label, &[&*label; 3].join(".")] {
            assert!(is_dns_subdomain(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            "a..b",
            "A",
            "-a",
            "a-",
            "a_b",
            "é",
            &"a".repeat(64),
            &vec!["a"; 128].join("."),
        ] {
            assert!(!is_dns_subdomain(bad), "{bad}");
        }
    }

    #[test]
    fn foreign_names_have_no_uid() {
        for name in [
            "",
            "marooned-",
            "marooned-vms",
            "node-1",
            &format!("marooned-{UID}x"),
            "marooned-é",
        ] {
            assert_eq!(pod_uid_of(name), None, "{name}");
        }
    }
}
