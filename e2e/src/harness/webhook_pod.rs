//! Our webhook behind the chart's Service: each in this process, each with the Secret mounted and an `EndpointSlice` of its
//! own, so that the API server and the reconciler find it as they find a pod.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use maroonedpods_reconciler::CERTS_SECRET;
use serde_json::json;

use crate::harness::secret_volume::SecretVolume;
use crate::harness::test_env::Running;
use crate::install::SYSTEM_NAMESPACE;

const SERVICE: &str = "maroonedpods-webhook";
const PORT_NAME: &str = "https";

/// One webhook that serves behind the Service.
pub struct WebhookPod {
    /// The server.
    pub serving: Running,
    _volume: SecretVolume,
}

impl WebhookPod {
    /// Waits for the Secret, starts the webhook and adds it to the Service. Changes of the Secret reach it `lag`
    /// later.
    pub async fn start(client: &Client, name: &str, lag: Duration) -> Result<Self> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let volume = SecretVolume::mount(secrets, CERTS_SECRET, lag).await?;
        let bind = SocketAddr::new(own_address()?, 0);
        let (address, serving) = Running::webhook(bind, volume.path(), Duration::from_millis(50)).await?;
        join_service(client, name, address).await?;
        Ok(Self {
            serving,
            _volume: volume,
        })
    }
}

async fn join_service(client: &Client, name: &str, address: SocketAddr) -> Result<()> {
    let name = format!("{SERVICE}-{name}");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/service-name": SERVICE,
            "endpointslice.kubernetes.io/managed-by": "maroonedpods-e2e",
        }},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": [{"name": PORT_NAME, "port": address.port(), "protocol": "TCP"}],
        "endpoints": [{
            "addresses": [address.ip().to_string()],
            "conditions": {"ready": true, "serving": true},
        }],
    });
    let params = PatchParams::apply("maroonedpods-e2e").force();
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    slices.patch(&name, &params, &Patch::Apply(slice)).await?;
    Ok(())
}

/// An address of this machine. An `EndpointSlice` takes none of loopback.
fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // No packet is sent: this asks the routing table for the address that one would come from.
    socket
        .connect("198.51.100.1:9")
        .context("this machine has no route, hence no address to serve on but loopback")?;
    let address = socket.local_addr()?.ip();
    ensure!(!address.is_loopback(), "this machine has no address but loopback");
    Ok(address)
}
