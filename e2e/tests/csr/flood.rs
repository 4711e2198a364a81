//! Guests, living and dead, that file requests without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{eventually, gone};
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};

use super::{Test, request};

/// Requests that a guest files at once.
const HANDS: usize = 16;
/// As long as a flood lasts, a slower machine does not make it smaller, and one sweep may just be over.
const DRAINED: Duration = Duration::from_secs(180);

/// A guest that files one sound request without a name in it over and over.
struct Flooder {
    user: String,
    csrs: Api<CertificateSigningRequest>,
    nonsense: CertificateSigningRequest,
}

impl Flooder {
    async fn new(test: &Test, pod: &MaroonedPod) -> Self {
        let user = format!("{}{}", names::NODE_USER_PREFIX, pod.node_name());
        let guest = test
            .env
            .control_plane()
            .user(&user, names::NODES_GROUP)
            .await
            .unwrap();
        let nonsense = CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some("flood-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: request(&pod.node_name(), "").spec.request,
                signer_name: "kubernetes.io/kubelet-serving".to_owned(),
                usages: Some(vec!["digital signature".to_owned(), "server auth".to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        Self {
            user,
            csrs: Api::all(guest),
            nonsense,
        }
    }

    /// Files so many, and as long as it is let; how many were taken.
    async fn files(&self, number: usize, goes_on: &AtomicBool) -> usize {
        let params = PostParams::default();
        let filed = futures::stream::iter(0..number)
            .take_while(|_| std::future::ready(goes_on.load(Ordering::Relaxed)))
            .map(|_| self.csrs.create(&params, &self.nonsense))
            .buffer_unordered(HANDS);
        // A guard or quota that refuses some is as good.
        filed
            .filter(|filed| std::future::ready(filed.is_ok()))
            .count()
            .await
    }

    async fn left(&self, all: &Api<CertificateSigningRequest>) -> anyhow::Result<usize> {
        let filed = all.list(&ListParams::default()).await?;
        let of_guest = filed
            .iter()
            .filter(|csr| csr.spec.username.as_ref() == Some(&self.user));
        Ok(of_guest.count())
    }

    /// Waits until no more than so many are there.
    async fn leaves(&self, test: &Test, most: usize) {
        let all = Api::all(test.admin.clone());
        eventually("few requests of the guest", DRAINED, || async {
            let left = self.left(&all).await?;
            anyhow::ensure!(left <= most, "{left} are left");
            Ok(Some(()))
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_end_are_taken_away() {
    let test = Test::new().await;
    let pod = test.pod("flood", &Script::default()).await;
    pod.running().await.unwrap();
    let guest = Flooder::new(&test, &pod).await;
    assert!(guest.files(300, &AtomicBool::new(true)).await > 0);
    guest.leaves(&test, 16).await;
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_dead_guest_are_taken_away_as_they_come() {
    let test = Test::new().await;
    let pod = test.pod("dead", &Script::default()).await;
    pod.running().await.unwrap();
    let guest = Flooder::new(&test, &pod).await;
    pod.ends().await.unwrap();
    let deleted = || async {
        let metric = "maroonedpods_writes_total{kind=\"delete_csr\"}";
        test.reconciler.metric(metric).await.unwrap()
    };
    let before = deleted().await;
    let filed = guest.files(400, &AtomicBool::new(true)).await;
    guest.leaves(&test, 0).await;
    // Not by the sweep, which counts for itself; it may have come by, and takes what it finds then.
    let by_worker = deleted().await - before;
    assert!(filed == 0 || by_worker > 0.0, "{by_worker} of {filed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_end_hold_up_no_release() {
    let test = Test::new().await;
    let pod = test.pod("going", &Script::default()).await;
    pod.running().await.unwrap();
    let guest = Arc::new(Flooder::new(&test, &pod).await);
    let goes_on = Arc::new(AtomicBool::new(true));
    let flood = {
        let (guest, goes_on) = (guest.clone(), goes_on.clone());
        tokio::spawn(async move { guest.files(usize::MAX, &goes_on).await })
    };
    pod.delete().await.unwrap();
    gone(&pod.nodes(), &pod.node_name(), SOON).await.unwrap();
    gone(&pod.records(), &pod.node_name(), SOON).await.unwrap();
    pod.gone().await.unwrap();
    assert!(!flood.is_finished(), "it was to last until here");
    goes_on.store(false, Ordering::Relaxed);
    assert!(flood.await.unwrap() > 0);
    guest.leaves(&test, 0).await;
    pod.leaves_nothing().await.unwrap();
}
