//! Namespaces of tests.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::DeleteParams;
use kube::core::ObjectMeta;
use kube::{Api, Client, ResourceExt};

use super::check::{accepts, becomes, gone};

const NAMESPACE_LIMIT: Duration = Duration::from_secs(90);

/// A fresh namespace for one test. Close it at the end; after a panic it goes with the control plane.
#[derive(Debug)]
pub struct TestNamespace {
    /// Its name, chosen by the server.
    pub name: String,
}

impl TestNamespace {
    /// Makes a namespace with `labels` and waits until pods can be created in it, which takes its default
    /// service account.
    pub async fn new(client: &Client, labels: &[(&str, &str)]) -> Result<Self> {
        let labels: BTreeMap<_, _> = labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        let wanted = Namespace {
            metadata: ObjectMeta {
                generate_name: Some("test-".to_owned()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let name = accepts(&Api::all(client.clone()), &wanted).await?.name_any();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
        becomes(
            &accounts,
            "default",
            "the default service account",
            NAMESPACE_LIMIT,
            |_| true,
        )
        .await?;
        Ok(Self { name })
    }

    /// Deletes the namespace with all that is in it, and waits until it is gone.
    pub async fn close(self, client: &Client) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.delete(&self.name, &DeleteParams::default()).await?;
        gone(&namespaces, &self.name, NAMESPACE_LIMIT).await
    }
}
