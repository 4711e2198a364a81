//! The sweep of certificate requests, apart from the others': dead guests may file them without end, and what that takes
//! must not hold up what pods wait for.

use futures::TryStreamExt;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::ListParams;
use maroonedpods_common::api::MaroonedNode;

use super::{Known, report_unreadable};
use crate::act;
use crate::api::{CallError, Cluster};
use crate::csr::{self, Requester};
use crate::metrics::Metrics;
use crate::read::{self, Keep, Pages, View};

/// Leftovers in hand at once, by name and UID.
const BATCH: usize = 5000;
/// Deletions under way at once: what is filed by many hands is not taken away by one.
const AT_ONCE: usize = 8;

/// Who filed a request that is to be there: all that is read of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filer {
    Node(String),
    Token(String),
}

impl View for Filer {
    const KIND: &'static str = "csrs";
    const KEEP: Keep = Keep::Fields(&[
        ("metadata", Keep::Fields(&[("deletionTimestamp", Keep::Deadline)])),
        (
            "spec",
            Keep::Fields(&[("username", Keep::All), ("groups", Keep::All)]),
        ),
    ]);
    type Object = CertificateSigningRequest;

    fn read(csr: CertificateSigningRequest) -> Option<Self> {
        if !csr::is_ours(&csr) || csr.metadata.deletion_timestamp.is_some() {
            return None;
        }
        match csr::requester(&csr)? {
            Requester::Node(name) => Some(Self::Node(name.to_owned())),
            Requester::Token(id) => Some(Self::Token(id.to_owned())),
        }
    }
}

impl Known {
    /// A record stands behind the request. A request of an attempt that is known goes with its record.
    fn knows(&self, filer: &Filer) -> bool {
        match filer {
            Filer::Node(name) => self.owns_node(name),
            Filer::Token(id) => self.knows_token(id),
        }
    }
}

/// Deletes requests that no record stands behind.
///
/// # Errors
/// The first call that fails; the next sweep begins anew.
pub async fn sweep(cluster: &Cluster, metrics: &Metrics) -> Result<(), CallError> {
    let requests = cluster.all::<CertificateSigningRequest>();
    let mut pages = Pages::new(&requests, &ListParams::default());
    // Only says what is worth a closer look: what is filed for a record made after this has one all the same.
    let mut known = records(cluster).await?;
    let mut suspects = Vec::new();
    loop {
        let page = pages.next::<Filer>().await?;
        let is_last = page.is_none();
        if let Some(page) = page {
            report_unreadable(&page, metrics);
            let unknown = |(_, filer): &(_, Filer)| !known.knows(filer);
            suspects.extend(page.items.into_iter().filter(unknown));
        }
        if suspects.len() >= BATCH || is_last && !suspects.is_empty() {
            known = records(cluster).await?;
            suspects.retain(|(_, filer)| !known.knows(filer));
            delete(cluster, std::mem::take(&mut suspects), metrics).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

async fn records(cluster: &Cluster) -> Result<Known, CallError> {
    let records = cluster.all::<MaroonedNode>();
    let listed = read::list::<MaroonedNode, _>(&records, &ListParams::default()).await?;
    Ok(Known::of(&listed))
}

async fn delete(
    cluster: &Cluster,
    orphans: Vec<(read::Identity, Filer)>,
    metrics: &Metrics,
) -> Result<(), CallError> {
    if let Some((first, _)) = orphans.first() {
        let number = orphans.len();
        tracing::warn!(
            number,
            first = first.name,
            "deleting certificate requests that no record stands behind"
        );
    }
    let requests = cluster.all::<CertificateSigningRequest>();
    futures::stream::iter(orphans.into_iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, async |(orphan, _)| {
            act::delete(&requests, &orphan.name, &orphan.uid).await?;
            metrics.orphan_deleted("csr");
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::record::tests::{POD_UID, RECORD_UID, record};
    use crate::objects::{identity, record};
    use crate::read::{Listed, view_of};
    use maroonedpods_common::names;
    use serde_json::{Value, json};

    fn filed_by(user: &str, group: &str) -> Value {
        json!({"metadata": {"name": "csr"}, "spec": {"username": user, "groups": [group], "request": "YQ=="}})
    }

    #[test]
    fn requests_stay_while_their_record_is_there_or_when_they_are_strangers() {
        let known = Known::of(&Listed {
            items: vec![(read::Identity::default(), record())],
            ..Listed::default()
        });
        let nobody = Known::of(&Listed::default());
        let node = format!("{}{}", names::NODE_USER_PREFIX, names::node_name(POD_UID));
        let token = record::token_users(RECORD_UID, 1).next().unwrap();
        for (user, group) in [(node, names::NODES_GROUP), (token, names::BOOTSTRAP_GROUP)] {
            let mut filed = filed_by(&user, group);
            let filer = view_of::<Filer>(&filed).unwrap();
            assert!(known.knows(&filer) && !nobody.knows(&filer), "{user}");
            filed["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            assert_eq!(view_of::<Filer>(&filed), None, "it goes already");
        }
        let kubeadm = format!(
            "{}{}",
            names::BOOTSTRAP_USER_PREFIX,
            identity::token_id(RECORD_UID, 1)
        );
        for user in [kubeadm.as_str(), "system:node:host-1", "alice"] {
            assert_eq!(view_of::<Filer>(&filed_by(user, "others")), None, "{user}");
        }
    }
}
