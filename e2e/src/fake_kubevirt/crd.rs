//! The VMI's API as KubeVirt serves it: the CRD's schema, and the part of virt-api's validation that CEL can express.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::json;

use crate::api::apply::apply_yaml;

const CRD: &str = include_str!("vmi-crd.yaml");
const KUBEVIRT: &str = include_str!("kubevirt.yaml");
/// The release that the fake KubeVirt reports.
const VERSION: &str = "v1.9.0";

/// Installs the VMI CRD and a KubeVirt resource, and waits until they are served. `client` must be an admin's.
pub async fn install_crd(client: &Client) -> Result<()> {
    apply_yaml(client, CRD).await.context("installing the VMI CRD")?;
    apply_yaml(client, KUBEVIRT)
        .await
        .context("installing the KubeVirt resource")?;
    say_version(client, VERSION).await
}

/// Has the KubeVirt resource report this version, as KubeVirt's operator does.
pub async fn say_version(client: &Client, version: &str) -> Result<()> {
    let kind = ApiResource {
        kind: "KubeVirt".to_owned(),
        plural: "kubevirts".to_owned(),
        ..resource()
    };
    let kubevirts = Api::<DynamicObject>::namespaced_with(client.clone(), "kubevirt", &kind);
    let status = Patch::Merge(json!({"status": {"observedKubeVirtVersion": version}}));
    kubevirts
        .patch_status("kubevirt", &PatchParams::default(), &status)
        .await
        .context("writing KubeVirt's status")?;
    Ok(())
}

/// The VMI as a resource of the API.
pub(crate) fn resource() -> ApiResource {
    ApiResource {
        group: "kubevirt.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "kubevirt.io/v1".to_owned(),
        kind: "VirtualMachineInstance".to_owned(),
        plural: "virtualmachineinstances".to_owned(),
    }
}

/// VMIs of a namespace.
pub(super) fn vmis(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource())
}

/// Pods of a namespace.
pub(super) fn pods(client: &Client, namespace: &str) -> Api<Pod> {
    Api::namespaced(client.clone(), namespace)
}
