//! Certificate requests as a kubelet files them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use maroonedpods_common::names;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

const POLL: Duration = Duration::from_millis(100);

/// What is asked for.
pub(super) struct Ask {
    pub(super) signer: &'static str,
    pub(super) node: String,
    pub(super) dns: Vec<String>,
    pub(super) ips: Vec<IpAddr>,
}

/// How a request ended.
pub(super) enum Answer {
    Issued { certificate: Vec<u8>, key: String },
    Denied { reason: String },
}

impl Ask {
    pub(super) fn client(node: &str) -> Self {
        Self {
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            node: node.to_owned(),
            dns: Vec::new(),
            ips: Vec::new(),
        }
    }

    /// Draws a key and files the request. The key stays here.
    pub(super) async fn file(&self, client: &Client) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, names::NODES_GROUP);
        let user = format!("{}{}", names::NODE_USER_PREFIX, self.node);
        params.distinguished_name.push(DnType::CommonName, user);
        for dns in &self.dns {
            params
                .subject_alt_names
                .push(SanType::DnsName(dns.as_str().try_into()?));
        }
        params
            .subject_alt_names
            .extend(self.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        let usage = if self.signer.ends_with("serving") {
            "server auth"
        } else {
            "client auth"
        };
        let request = CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some("csr-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(params.serialize_request(&key)?.pem()?.into_bytes()),
                signer_name: self.signer.to_owned(),
                usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let filed = csrs(client).create(&PostParams::default(), &request).await?;
        Ok((filed.name_any(), key.serialize_pem()))
    }
}

/// Waits for the answer by listing, as a kubelet does; a request that vanishes is an error.
pub(super) async fn answer(client: &Client, name: &str, key: String) -> Result<Answer> {
    let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
    loop {
        let found = csrs(client).list(&by_name).await?.items.into_iter().next();
        let status = found
            .with_context(|| format!("{name} is gone"))?
            .status
            .unwrap_or_default();
        if let Some(denied) = status.conditions.iter().flatten().find(|c| c.type_ == "Denied") {
            return Ok(Answer::Denied {
                reason: denied.reason.clone().unwrap_or_default(),
            });
        }
        if let Some(failed) = status.conditions.iter().flatten().find(|c| c.type_ == "Failed") {
            bail!("{name} failed: {failed:?}");
        }
        if let Some(certificate) = status.certificate {
            return Ok(Answer::Issued {
                certificate: certificate.0,
                key,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn csrs(client: &Client) -> Api<CertificateSigningRequest> {
    Api::all(client.clone())
}
