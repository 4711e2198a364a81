//! The certificates, keys and kubeconfigs of the components.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::audit;
use super::kubeconfig::{self as kubeconfigs, Credentials};
use crate::system::pki::{self, Authority};
use crate::system::work_folder::WorkFolder;

/// Group of users who may do everything.
pub(super) const MASTERS: &str = "system:masters";

/// Whom API servers behind this one let speak for others. Its certificate is the cluster's, so the group must be nobody's.
const FRONT_PROXY: &str = "front-proxy-client";

/// Writes what the components find in their folder.
pub(super) fn write(
    folder: &WorkFolder,
    authority: &Authority,
    server_url: &str,
    address: Ipv4Addr,
) -> Result<()> {
    let (tokens_public, tokens_private) = pki::key_pair()?;
    let root = authority.pair();
    let address = address.to_string();
    let names = [
        address.as_str(),
        "10.96.0.1",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ];
    let server = authority.server(&names)?;
    let kubelet_client = authority.client("kube-apiserver-kubelet-client", MASTERS)?;
    let front_proxy = authority.client(FRONT_PROXY, FRONT_PROXY)?;
    for (name, content) in [
        ("ca.crt", root.certificate.as_str()),
        ("ca.key", &root.key),
        ("apiserver.crt", &server.certificate),
        ("apiserver.key", &server.key),
        ("kubelet-client.crt", &kubelet_client.certificate),
        ("kubelet-client.key", &kubelet_client.key),
        ("front-proxy.crt", &front_proxy.certificate),
        ("front-proxy.key", &front_proxy.key),
        ("tokens.pub", &tokens_public),
        ("tokens.key", &tokens_private),
        ("audit-policy.yaml", audit::POLICY),
    ] {
        folder.write(name, content)?;
    }
    for (name, user) in [
        ("controller-manager.kubeconfig", "system:kube-controller-manager"),
        ("scheduler.kubeconfig", "system:kube-scheduler"),
    ] {
        folder.write(name, &kubeconfig(authority, server_url, user, user)?)?;
    }
    Ok(())
}

/// A kubeconfig with a new client certificate for `user` in `group`.
pub(super) fn kubeconfig(authority: &Authority, server_url: &str, user: &str, group: &str) -> Result<String> {
    let pair = authority.client(user, group)?;
    Ok(kubeconfigs::render(
        server_url,
        &authority.pem(),
        &Credentials::Certificate(&pair),
    ))
}
