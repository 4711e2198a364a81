//! `apply-crds`: our CRDs, as this very program understands them.
//!
//! Helm installs what is in a chart's `crds/` folder once and never again; this is how they are upgraded.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Patch;
use kube::core::ResourceExt;
use kube::runtime::{conditions, wait};
use maroonedpods_common::api;
use thiserror::Error;

use crate::api::{CallError, Cluster, call};
use crate::params;

/// An API server with nothing else to do needs less than a second.
const SERVED_WITHIN: Duration = Duration::from_secs(60);

/// Why a CRD is not as it must be.
#[derive(Debug, Error)]
pub enum Error {
    /// The API server did not take it.
    #[error("the API server did not take CustomResourceDefinition {name}: {error}")]
    Refused {
        /// Name of the CRD.
        name: String,
        /// What it said.
        error: CallError,
    },
    /// It was taken, and is not served.
    #[error(
        "CustomResourceDefinition {name} is not served after {} s: see its conditions with \
         `kubectl describe crd {name}`",
        SERVED_WITHIN.as_secs()
    )]
    NotServed {
        /// Name of the CRD.
        name: String,
    },
}

/// Applies both CRDs by server-side apply and waits until they are served. Applying what is there changes nothing.
///
/// # Errors
/// The first CRD that is refused or not served. A version that stored objects may still have cannot be dropped:
/// the API server refuses that by itself (`status.storedVersions`), and its sentence is part of the error.
pub async fn apply(cluster: &Cluster) -> Result<(), Error> {
    for crd in api::crds() {
        let name = crd.name_any();
        let crds = cluster.all::<CustomResourceDefinition>();
        call(crds.patch(&name, &params::apply(), &Patch::Apply(&crd)))
            .await
            .map_err(|error| Error::Refused {
                name: name.clone(),
                error,
            })?;
        let served = wait::await_condition(crds, &name, conditions::is_crd_established());
        match tokio::time::timeout(SERVED_WITHIN, served).await {
            Ok(Ok(_)) => tracing::info!(name, "CustomResourceDefinition applied and served"),
            Ok(Err(error)) => tracing::warn!(name, %error, "applied; cannot watch whether it is served"),
            Err(_) => return Err(Error::NotServed { name }),
        }
    }
    Ok(())
}
