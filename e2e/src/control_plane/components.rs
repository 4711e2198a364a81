//! The components' command lines. `@` in a flag stands for the control plane's folder.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::Result;
use serde_json::json;

/// The ports that the components listen on.
pub(crate) struct Ports {
    etcd: u16,
    etcd_peer: u16,
    pub(crate) apiserver: u16,
}

impl Ports {
    /// Ports that no program listens on at the moment.
    pub(crate) fn free() -> Result<Self> {
        // Held together, so that the three differ, and released together.
        let listeners = [
            TcpListener::bind("127.0.0.1:0")?,
            TcpListener::bind("127.0.0.1:0")?,
            TcpListener::bind("127.0.0.1:0")?,
        ];
        let [etcd, etcd_peer, apiserver] =
            listeners.map(|listener| listener.local_addr().map(|address| address.port()));
        Ok(Self {
            etcd: etcd?,
            etcd_peer: etcd_peer?,
            apiserver: apiserver?,
        })
    }
}

pub(crate) fn etcd_flags(ports: &Ports) -> Vec<String> {
    let client = format!("http://127.0.0.1:{}", ports.etcd);
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
    vec![
        "--data-dir=@/etcd".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // The data is thrown away with the control plane.
        "--unsafe-no-fsync".to_owned(),
    ]
}

pub(crate) fn apiserver_flags(
    ports: &Ports,
    address: Option<Ipv4Addr>,
    node_restriction: bool,
) -> Vec<String> {
    let mut flags = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
        format!("--secure-port={}", ports.apiserver),
    ];
    match address {
        Some(address) => flags.push(format!("--bind-address={address}")),
        // A loopback address is refused as an endpoint of the `kubernetes` Service, which no client calls where there
        // are no nodes.
        None => {
            flags.extend(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"].map(str::to_owned));
        }
    }
    if node_restriction {
        flags.push("--enable-admission-plugins=NodeRestriction".to_owned());
    }
    flags.extend(
        [
            "--cert-dir=@",
            "--tls-cert-file=@/apiserver.crt",
            "--tls-private-key-file=@/apiserver.key",
            "--client-ca-file=@/ca.crt",
            "--authorization-mode=Node,RBAC",
            "--enable-bootstrap-token-auth",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=@/tokens.pub",
            "--service-account-signing-key-file=@/tokens.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged",
            "--kubelet-client-certificate=@/kubelet-client.crt",
            "--kubelet-client-key=@/kubelet-client.key",
            "--kubelet-certificate-authority=@/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            // For API servers behind this one.
            "--requestheader-client-ca-file=@/ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--proxy-client-cert-file=@/front-proxy.crt",
            "--proxy-client-key-file=@/front-proxy.key",
            // Their Services, and those of webhooks, resolve straight to their pods.
            "--enable-aggregator-routing=true",
            "--audit-policy-file=@/audit-policy.yaml",
            "--audit-log-path=@/audit.log",
            // In MB. At the default the log would be rotated away under a test that counts.
            "--audit-log-maxsize=10000",
        ]
        .map(str::to_owned),
    );
    flags
}

pub(crate) fn controller_manager_flags() -> Vec<String> {
    [
        "--kubeconfig=@/controller-manager.kubeconfig",
        "--secure-port=0",
        "--leader-elect=false",
        "--controllers=*,bootstrapsigner,tokencleaner",
        "--use-service-account-credentials",
        "--service-account-private-key-file=@/tokens.key",
        "--root-ca-file=@/ca.crt",
        "--cluster-signing-cert-file=@/ca.crt",
        "--cluster-signing-key-file=@/ca.key",
        // At the default limits the controllers take 5 s to start.
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]
    .map(str::to_owned)
    .to_vec()
}

pub(crate) fn scheduler_flags() -> Vec<String> {
    ["--config=@/scheduler.json", "--secure-port=0"]
        .map(str::to_owned)
        .to_vec()
}

/// Names by which pods may ask for kube-scheduler are found in no flag.
pub(crate) fn scheduler_config(folder: &Path, other_name: Option<&str>) -> String {
    let names = std::iter::once("default-scheduler").chain(other_name);
    let profiles: Vec<_> = names.map(|name| json!({"schedulerName": name})).collect();
    json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": folder.join("scheduler.kubeconfig")},
        "leaderElection": {"leaderElect": false},
        "profiles": profiles,
    })
    .to_string()
}
