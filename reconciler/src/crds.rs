//! `apply-crds`: applies the CRDs that this program was built with.
//!
//! Helm installs the files in a chart's `crds/` folder once and never again; this command upgrades them.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch};
use kube::core::ResourceExt;
use maroonedpods_common::api;
use thiserror::Error;

use crate::answer::Answer;
use crate::api::{CallError, Cluster, call};
use crate::params;
use crate::read::{self, Keep, Kind, View};

/// An idle API server needs less than a second.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PERIOD: Duration = Duration::from_millis(200);

/// Why a CRD could not be applied.
#[derive(Debug, Error)]
pub enum Error {
    /// The API server refused it.
    #[error("the API server refused CustomResourceDefinition {name}: {error}")]
    Refused {
        /// Name of the CRD.
        name: String,
        /// The API server's answer.
        error: CallError,
    },
    /// It was applied, but is not served.
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

/// Applies both CRDs by server-side apply and waits until they are served. Applying an unchanged CRD changes nothing.
///
/// # Errors
/// The first CRD that is refused or not served. A version that stored objects may still have cannot be dropped: the
/// API server itself refuses that (`status.storedVersions`), and its message is part of the error.
pub async fn apply(cluster: &Cluster) -> Result<(), Error> {
    for crd in api::crds() {
        let name = crd.name_any();
        let crds = cluster.all::<Answer<CustomResourceDefinition>>();
        call(crds.patch(&name, &params::apply(), &Patch::Apply(&crd)))
            .await
            .map_err(|error| Error::Refused {
                name: name.clone(),
                error,
            })?;
        match tokio::time::timeout(SERVED_WITHIN, served(cluster, &name)).await {
            Ok(Ok(())) => tracing::info!(name, "CustomResourceDefinition applied and served"),
            Ok(Err(error)) => tracing::warn!(name, %error, "applied; cannot see whether it is served"),
            Err(_) => return Err(Error::NotServed { name }),
        }
    }
    Ok(())
}

/// Waits until the CRD is served. Lists it by its name, because the program has no other right to read CRDs.
async fn served(cluster: &Cluster, name: &str) -> Result<(), CallError> {
    let crds = cluster.all::<CustomResourceDefinition>();
    let only = ListParams::default().fields(&format!("metadata.name={name}"));
    loop {
        let listed = read::list::<Served, _>(&crds, &only).await?;
        if listed.items.iter().any(|(_, crd)| crd.0) {
            return Ok(());
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Whether a CRD is served.
#[derive(PartialEq)]
struct Served(bool);

impl View for Served {
    const KIND: Kind = Kind::CustomResourceDefinitions;
    const KEEP: Keep = Keep::Fields(&[(
        "status",
        Keep::Fields(&[(
            "conditions",
            Keep::Each(&Keep::Fields(&[("type", Keep::All), ("status", Keep::All)])),
        )]),
    )]);
    type Object = CustomResourceDefinition;

    fn read(crd: CustomResourceDefinition) -> Option<Self> {
        let conditions = crd
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let established = conditions.filter(|c| c.type_ == "Established" && c.status == "True");
        Some(Self(established.count() > 0))
    }
}
