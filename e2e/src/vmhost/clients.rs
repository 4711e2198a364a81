//! Clients that have nothing but what a guest has.

use anyhow::{Context, Result};
use kube::{Client, Config};
use kube::config::{AuthInfo, Cluster, Context as KubeContext, KubeConfigOptions, Kubeconfig, NamedAuthInfo};
use kube::config::{NamedCluster, NamedContext};
use maroonedpods_common::join_info::JoinInfo;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Speaks with the bootstrap token.
pub(super) async fn with_token(info: &JoinInfo) -> Result<Client> {
    let user = AuthInfo { token: Some(info.token.reveal().to_owned().into()), ..AuthInfo::default() };
    client(info, user).await
}

/// Speaks with a client certificate.
pub(super) async fn with_certificate(info: &JoinInfo, certificate: &[u8], key: &str) -> Result<Client> {
    let user = AuthInfo {
        client_certificate_data: Some(STANDARD.encode(certificate)),
        client_key_data: Some(STANDARD.encode(key).into()),
        ..AuthInfo::default()
    };
    client(info, user).await
}

async fn client(info: &JoinInfo, user: AuthInfo) -> Result<Client> {
    let name = "guest".to_owned();
    let cluster = Cluster {
        server: Some(info.server_url.clone()),
        certificate_authority_data: Some(STANDARD.encode(&info.ca)),
        ..Cluster::default()
    };
    let context = KubeContext { cluster: name.clone(), user: Some(name.clone()), ..KubeContext::default() };
    let kubeconfig = Kubeconfig {
        clusters: vec![NamedCluster { name: name.clone(), cluster: Some(cluster) }],
        auth_infos: vec![NamedAuthInfo { name: name.clone(), auth_info: Some(user) }],
        contexts: vec![NamedContext { name: name.clone(), context: Some(context) }],
        current_context: Some(name),
        ..Kubeconfig::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Client::try_from(config).context("a guest's client")
}
