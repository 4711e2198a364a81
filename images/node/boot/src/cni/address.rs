//! The launcher's address, which is to be the pod's.
//!
//! It is read from the kubelet's serving certificate: the address in there is what the reconciler wrote on the Node
//! and what was compared when the certificate was approved. No request, no name lookup, no right is needed for it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::netlink::{HOST_PREFIX, Netlink};

/// Where the kubelet keeps the certificate, with its key.
const SERVING_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-server-current.pem";
/// How often to look for the certificate.
const PAUSE: Duration = Duration::from_millis(50);

/// The address, if the certificate is there.
pub(super) fn read() -> Result<Ipv4Addr> {
    let pem = fs::read(SERVING_CERTIFICATE)
        .context("the kubelet has no serving certificate yet, and with it no address for the pod")?;
    in_certificate(&pem)
}

/// The address, as soon as the certificate is there, which appears whole. Blocks, for `patience` at most.
pub(super) fn wait_for(patience: Duration) -> Result<Ipv4Addr> {
    let deadline = Instant::now() + patience;
    while !Path::new(SERVING_CERTIFICATE).exists() && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    read()
}

/// Gives the loopback link the launcher's address, which it may have already. For a guest whose pod uses the guest's
/// network: its probes ask at the launcher's address, and the launcher translates only what comes from outside.
///
/// # Errors
/// That the kubelet has no serving certificate yet is one: ask again once it has.
pub fn put_on_loopback() -> Result<Ipv4Addr> {
    let address = read()?;
    let mut netlink = Netlink::open()?;
    let loopback = netlink
        .link("lo")?
        .context("this guest has no loopback link")?
        .index;
    netlink.set_up(loopback)?;
    netlink.add_address(loopback, address, HOST_PREFIX, false)?;
    Ok(address)
}

/// The first IPv4 address that the first certificate is for.
fn in_certificate(pem: &[u8]) -> Result<Ipv4Addr> {
    let blocks = pem::parse_many(pem).context("the kubelet's serving certificate is not PEM")?;
    let der = blocks
        .iter()
        .find(|block| block.tag() == "CERTIFICATE")
        .context("the kubelet's serving certificate file holds no certificate")?
        .contents();
    let (_, certificate) =
        X509Certificate::from_der(der).context("the kubelet's serving certificate cannot be read")?;
    let names = certificate
        .subject_alternative_name()
        .context("the kubelet's serving certificate cannot be read")?;
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes).ok().map(Ipv4Addr::from),
        _ => None,
    };
    names
        .and_then(|names| names.value.general_names.iter().find_map(address))
        .context("the kubelet's serving certificate is for no IPv4 address; marooned pods need an IPv4 pod network")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_certificates_ipv4_address() {
        let pem = include_bytes!("../testdata/serving.pem");
        assert_eq!(in_certificate(pem).unwrap(), Ipv4Addr::new(10, 244, 1, 17));
    }

    #[test]
    fn a_certificate_without_an_ipv4_address_is_refused() {
        let error = in_certificate(include_bytes!("../testdata/serving-ipv6.pem")).unwrap_err();
        assert!(error.to_string().contains("no IPv4 address"), "{error}");
        assert!(in_certificate(b"").is_err());
        assert!(in_certificate(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }
}
