//! KubeVirt's own accounts: each part speaks as its service account, with no more rights than KubeVirt gives it, so that
//! our guards treat it as they treat the real one.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};

use crate::api::apply::apply_yaml;
use crate::api::check::eventually;
use crate::control_plane::ControlPlane;

const ACCOUNTS: &str = include_str!("accounts.yaml");
const NAMESPACE: &str = "kubevirt";
const LIMIT: Duration = Duration::from_secs(30);

/// A client for each of KubeVirt's parts.
#[derive(Clone)]
pub(super) struct Parts {
    /// virt-api.
    pub(super) api: Client,
    /// virt-controller.
    pub(super) controller: Client,
    /// virt-handler.
    pub(super) handler: Client,
}

impl Parts {
    /// Makes accounts and roles, as virt-operator does, and a client for each account.
    pub(super) async fn install(control_plane: &ControlPlane) -> Result<Self> {
        let admin = control_plane.admin().await?;
        apply_yaml(&admin, ACCOUNTS)
            .await
            .context("making KubeVirt's accounts")?;
        let accounts: Api<ServiceAccount> = Api::namespaced(admin, NAMESPACE);
        let client = async |name: &str| {
            eventually(name, LIMIT, || async { Ok(accounts.get_opt(name).await?) }).await?;
            anyhow::Ok(control_plane.service_account(NAMESPACE, name).await?.client)
        };
        Ok(Self {
            api: client("kubevirt-apiserver").await?,
            controller: client("kubevirt-controller").await?,
            handler: client("kubevirt-handler").await?,
        })
    }
}

/// Whether this is one of KubeVirt's accounts, which alone may write a VMI's status.
pub(super) fn is_kubevirts(user: &str) -> bool {
    user.strip_prefix("system:serviceaccount:kubevirt:")
        .is_some_and(|name| {
            matches!(
                name,
                "kubevirt-apiserver" | "kubevirt-controller" | "kubevirt-handler"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kubevirts_own_accounts_are_kubevirts() {
        assert!(is_kubevirts("system:serviceaccount:kubevirt:kubevirt-handler"));
        for other in [
            "admin",
            "system:serviceaccount:kubevirt:default",
            "system:serviceaccount:other:kubevirt-handler",
            "kubevirt-handler",
        ] {
            assert!(!is_kubevirts(other), "{other}");
        }
    }
}
