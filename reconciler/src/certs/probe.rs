//! Asks webhook pods for their certificate, as an API server does.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::pair::Bundle;

/// Name of the webhook's port in its Service.
const PORT_NAME: &str = "https";
/// Longest wait for one handshake.
const PATIENCE: Duration = Duration::from_secs(3);

/// The pods behind the slices that a client would refuse if it trusted only `trust`, each with the reason. A pod that
/// cannot be reached is among them: it may be back at any time, with the pair that it served.
///
/// Pods that are not ready are asked as well: they may be ready a moment later.
pub async fn refused(slices: &[EndpointSlice], trust: &Bundle, dns_name: &str) -> Vec<String> {
    let config = match client(trust) {
        Ok(config) => Arc::new(config),
        Err(error) => return vec![error.to_string()],
    };
    let asked = addresses(slices).into_iter().map(|address| {
        let config = config.clone();
        async move {
            let answer = timeout(PATIENCE, handshake(config, address, dns_name)).await;
            let answer = answer.unwrap_or_else(|elapsed| Err(elapsed.into()));
            answer.err().map(|error| format!("{address}: {error}"))
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn client(trust: &Bundle) -> Result<ClientConfig, rustls::Error> {
    Ok(
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(trust.roots())
            .with_no_client_auth(),
    )
}

async fn handshake(config: Arc<ClientConfig>, address: SocketAddr, dns_name: &str) -> std::io::Result<()> {
    let name = ServerName::try_from(dns_name.to_owned()).map_err(std::io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(name, stream).await.map(drop)
}

fn addresses(slices: &[EndpointSlice]) -> BTreeSet<SocketAddr> {
    let mut found = BTreeSet::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let port = ports
            .filter(|port| port.name.as_deref() == Some(PORT_NAME))
            .find_map(|port| u16::try_from(port.port?).ok());
        let ips = slice
            .endpoints
            .iter()
            .flatten()
            .flat_map(|endpoint| &endpoint.addresses);
        for ip in ips.filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            found.extend(port.map(|port| SocketAddr::new(ip, port)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_address_is_asked_ready_or_not() {
        let slice = |value| serde_json::from_value::<EndpointSlice>(value).unwrap();
        let slices = [
            slice(json!({
                "addressType": "IPv4",
                "ports": [{"name": "metrics", "port": 8080}, {"name": "https", "port": 8443}],
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": false}},
                ],
            })),
            slice(json!({
                "addressType": "IPv6",
                "ports": [{"name": "https", "port": 8443}],
                "endpoints": [{"addresses": ["fd00::1"]}],
            })),
            slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]})),
        ];
        let expected = ["10.0.0.1:8443", "10.0.0.2:8443", "[fd00::1]:8443"];
        assert_eq!(
            addresses(&slices),
            expected.map(|address| address.parse().unwrap()).into()
        );
    }
}
