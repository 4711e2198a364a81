//! The sweep of certificate requests, a task of its own: dead guests may file them without end, and the time that their
//! deletion takes must not delay what pods wait for.

use futures::TryStreamExt;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::ListParams;
use maroonedpods_common::api::MaroonedNode;

use super::index::RecordIndex;
use super::report_unreadable;
use crate::act;
use crate::api::{CallError, Cluster};
use crate::csr::{self, Requester};
use crate::metrics::{Leftover, Metrics};
use crate::read::{self, Keep, Kind, Pages, View};

/// Leftovers kept in memory at once, by name and UID.
const BATCH: usize = 5000;
/// Deletions under way at once: many requesters file requests faster than one deletion after another removes them.
const AT_ONCE: usize = 8;

/// Who filed a request that is not being deleted: all that the sweep reads of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filer {
    Node(String),
    Token(String),
}

impl View for Filer {
    const KIND: Kind = Kind::Csrs;
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

impl RecordIndex {
    /// Whether the request belongs to a record. Requests of a known attempt are deleted with the record.
    fn knows(&self, filer: &Filer) -> bool {
        match filer {
            Filer::Node(name) => self.owns_node(name),
            Filer::Token(id) => self.knows_token(id),
        }
    }
}

/// Deletes requests without a record.
///
/// # Errors
/// The first call that fails; the next sweep starts from the beginning.
pub async fn sweep(cluster: &Cluster, metrics: &Metrics) -> Result<(), CallError> {
    let requests = cluster.all::<CertificateSigningRequest>();
    let mut pages = Pages::new(&requests, &ListParams::default());
    // Only selects suspects: a request may belong to a record that was created after this list.
    let mut index = records(cluster).await?;
    let mut suspects = Vec::new();
    loop {
        let page = pages.next::<Filer>().await?;
        let is_last = page.is_none();
        if let Some(page) = page {
            report_unreadable(&page, metrics);
            let unknown = |(_, filer): &(_, Filer)| !index.knows(filer);
            suspects.extend(page.items.into_iter().filter(unknown));
        }
        if suspects.len() >= BATCH || is_last && !suspects.is_empty() {
            index = records(cluster).await?;
            suspects.retain(|(_, filer)| !index.knows(filer));
            delete(cluster, std::mem::take(&mut suspects), metrics).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

async fn records(cluster: &Cluster) -> Result<RecordIndex, CallError> {
    let records = cluster.all::<MaroonedNode>();
    let listed = read::list::<MaroonedNode, _>(&records, &ListParams::default()).await?;
    Ok(RecordIndex::of(&listed))
}

async fn delete(
    cluster: &Cluster,
    leftovers: Vec<(read::Identity, Filer)>,
    metrics: &Metrics,
) -> Result<(), CallError> {
    if let Some((first, _)) = leftovers.first() {
        let number = leftovers.len();
        tracing::warn!(
            number,
            first = first.name,
            "deleting certificate requests without a record"
        );
    }
    let requests = cluster.all::<CertificateSigningRequest>();
    futures::stream::iter(leftovers.into_iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, async |(leftover, _)| {
            act::delete(&requests, &leftover.name, &leftover.uid).await?;
            metrics.orphan_deleted(Leftover::Csr);
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::record::tests::{POD_UID, record};
    use crate::objects::{identity, record};
    use crate::read::{Listed, view_of};
    use maroonedpods_common::names;
    use serde_json::{Value, json};

    fn filed_by(user: &str, group: &str) -> Value {
        json!({"metadata": {"name": "csr"}, "spec": {"username": user, "groups": [group], "request": "YQ=="}})
    }

    #[test]
    fn requests_with_a_record_and_requests_of_strangers_stay() {
        let index = RecordIndex::of(&Listed {
            items: vec![(read::Identity::default(), record())],
            ..Listed::default()
        });
        let empty = RecordIndex::of(&Listed::default());
        let node = format!("{}{}", names::NODE_USER_PREFIX, names::node_name(&POD_UID.into()));
        let token = record::token_users(&record(), 1).next().unwrap();
        for (user, group) in [(node, names::NODES_GROUP), (token, names::BOOTSTRAP_GROUP)] {
            let mut filed = filed_by(&user, group);
            let filer = view_of::<Filer>(&filed).unwrap();
            assert!(index.knows(&filer) && !empty.knows(&filer), "{user}");
            filed["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            assert_eq!(view_of::<Filer>(&filed), None, "its deletion is under way");
        }
        let kubeadm = format!(
            "{}{}",
            names::BOOTSTRAP_USER_PREFIX,
            identity::token_id(&record(), 1)
        );
        for user in [kubeadm.as_str(), "system:node:host-1", "alice"] {
            assert_eq!(view_of::<Filer>(&filed_by(user, "others")), None, "{user}");
        }
    }
}
