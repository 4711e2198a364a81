//! What a kubelet waits for on its own Node.

use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

/// Waits until its cloud provider, which is the reconciler for a guest, has given the Node an `InternalIP`.
pub(super) async fn internal_ip(node: &watch::Receiver<Option<Node>>) -> String {
    let address = |node: &Option<Node>| {
        let addresses = node.as_ref()?.status.as_ref()?.addresses.as_ref()?;
        let internal = addresses.iter().find(|a| a.type_ == "InternalIP")?;
        Some(internal.address.clone())
    };
    let mut node = node.clone();
    let found = node
        .wait_for(|node| address(node).is_some())
        .await
        .ok()
        .and_then(|node| address(&node));
    match found {
        Some(address) => address,
        None => std::future::pending().await,
    }
}
