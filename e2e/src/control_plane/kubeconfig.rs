//! Kubeconfig files and the clients made of them.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::system::pki::Pair;

/// What a client proves its identity with.
pub(crate) enum Credentials<'a> {
    Certificate(&'a Pair),
    Token(&'a str),
}

/// A self-contained kubeconfig: YAML, in the JSON subset.
pub(crate) fn render(server: &str, ca: &str, credentials: &Credentials<'_>) -> String {
    let user: Value = match credentials {
        Credentials::Certificate(pair) => json!({
            "client-certificate-data": STANDARD.encode(&pair.certificate),
            "client-key-data": STANDARD.encode(&pair.key),
        }),
        Credentials::Token(token) => json!({ "token": token }),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "control-plane",
            "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca)},
        }],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "control-plane", "context": {"cluster": "control-plane", "user": "user"}}],
        "current-context": "control-plane",
    });
    format!("{config:#}\n")
}

/// A client of its own, with its own connections, on the calling async runtime.
pub(crate) async fn client(kubeconfig: &str) -> Result<Client> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

/// What [`client`] makes a client of.
pub(crate) async fn config(kubeconfig: &str) -> Result<Config> {
    let options = KubeConfigOptions::default();
    Ok(Config::from_custom_kubeconfig(Kubeconfig::from_yaml(kubeconfig)?, &options).await?)
}
