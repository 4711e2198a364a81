//! The kubelet's files and arguments: its configuration, how it first connects, and its pods' resolver.

use maroonedpods_common::join_info::JoinInfo;
use serde_json::json;
use serde_yaml_ng::Error;

use crate::paths;

/// The bootstrap kubeconfig: the server, and the token to ask it for a certificate with.
pub fn bootstrap_kubeconfig(info: &JoinInfo) -> Result<String, Error> {
    serde_yaml_ng::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "cluster",
            "cluster": {"server": info.server_url, "certificate-authority": paths::CA},
        }],
        "users": [{"name": "bootstrap", "user": {"token": info.token.reveal()}}],
        "contexts": [{"name": "bootstrap", "context": {"cluster": "cluster", "user": "bootstrap"}}],
        "current-context": "bootstrap",
    }))
}

/// The `KubeletConfiguration`.
pub fn configuration(info: &JoinInfo) -> Result<String, Error> {
    let settings = &info.kubelet;
    let dns: Vec<&String> = info.cluster_dns.iter().collect();
    let mut configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // The Node is there already, made by the reconciler; a guest may not make one.
        "registerNode": false,
        "serverTLSBootstrap": true,
        "rotateCertificates": true,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": paths::CA},
        },
        "authorization": {"mode": "Webhook"},
        // The only port of the guest that is not the pod's.
        "port": settings.port,
        "healthzPort": 0,
        "containerRuntimeEndpoint": format!("unix://{}", paths::CONTAINERD_SOCKET),
        "cgroupDriver": "cgroupfs",
        // Pods with a subdomain are named by it, whether or not there is a name server.
        "clusterDomain": info.cluster_domain,
        "failSwapOn": false,
        "resolvConf": paths::RESOLV_CONF,
        "systemReserved": {
            "cpu": format!("{}m", settings.reserved_cpu_milli),
            "memory": format!("{}Mi", settings.reserved_memory_mi),
        },
        "evictionHard": {
            "memory.available": format!("{}Mi", settings.eviction_memory_mi),
            "nodefs.available": "5%",
            "imagefs.available": "5%",
        },
        // By default below /usr, which is read-only in the guest.
        "volumePluginDir": format!("{}/volumeplugins", paths::KUBELET_FOLDER),
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 3,
        // All that belong to the pod's own namespaces: they are called unsafe for the sake of other pods, and there are none.
        "allowedUnsafeSysctls": ["kernel.msg*", "kernel.sem", "kernel.shm*", "fs.mqueue.*", "net.*"],
    });
    if !dns.is_empty() {
        configuration["clusterDNS"] = json!(dns);
    }
    serde_yaml_ng::to_string(&configuration)
}

/// The kubelet's arguments. No `--node-ip`: the addresses are on the Node already.
#[must_use]
pub fn arguments(info: &JoinInfo) -> Vec<String> {
    vec![
        format!("--config={}", paths::KUBELET_CONFIG),
        format!("--bootstrap-kubeconfig={}", paths::BOOTSTRAP_KUBECONFIG),
        format!("--kubeconfig={}", paths::KUBECONFIG),
        format!("--hostname-override={}", info.node_name),
        "--cloud-provider=external".to_owned(),
        "--v=0".to_owned(),
    ]
}

/// The arguments as an environment file, for a systemd unit. None has a space or a quote in it.
#[must_use]
pub fn environment(info: &JoinInfo) -> String {
    format!("KUBELET_ARGS=\"{}\"\n", arguments(info).join(" "))
}

/// The resolver configuration of the guest and of pods that ask for the node's: the cluster's server, or none at all.
#[must_use]
pub fn resolv_conf(info: &JoinInfo) -> String {
    let line = |dns: &String| format!("nameserver {dns}\n");
    info.cluster_dns.as_ref().map(line).unwrap_or_default()
}
