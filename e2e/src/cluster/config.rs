//! The configuration files of a node's programs.

use std::net::Ipv4Addr;
use std::path::Path;

use maroonedpods_image_build::sandbox::SANDBOX_IMAGE;
use serde_json::{Value, json};

use super::{CLUSTER_DOMAIN, DNS_ADDRESS};

/// What the node resolves names by, a file in the node's folder.
pub(super) const RESOLVER: &str = "resolv.conf";
/// What containerd keeps, a folder in the node's folder.
pub(super) const CONTAINERD_ROOT: &str = "containerd";
/// containerd's socket, as a node sees it.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";

/// containerd's: everything that it writes is in `folder` or below `/run`.
pub(super) fn containerd(folder: &Path, shim: &Path, runc: &Path, cni: &Path) -> String {
    let [folder, shim, runc, cni] = [folder, shim, runc, cni].map(Path::display);
    format!(
        "version = 4
root = '{folder}/{CONTAINERD_ROOT}'
state = '/run/containerd'
temp = '{folder}/tmp'
imports = []
# Not used, and each complains where the machine lacks something.
disabled_plugins = [
  'io.containerd.nri.v1.nri',
  'io.containerd.differ.v1.erofs',
  'io.containerd.snapshotter.v1.blockfile',
  'io.containerd.snapshotter.v1.btrfs',
  'io.containerd.snapshotter.v1.devmapper',
  'io.containerd.snapshotter.v1.erofs',
  'io.containerd.snapshotter.v1.zfs',
]
[plugins.'io.containerd.internal.v1.opt']
  path = '{folder}/opt'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{SANDBOX_IMAGE}'
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE, as in many containers, root may not lower it, and no pod would start.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{cni}']
  conf_dir = '{folder}/cni'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
  runtime_path = '{shim}'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = '{runc}'
"
    )
}

/// The pod network's, for the CNI plugins `bridge` and `host-local`.
pub(super) fn pod_network(range: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "pods",
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-addresses",
                "ranges": [[{"subnet": range}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

/// The kubelet's, a `KubeletConfiguration`; the certificates are in `folder`.
pub(super) fn kubelet(folder: &Path, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": folder.join("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": folder.join("kubelet.crt"),
        "tlsPrivateKeyFile": folder.join("kubelet.key"),
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        // It then only looks at the kernel's settings, which are the machine's.
        "protectKernelDefaults": true,
        "volumePluginDir": folder.join("volume-plugins"),
        // The machine's servers cannot be reached. Without a server, pods would be told to search in ".".
        "resolvConf": folder.join(RESOLVER),
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        // Pods must not be evicted because the machine's disk is full.
        "evictionHard": {
            "imagefs.available": "0%", "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "2s",
    })
}

/// kube-proxy's, a `KubeProxyConfiguration`.
pub(super) fn kube_proxy(folder: &Path, node: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": folder.join("kube-proxy.kubeconfig")},
        "hostnameOverride": node,
        // A pod answers another one on its node past the node's rules, unless the machine has br_netfilter: so to
        // the answering pod, every call through a Service comes from the node.
        "iptables": {"masqueradeAll": true},
        // The table of connections is the machine's: its size is left alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}
