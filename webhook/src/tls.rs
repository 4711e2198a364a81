//! The serving certificate: loaded, validated, and reloaded when the files' content changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::task::spawn_blocking;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::metrics::{Metrics, ReloadResult};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why a certificate cannot be served.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is not there, or not readable.
    #[error("cannot read {}: {source}; --tls-dir is a folder with {CERTIFICATE} and {KEY}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is no PEM, or holds nothing of use.
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
}

/// A pair that can be served.
struct Good {
    config: Arc<ServerConfig>,
    /// When the certificate ends.
    not_after: Timestamp,
}

/// The content of the two files.
#[derive(PartialEq, Eq)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// A certificate that follows its files.
pub struct Reloader {
    dir: PathBuf,
    config: RustlsConfig,
    not_after: Timestamp,
    /// What was last looked at, good or bad; for files that cannot be read, the message.
    seen: Result<Pair, String>,
}

impl Reloader {
    /// Loads and validates the certificate in `dir`. Blocks for two small files: nothing is served yet, and each
    /// hand-over to another thread would make the start longer.
    pub fn load(dir: PathBuf) -> Result<Self, TlsError> {
        let pair = read(&dir)?;
        let good = judge(&pair)?;
        Ok(Self {
            dir,
            config: RustlsConfig::from_config(good.config),
            not_after: good.not_after,
            seen: Ok(pair),
        })
    }

    /// The handle by which a server always serves the last good certificate.
    pub fn config(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// Looks at the files every `interval`, for ever. Each distinct content is judged, logged and counted once. When
    /// the certificate in service ends is a metric.
    ///
    /// Polled, since inotify misses what the kubelet does: it swaps a symlink two levels up.
    pub async fn follow(mut self, interval: Duration, metrics: &Metrics) {
        metrics.serving_until(self.not_after);
        loop {
            tokio::time::sleep(interval).await;
            let dir = self.dir.clone();
            let Ok(pair) = spawn_blocking(move || read(&dir)).await else {
                continue;
            };
            let now = pair.as_ref().map_err(ToString::to_string);
            if now == self.seen.as_ref().map_err(Clone::clone) {
                continue;
            }
            let result = match pair.as_ref().map(judge) {
                Ok(Ok(good)) => {
                    self.config.reload_from_config(good.config);
                    metrics.serving_until(good.not_after);
                    tracing::info!(dir = %self.dir.display(), "serving the new certificate");
                    ReloadResult::Success
                }
                Ok(Err(error)) => rejected(&error),
                Err(error) => rejected(error),
            };
            metrics.reloaded(result);
            self.seen = pair.map_err(|error| error.to_string());
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
fn read(dir: &Path) -> Result<Pair, TlsError> {
    loop {
        let resolved = resolve(dir);
        match read_pair(&resolved) {
            Err(_) if resolve(dir) != resolved => {}
            result => return result,
        }
    }
}

fn resolve(dir: &Path) -> PathBuf {
    fs::canonicalize(dir.join("..data")).unwrap_or_else(|_| dir.to_path_buf())
}

fn read_pair(dir: &Path) -> Result<Pair, TlsError> {
    let file = |name| {
        let path = dir.join(name);
        fs::read(&path).map_err(|source| TlsError::Read { path, source })
    };
    Ok(Pair {
        certificate: file(CERTIFICATE)?,
        key: file(KEY)?,
    })
}

/// TLS 1.2 and 1.3 with the ring provider, whatever the process's default provider is.
fn judge(pair: &Pair) -> Result<Good, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&pair.certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem {
            file: CERTIFICATE,
            source,
        })?;
    let not_after = chain.first().and_then(|leaf| not_after(leaf));
    let not_after = not_after.ok_or(TlsError::NoCertificate)?;
    let key =
        PrivateKeyDer::from_pem_slice(&pair.key).map_err(|source| TlsError::Pem { file: KEY, source })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Good {
        config: Arc::new(config),
        not_after,
    })
}

fn not_after(leaf: &[u8]) -> Option<Timestamp> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    Timestamp::from_second(leaf.validity().not_after.timestamp()).ok()
}
