//! The cluster's DNS Service, which nearly every cluster has, and `CoreDNS` behind it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;
use kube::Client;
use maroonedpods_common::names;
use maroonedpods_image_build::oci::{Files, Image};
use serde_json::json;

use crate::api::apply::{apply, apply_yaml};
use crate::cluster::{DNS_ADDRESS, REAL_LABEL};
use crate::system::tools::{self, Tool};

/// Where the pods behind it listen: no right is needed for that.
const PORT: u16 = 5353;
/// The label of those pods.
const LABEL: (&str, &str) = ("k8s-app", "kube-dns");
/// The image's name on the nodes.
const IMAGE: &str = "localhost/coredns:1";
/// Of the pods, their account, its role and their configuration.
const NAME: &str = "coredns";

/// Makes the Service as kubeadm does. [`serve`] makes a pod behind it.
pub async fn make_service(admin: &Client) -> Result<()> {
    let (namespace, name) = names::CLUSTER_DNS;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "labels": {LABEL.0: LABEL.1}},
        "spec": {
            "clusterIP": DNS_ADDRESS,
            "selector": {LABEL.0: LABEL.1},
            "ports": [
                {"name": "dns", "port": 53, "targetPort": PORT, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "targetPort": PORT, "protocol": "TCP"},
            ],
        },
    });
    apply_yaml(admin, &service.to_string()).await
}

/// Writes `CoreDNS`' image into `folder`, as an OCI archive for [`crate::cluster::Cluster::import`]. Blocks.
///
/// # Errors
/// The program does not build.
pub fn image(folder: &Path) -> Result<PathBuf> {
    let mut files = Files::default();
    files.file("/coredns", 0o755, fs::read(tools::find(Tool::CoreDns)?)?)?;
    let image = Image {
        name: IMAGE.to_owned(),
        files,
        entrypoint: vec!["/coredns".to_owned()],
        user: "65532:65532".to_owned(),
        env: Vec::new(),
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    let path = folder.join("coredns.tar");
    fs::write(&path, image.archive()?.bytes)?;
    Ok(path)
}

/// Makes a pod of `CoreDNS` on a real node, with the rights and the configuration that kubeadm gives it, for the names of
/// this domain. It does not wait until names are answered.
pub async fn serve(admin: &Client, domain: &str) -> Result<()> {
    let (namespace, _) = names::CLUSTER_DNS;
    let named = json!({"namespace": namespace, "name": NAME});
    let corefile = format!(
        ".:{PORT} {{\n  errors\n  ready\n  kubernetes {domain} in-addr.arpa ip6.arpa {{\n    ttl 5\n  }}\n}}\n"
    );
    let objects = json!([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {"Corefile": corefile}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": NAME},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": NAME},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": NAME}],
        },
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": named,
            "spec": {"selector": {"matchLabels": {LABEL.0: LABEL.1}}, "template": {
                "metadata": {"labels": {LABEL.0: LABEL.1}},
                "spec": {
                    "serviceAccountName": NAME,
                    "nodeSelector": {REAL_LABEL: "true"},
                    "containers": [{
                        "name": "coredns", "image": IMAGE, "imagePullPolicy": "Never",
                        "args": ["-conf", "/etc/coredns/Corefile"],
                        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
                    }],
                    "volumes": [{"name": "config", "configMap": {"name": NAME}}],
                },
            }},
        },
    ]);
    apply(admin, serde_json::from_value(objects)?).await
}
