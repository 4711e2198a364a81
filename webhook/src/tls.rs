//! The serving certificate, and whose clients are served: loaded, validated, and reloaded when the files' content changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::metrics::{Metrics, ReloadResult};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const CLIENT_CA: &str = "--client-ca";

/// Why a certificate cannot be served.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is missing, or not readable.
    #[error("cannot read {}: {source}; --tls-dir is a folder with {CERTIFICATE} and {KEY}, --client-ca a file", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is not PEM, or holds neither certificate nor key.
    #[error("{file} is not usable: {source}; it takes PEM, as kubectl create secret tls does")]
    Pem {
        /// The file's name.
        file: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// There is no certificate in an otherwise well-formed file.
    #[error("{CERTIFICATE} holds no certificate")]
    NoCertificate,
    /// The key is of an unknown kind, or belongs to another certificate.
    #[error("{CERTIFICATE} and {KEY} cannot be served together: {0}")]
    Unusable(#[from] rustls::Error),
    /// The file of the clients' authorities holds none.
    #[error("--client-ca holds no usable certificate: {0}")]
    ClientCa(#[from] VerifierBuilderError),
}

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// Folder with the serving pair.
    pub dir: PathBuf,
    /// Certificates that sign the clients', where only such clients are served.
    pub client_ca: Option<PathBuf>,
}

/// A pair that can be served.
struct Usable {
    config: Arc<ServerConfig>,
    /// When the certificate ends.
    not_after: Timestamp,
}

/// The content of the files.
#[derive(PartialEq, Eq)]
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// A certificate that follows its files.
pub struct Reloader {
    files: Files,
    config: watch::Sender<Arc<ServerConfig>>,
    not_after: Timestamp,
    /// The content at the last check, usable or not; for files that cannot be read, the error message.
    seen: Result<Content, String>,
}

impl Reloader {
    /// Loads and validates the files. Blocks for two or three small files: nothing is served yet, and each hand-over to
    /// another thread would make the start longer.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let content = read(&files)?;
        let usable = validate(&content)?;
        Ok(Self {
            files,
            config: watch::Sender::new(usable.config),
            not_after: usable.not_after,
            seen: Ok(content),
        })
    }

    /// The configuration with the last usable certificate, for a server to follow.
    pub fn config(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.config.subscribe()
    }

    /// Checks the files every `interval`, for ever. Each distinct content is validated, logged and counted once. The end
    /// of the certificate in service is a metric.
    ///
    /// The files are polled because inotify misses what the kubelet does: it swaps a symlink two levels up.
    pub async fn follow(mut self, interval: Duration, metrics: &Metrics) {
        metrics.serving_until(self.not_after);
        loop {
            tokio::time::sleep(interval).await;
            let files = self.files.clone();
            let Ok(content) = spawn_blocking(move || read(&files)).await else {
                continue;
            };
            let now = content.as_ref().map_err(ToString::to_string);
            if now == self.seen.as_ref().map_err(Clone::clone) {
                continue;
            }
            let result = match content.as_ref().map(validate) {
                Ok(Ok(usable)) => {
                    self.config.send_replace(usable.config);
                    metrics.serving_until(usable.not_after);
                    tracing::info!(dir = %self.files.dir.display(), "serving the new certificate");
                    ReloadResult::Success
                }
                Ok(Err(error)) => rejected(&error),
                Err(error) => rejected(error),
            };
            metrics.reloaded(result);
            self.seen = content.map_err(|error| error.to_string());
        }
    }
}

fn rejected(error: &TlsError) -> ReloadResult {
    tracing::error!(%error, "new certificate refused, the last good one stays");
    ReloadResult::Error
}

/// Reads both files of one pair, never one of the old pair and one of the new.
///
/// In a Secret volume both are links through `..data`, which the kubelet swaps atomically before it removes what
/// was there. So the link is resolved once, and again only if it was swapped meanwhile.
fn read(files: &Files) -> Result<Content, TlsError> {
    let client_ca = files.client_ca.as_deref().map(read_file).transpose()?;
    loop {
        let resolved = resolve(&files.dir);
        match (
            read_file(&resolved.join(CERTIFICATE)),
            read_file(&resolved.join(KEY)),
        ) {
            (Ok(certificate), Ok(key)) => {
                return Ok(Content {
                    certificate,
                    key,
                    client_ca,
                });
            }
            _ if resolve(&files.dir) != resolved => {}
            (Err(error), _) | (_, Err(error)) => return Err(error),
        }
    }
}

fn resolve(dir: &Path) -> PathBuf {
    fs::canonicalize(dir.join("..data")).unwrap_or_else(|_| dir.to_path_buf())
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// TLS 1.2 and 1.3 with the ring provider, whatever the process's default provider is.
fn validate(content: &Content) -> Result<Usable, TlsError> {
    let chain = certificates(&content.certificate, CERTIFICATE)?;
    let not_after = chain.first().and_then(|leaf| not_after(leaf));
    let not_after = not_after.ok_or(TlsError::NoCertificate)?;
    let key =
        PrivateKeyDer::from_pem_slice(&content.key).map_err(|source| TlsError::Pem { file: KEY, source })?;
    let clients = match &content.client_ca {
        Some(authorities) => clients_of(authorities)?,
        None => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Usable {
        config: Arc::new(config),
        not_after,
    })
}

/// Lets in clients with a certificate that one of `authorities` signed.
fn clients_of(authorities: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities, CLIENT_CA)? {
        roots.add(authority)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

fn certificates(pem: &[u8], file: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { file, source })
}

fn not_after(leaf: &[u8]) -> Option<Timestamp> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    Timestamp::from_second(leaf.validity().not_after.timestamp()).ok()
}
