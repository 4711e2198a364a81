//! How we speak to the API server: every call has a deadline, every error a class.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ClusterResourceScope, DynamicObject, NamespaceResourceScope, Resource};
use kube::{Client, Config};
use maroonedpods_common::text;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::answer::Answer;
use crate::objects::vmi;
use crate::params;
use crate::read;

/// Longest wait for one answer. kube sets none by itself: a request that is never answered would hold its pod's
/// worker for ever.
const DEADLINE: Duration = Duration::from_secs(10);

/// A call that did not succeed.
#[derive(Debug, Error)]
pub enum CallError {
    /// The API server refused, or could not be reached. Its words may quote what it was sent.
    #[error("{}", said(.0))]
    Kube(#[from] kube::Error),
    /// No answer in time.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Deadline,
    /// A precondition that we check ourselves, because the API server has none of this kind, does not hold.
    #[error("{0}")]
    Precondition(String),
    /// The answer is not what it must be.
    #[error("{}", text::sentence(.0))]
    Unexpected(String),
}

impl CallError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// 404 of an object: it is gone, or what it is to be in.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.code() == Some(404) && self.names_an_object()
    }

    /// 404 of the kind: it is not served, which proves nothing about objects. The API server names what it did not
    /// find in `details`, and answers unknown paths with a plain text.
    #[must_use]
    pub fn is_unserved(&self) -> bool {
        self.code() == Some(404) && !self.names_an_object()
    }

    fn names_an_object(&self) -> bool {
        match self {
            Self::Kube(kube::Error::Api(status)) => status
                .details
                .as_ref()
                .is_some_and(|details| !details.name.is_empty()),
            _ => false,
        }
    }

    /// 403: rights, quota or policy.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// A precondition did not hold: 409, `AlreadyExists` among them, or one of our own.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Precondition(_)) || self.code() == Some(409)
    }

    /// 422: among others what a failed `test` of a JSON patch answers.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.code() == Some(422)
    }

    /// 429: too many requests, or a disruption budget that holds.
    #[must_use]
    pub fn is_too_many_requests(&self) -> bool {
        self.code() == Some(429)
    }

    /// 500: among others an admission webhook that the API server cannot reach.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.code() == Some(500)
    }

    /// 410: the version that was asked for is forgotten.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    /// The request will be refused again until a person changes something: rights, quota, policy, schema.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self.code(), Some(400 | 403 | 422))
    }
}

/// An API server's own sentence is enough; kube adds the whole status to it.
fn said(error: &kube::Error) -> String {
    let said = match error {
        kube::Error::Api(status) => format!("ApiError: {status}"),
        other => other.to_string(),
    };
    text::sentence(&said).into_owned()
}

/// Awaits a call, but not for ever.
///
/// # Errors
/// The call's error, or [`CallError::Deadline`].
pub async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    tokio::time::timeout(DEADLINE, request)
        .await
        .map_err(|_| CallError::Deadline)?
        .map_err(CallError::from)
}

/// The object of this name; `None` only where the API server answers that this very object is not there. (kube's own
/// `get_opt` takes a kind that is not served for an object that is not there.)
///
/// # Errors
/// Any other answer.
pub async fn find<K>(api: &Api<K>, name: &str) -> Result<Option<K>, CallError>
where
    K: Clone + Resource + DeserializeOwned,
{
    read::whole(api, name).await
}

/// The object of this name, which must be there.
///
/// # Errors
/// Any other answer.
pub async fn get<K>(api: &Api<K>, name: &str) -> Result<K, CallError>
where
    K: Clone + Resource + DeserializeOwned,
{
    find(api, name)
        .await?
        .ok_or_else(|| CallError::Unexpected(format!("{name} is gone")))
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// There is no kubeconfig, and this process does not run in a pod.
    #[error("cannot find the cluster: {0}; give --kubeconfig")]
    NoCluster(#[from] kube::config::InferConfigError),
    /// No client can be made.
    #[error("cannot make a client: {0}")]
    Client(#[from] kube::Error),
}

/// A client and where VMs live.
#[derive(Clone)]
pub struct Cluster {
    /// The client; its own retries are off, for ours know what may be repeated.
    pub client: Client,
    /// Namespace of VMIs and join data.
    pub vm_namespace: String,
}

impl Cluster {
    /// Reads the kubeconfig; without one, kube's own search: $KUBECONFIG, ~/.kube/config, the pod's account. No
    /// request is made yet.
    ///
    /// # Errors
    /// The kubeconfig, if any, cannot be used; see [`ConnectError`].
    pub async fn connect(kubeconfig: Option<&Path>, vm_namespace: String) -> Result<Self, ConnectError> {
        let mut config = match kubeconfig {
            Some(file) => {
                Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &KubeConfigOptions::default())
                    .await?
            }
            None => Config::infer().await?,
        };
        // kube would repeat any verb on 429, 503 and 504, POST included. We know what may be repeated.
        config.default_retry = false;
        config
            .headers
            .push((header::USER_AGENT, HeaderValue::from_static(params::USER_AGENT)));
        Ok(Self {
            client: Client::try_from(config)?,
            vm_namespace,
        })
    }

    /// Objects without a namespace.
    #[must_use]
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = ClusterResourceScope, DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    /// Objects of a namespace.
    #[must_use]
    pub fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The Nodes, to be written to; what is in them is read by way of views.
    #[must_use]
    pub fn nodes(&self) -> Api<Answer<Node>> {
        self.all()
    }

    /// The pods of a namespace, to be written to; what is in them is read by way of views.
    #[must_use]
    pub fn pods(&self, namespace: &str) -> Api<Answer<Pod>> {
        self.within(namespace)
    }

    /// The VMIs in our namespace.
    #[must_use]
    pub fn vmis(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.vm_namespace, &vmi::api_resource())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: serde_json::Value) -> CallError {
        CallError::Kube(kube::Error::Api(serde_json::from_value(body).unwrap()))
    }

    #[test]
    fn a_kind_that_is_not_served_proves_no_object_gone() {
        let gone = answer(
            serde_json::json!({"status": "Failure", "code": 404, "reason": "NotFound",
            "message": "virtualmachineinstances.kubevirt.io \"x\" not found",
            "details": {"group": "kubevirt.io", "kind": "virtualmachineinstances", "name": "x"}}),
        );
        assert!(gone.is_gone() && !gone.is_unserved());
        // What kube makes of the plain text "404 page not found".
        let unserved = answer(serde_json::json!({"status": "Failure", "code": 404,
            "reason": "Failed to parse error data", "message": "404 page not found"}));
        assert!(unserved.is_unserved() && !unserved.is_gone());
        let unserved = answer(
            serde_json::json!({"status": "Failure", "code": 404, "reason": "NotFound",
            "message": "the server could not find the requested resource", "details": {}}),
        );
        assert!(unserved.is_unserved() && !unserved.is_gone());
    }
}
