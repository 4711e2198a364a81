//! Certificate requests as a kubelet files them.

use std::net::IpAddr;
use std::pin::pin;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use crate::system::pki::Pair;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// What a kubelet asks to be certified.
pub struct Ask {
    signer: &'static str,
    usage: &'static str,
    node: String,
    /// Subject alternative names: addresses where they read as such, else DNS names.
    sans: Vec<String>,
}

/// A request that was filed. The key stays here.
pub(super) struct Filed {
    name: String,
    key: String,
}

/// How a request ended.
pub(super) enum Answer {
    Issued(Pair),
    Denied(String),
}

impl Ask {
    /// A client certificate; a kubelet asks for one without subject alternative names.
    #[must_use]
    pub fn client(node: &str, sans: &[String]) -> Self {
        Self {
            signer: CLIENT_SIGNER,
            usage: "client auth",
            node: node.to_owned(),
            sans: sans.to_vec(),
        }
    }

    /// A serving certificate for the Node's name and addresses.
    #[must_use]
    pub fn serving(node: &str, sans: Vec<String>) -> Self {
        Self {
            signer: SERVING_SIGNER,
            usage: "server auth",
            node: node.to_owned(),
            sans,
        }
    }

    /// The request, signed by `key`.
    pub fn request(&self, key: &KeyPair) -> Result<CertificateSigningRequest> {
        Ok(CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some("csr-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(self.pem(key)?.into_bytes()),
                signer_name: self.signer.to_owned(),
                usages: Some(vec!["digital signature".to_owned(), self.usage.to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        })
    }

    /// Draws a key and files the request.
    pub(super) async fn file(&self, client: &Client) -> Result<Filed> {
        let key = KeyPair::generate()?;
        let request = self.request(&key)?;
        let filed = csrs(client).create(&PostParams::default(), &request).await?;
        Ok(Filed {
            name: filed.name_any(),
            key: key.serialize_pem(),
        })
    }

    fn pem(&self, key: &KeyPair) -> Result<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("system:node:{}", self.node));
        for san in &self.sans {
            params.subject_alt_names.push(match san.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(san.as_str().try_into()?),
            });
        }
        Ok(params.serialize_request(key)?.pem()?)
    }
}

impl Filed {
    /// Waits for the answer as a kubelet does: list and watch by name. It is an error that the request vanishes,
    /// and that the API server answers with one.
    pub(super) async fn answer(self, client: &Client) -> Result<Answer> {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = pin!(watcher(csrs(client), only));
        let mut listed = false;
        while let Some(event) = events.next().await {
            match event? {
                Event::Apply(csr) | Event::InitApply(csr) => {
                    listed = true;
                    if let Some(answer) = self.read(csr)? {
                        return Ok(answer);
                    }
                }
                Event::Init => listed = false,
                Event::InitDone if listed => {}
                Event::InitDone | Event::Delete(_) => bail!("{} is gone", self.name),
            }
        }
        bail!("the watch of {} ended", self.name)
    }

    fn read(&self, csr: CertificateSigningRequest) -> Result<Option<Answer>> {
        let status = csr.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let found = |type_: &str| conditions.iter().find(|c| c.type_ == type_);
        if let Some(denied) = found("Denied") {
            return Ok(Some(Answer::Denied(denied.reason.clone().unwrap_or_default())));
        }
        if let Some(failed) = found("Failed") {
            bail!(
                "{} failed: {}",
                self.name,
                failed.message.as_deref().unwrap_or_default()
            );
        }
        let Some(certificate) = status.certificate else {
            return Ok(None);
        };
        Ok(Some(Answer::Issued(Pair {
            certificate: String::from_utf8(certificate.0).context("a certificate is not PEM")?,
            key: self.key.clone(),
        })))
    }
}

fn csrs(client: &Client) -> Api<CertificateSigningRequest> {
    Api::all(client.clone())
}
