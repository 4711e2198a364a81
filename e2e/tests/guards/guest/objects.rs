//! What a kubelet keeps beside its Node.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::storage::v1::CSINode;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use maroonedpods_e2e::fake_kubevirt::Ask;
use maroonedpods_e2e::harness::test_env::TestEnv;
use rcgen::KeyPair;
use serde_json::json;

use super::breached::{Guest, host};
use crate::fixtures::{dry_run, from};
use crate::table::Table;

const LEASES: &str = "kube-node-lease";

pub async fn marks_what_is_its_own(table: &mut Table, env: &TestEnv, guest: &Guest) {
    let node = guest.node();
    let leases = guest.api_in::<Lease>(LEASES);
    let csi_nodes: Api<CSINode> = Api::all(guest.client.clone());
    let params = PatchParams::default();
    let renews = || json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    let stays = || json!({"metadata": {"finalizers": ["example.com/stay"]}});
    let owned = json!({"apiVersion": "v1", "kind": "Node", "name": "host-1", "uid": "u"});
    for (attempt, body) in [
        ("keep its Lease by a finalizer", stays()),
        (
            "label its Lease",
            json!({"metadata": {"labels": {"example.com/colour": "blue"}}}),
        ),
        (
            "give its Lease another owner",
            json!({"metadata": {"ownerReferences": [owned]}}),
        ),
    ] {
        let (attack, twin) = (Patch::Merge(body), Patch::Merge(renews()));
        table
            .refuses(
                attempt,
                "has no other owner than its Node, and no finalizers",
                leases.patch(&node, &params, &attack),
                leases.patch(&node, &params, &twin),
            )
            .await;
    }

    // A kubelet writes this annotation.
    let migrates =
        || json!({"metadata": {"annotations": {"storage.alpha.kubernetes.io/migrated-plugins": "a"}}});
    let driver = json!({"name": "csi.example.com", "nodeID": node, "topologyKeys": ["example.com/zone"]});
    for (attempt, says, body) in [
        (
            "keep its CSINode by a finalizer",
            "has no other owner than its Node, and no finalizers",
            stays(),
        ),
        (
            "have a driver of volumes",
            "a marooned node has no CSI drivers",
            json!({"spec": {"drivers": [driver]}}),
        ),
    ] {
        let (attack, twin) = (Patch::Merge(body), Patch::Merge(migrates()));
        table
            .refuses(
                attempt,
                says,
                csi_nodes.patch(&node, &params, &attack),
                csi_nodes.patch(&node, &params, &twin),
            )
            .await;
    }

    let csrs: Api<CertificateSigningRequest> = Api::all(guest.client.clone());
    let plain = Ask::serving(&node, vec![node.clone()])
        .request(&KeyPair::generate().unwrap())
        .unwrap();
    let mut kept = plain.clone();
    kept.metadata.finalizers = Some(vec!["example.com/stay".to_owned()]);
    table
        .refuses(
            "keep a certificate request by a finalizer",
            "carry no finalizers",
            csrs.create(&dry_run(), &kept),
            csrs.create(&dry_run(), &plain),
        )
        .await;

    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("resource.k8s.io", "v1", "ResourceSlice"));
    let slices = |client: &Client| Api::<DynamicObject>::all_with(client.clone(), &kind);
    let (own, hosts) = (slices(&guest.client), slices(&host(env, "host-1").await));
    table
        .refuses(
            "offer devices",
            "a marooned node has no devices to offer",
            own.create(&dry_run(), &slice(&node)),
            hosts.create(&dry_run(), &slice("host-1")),
        )
        .await;
}

fn slice(node: &str) -> DynamicObject {
    from(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
        "metadata": {"name": format!("slice-{node}")},
        "spec": {"driver": "gpu.example.com", "nodeName": node, "devices": [{"name": "gpu-0"}],
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}},
    }))
}
