//! The join info, read strictly: a value that would break a file that is made of it never gets that far.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use http::Uri;
use maroonedpods_common::join_info::JoinInfo;
use maroonedpods_common::names;
use x509_parser::parse_x509_certificate;

/// The kernel's limit for a host's name.
const LONGEST_HOST_NAME: usize = 64;
/// Kubernetes' limit for a label's value.
const LONGEST_LABEL_VALUE: usize = 63;
/// More than any VM has: 1,000 CPUs, and 16 TiB of memory.
const MOST_CPU_MILLI: u64 = 1_000_000;
const MOST_MEMORY_MI: u64 = 1 << 24;

/// Reads `join-info.yaml`. The error says which field is wrong, never what the token is.
pub fn parse(yaml: &str) -> Result<JoinInfo> {
    let info: JoinInfo = serde_yaml_ng::from_str(yaml).context("join-info.yaml cannot be used")?;
    check(&info).context("join-info.yaml cannot be used")?;
    Ok(info)
}

fn check(info: &JoinInfo) -> Result<()> {
    check_server(&info.server_url).with_context(|| {
        format!(
            "server_url {:?} is not like https://192.0.2.1:6443",
            info.server_url
        )
    })?;
    ensure!(
        is_bootstrap_token(info.token.reveal()),
        "token is not a bootstrap token: 6 characters, a dot and 16 characters of a-z and 0-9"
    );
    ensure!(
        is_label_value(&info.pod_uid),
        "pod_uid {:?} is not a pod's UID",
        info.pod_uid
    );
    ensure!(
        names::is_dns_subdomain(&info.taint_key),
        "taint_key {:?} is not a DNS name",
        info.taint_key
    );
    ensure!(
        names::is_dns_subdomain(&info.node_name) && info.node_name.len() <= LONGEST_HOST_NAME,
        "node_name {:?} is not a DNS name of at most {LONGEST_HOST_NAME} characters",
        info.node_name
    );
    check_ca(&info.ca).context("ca is not a list of certificates in PEM")?;
    if let Some(dns) = &info.cluster_dns {
        ensure!(
            dns.parse::<IpAddr>().is_ok(),
            "cluster_dns {dns:?} is not an IP address"
        );
    }
    ensure!(
        names::is_dns_subdomain(&info.cluster_domain),
        "cluster_domain {:?} is not a DNS name",
        info.cluster_domain
    );
    let kubelet = &info.kubelet;
    ensure!(kubelet.port != 0, "kubelet.port must not be 0");
    let sizes = [
        ("reserved_cpu_milli", kubelet.reserved_cpu_milli, MOST_CPU_MILLI),
        ("reserved_memory_mi", kubelet.reserved_memory_mi, MOST_MEMORY_MI),
        ("eviction_memory_mi", kubelet.eviction_memory_mi, MOST_MEMORY_MI),
    ];
    for (name, value, most) in sizes {
        ensure!(
            value <= most,
            "kubelet.{name} is {value}, which is more than {most}"
        );
    }
    Ok(())
}

fn check_server(url: &str) -> Result<()> {
    let uri: Uri = url.parse()?;
    ensure!(uri.scheme_str() == Some("https"), "it must begin with https://");
    let authority = uri.authority().context("it names no host")?;
    ensure!(!authority.as_str().contains('@'), "it must not name a user");
    ensure!(
        uri.path() == "/" && uri.query().is_none(),
        "nothing may follow the port"
    );
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    ensure!(
        names::is_dns_subdomain(host) || address.is_some_and(|address| address.parse::<IpAddr>().is_ok()),
        "{host:?} is not a host"
    );
    // What follows the host is a port that the parser of URLs does not look at.
    match authority.as_str().strip_prefix(host) {
        Some("") => Ok(()),
        Some(port) => match port.strip_prefix(':').map(str::parse::<u16>) {
            Some(Ok(1..)) => Ok(()),
            _ => bail!("{port:?} is not a port"),
        },
        None => bail!("{host:?} is not a host"),
    }
}

fn check_ca(ca: &str) -> Result<()> {
    let blocks = pem::parse_many(ca)?;
    ensure!(!blocks.is_empty(), "there is none");
    for block in blocks {
        ensure!(block.tag() == "CERTIFICATE", "there is a {}", block.tag());
        parse_x509_certificate(block.contents())?;
    }
    Ok(())
}

fn is_bootstrap_token(token: &str) -> bool {
    let good = |part: &str, length| {
        part.len() == length && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    token
        .split_once('.')
        .is_some_and(|(id, secret)| good(id, 6) && good(secret, 16))
}

fn is_label_value(value: &str) -> bool {
    value.len() <= LONGEST_LABEL_VALUE && names::is_dns_subdomain(value)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A good join info, and one line per field to replace.
    pub(crate) const GOOD: &str = include_str!("testdata/join-info.yaml");

    #[test]
    fn a_good_one_is_read() {
        let info = parse(GOOD).unwrap();
        assert_eq!(info.node_name, "marooned-0d2f7a3e-5b1c-4c58-9d0e-3f6a1b2c4d5e");
        assert_eq!(info.kubelet.port, 65250);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let cases = [
            ("taint_key:", "taintKey:", "unknown field `taintKey`"),
            (
                "pod_uid: 0d2f7a3e-5b1c-4c58-9d0e-3f6a1b2c4d5e\n",
                "",
                "missing field `pod_uid`",
            ),
            ("  port: 65250\n", "", "missing field `port`"),
            ("mode: Kubelet", "mode: Minikube", "unknown variant `Minikube`"),
            ("https://", "http://", "server_url"),
            ("https://192.0.2.1:6443", "'hello world'", "server_url"),
            ("192.0.2.1:6443", "192.0.2.1:0", "server_url"),
            ("https://192.0.2.1:6443", "'https://192.0.2.1:'", "server_url"),
            ("192.0.2.1:6443", "192.0.2.1:65536", "server_url"),
            ("192.0.2.1:6443", "192.0.2.1/elsewhere", "server_url"),
            ("192.0.2.1:6443", "me@192.0.2.1", "server_url"),
            ("192.0.2.1:6443", "under_score", "server_url"),
            (
                "0123456789abcdef",
                "0123456789ABCDEF",
                "token is not a bootstrap token",
            ),
            (
                "abcdef.0123456789abcdef",
                "\"abcdef.0123456789abcde\\n\"",
                "token is not a bootstrap token",
            ),
            ("taint_key: maroonedpods.io", "taint_key: a/b", "taint_key"),
            ("taint_key: maroonedpods.io", "taint_key: ''", "taint_key"),
            ("node_name: marooned", "node_name: Marooned", "node_name"),
            ("node_name: marooned", "node_name: -marooned", "node_name"),
            (
                "node_name: marooned",
                "node_name: a-name-that-is-longer-than-a-host",
                "node_name",
            ),
            (
                "pod_uid: 0d2f",
                "pod_uid: 'a=b,c'",
                "join-info.yaml cannot be used",
            ),
            (
                "BEGIN CERTIFICATE",
                "BEGIN NOTHING",
                "ca is not a list of certificates",
            ),
            ("MII", "AAA", "ca is not a list of certificates"),
            (
                "cluster_dns: 10.96.0.10",
                "cluster_dns: dns.example",
                "cluster_dns",
            ),
            (
                "cluster_domain: corp.test",
                "cluster_domain: 'corp.test -x'",
                "cluster_domain",
            ),
            ("port: 65250", "port: 0", "kubelet.port"),
            ("port: 65250", "port: 65536", "kubelet.port"),
            (
                "reserved_cpu_milli: 100",
                "reserved_cpu_milli: 18446744073709551615",
                "reserved_cpu_milli",
            ),
            (
                "eviction_memory_mi: 50",
                "eviction_memory_mi: -1",
                "eviction_memory_mi",
            ),
        ];
        for (from, to, reason) in cases {
            let yaml = GOOD.replacen(from, to, 1);
            assert_ne!(yaml, GOOD, "{from} is not in the good one");
            let error = format!("{:#}", parse(&yaml).unwrap_err());
            assert!(error.contains(reason), "{from} -> {to}: {error}");
            assert!(!error.contains("0123456789abcde"), "{error}");
        }
    }

    #[test]
    fn the_domain_is_the_usual_one_where_none_is_given() {
        assert_eq!(parse(GOOD).unwrap().cluster_domain, "corp.test");
        let without = GOOD.replace("cluster_domain: corp.test\n", "");
        assert_eq!(parse(&without).unwrap().cluster_domain, "cluster.local");
    }

    #[test]
    fn servers_may_be_addresses_or_names() {
        for host in [
            "192.0.2.1",
            "api.example",
            "[2001:db8::1]",
            "api.example:443",
            "[2001:db8::1]:6443",
        ] {
            parse(&GOOD.replace("192.0.2.1:6443", host)).unwrap();
        }
    }

    #[test]
    fn an_empty_ca_is_refused() {
        let (head, _) = GOOD.split_once("ca: |").unwrap();
        let (_, tail) = GOOD.split_once("-----END CERTIFICATE-----\n").unwrap();
        let error = parse(&format!("{head}ca: ''\n{tail}")).unwrap_err();
        assert!(
            format!("{error:#}").contains("ca is not a list of certificates"),
            "{error:#}"
        );
    }
}
