//! Steps 4 and 6: verdicts on the CSRs of one VM.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use maroonedpods_common::api::Phase;
use maroonedpods_common::names;

use super::{Context, Write};
use crate::csr::{self, Expectation, Requester, Verdict};
use crate::identity;

/// Denials written while a record's earlier ones still exist. Past this, requests stay pending, unsigned.
const MAX_DENIALS: usize = 3;
/// Requests that stay pending. A hostile guest can file them without end, and kube-controller-manager lets each be for
/// a day: past this they are deleted. A kubelet has one of each kind.
const MAX_IDLE: usize = 5;
/// Requests deleted in one pass; the next follows at once, for each deletion is news.
const MAX_DELETIONS: usize = 50;

/// Verdicts on what is pending, oldest request first, and what there is too much of.
pub(super) fn decide(c: &Context) -> Vec<Write> {
    let mut expected = expectation(c);
    let mut denials = c.view.csrs.iter().filter(|csr| denied(csr)).count();
    let mut pending: Vec<_> = c.view.csrs.iter().filter(|csr| csr::is_pending(csr)).collect();
    pending.sort_by_key(|csr| {
        (
            csr.metadata.creation_timestamp.clone().map(|t| t.0),
            csr.metadata.name.clone(),
        )
    });
    let mut writes = Vec::new();
    let mut surplus = Vec::new();
    let mut idle = 0;
    for csr in pending {
        match csr::verdict(csr, Some(&expected)) {
            Verdict::Approve => {
                match csr::requester(csr) {
                    Some(Requester::Token(_)) => expected.approved_client = true,
                    _ if csr::asks_for_client(csr) => expected.approved_renewals += 1,
                    _ => expected.approved_serving += 1,
                }
                writes.extend(decision(csr, None));
            }
            Verdict::Refuse(refusal) if denials < MAX_DENIALS => {
                denials += 1;
                writes.extend(decision(
                    csr,
                    Some((refusal.as_str(), refusal.message().to_owned())),
                ));
            }
            Verdict::Refuse(_) | Verdict::Wait if idle < MAX_IDLE => idle += 1,
            Verdict::Refuse(_) | Verdict::Wait => surplus.extend(deletion(csr)),
            Verdict::Ignore => {}
        }
    }
    writes.extend(surplus.into_iter().take(MAX_DELETIONS));
    writes
}

fn deletion(csr: &CertificateSigningRequest) -> Option<Write> {
    Some(Write::DeleteCsr {
        name: csr.metadata.name.clone()?,
        uid: csr.metadata.uid.clone()?,
    })
}

fn expectation(c: &Context) -> Expectation {
    let token_id = identity::token_id(c.record_uid(), c.attempt());
    let approved = c.view.csrs.iter().filter(|csr| csr::is_approved(csr));
    let (for_clients, for_servers): (Vec<_>, Vec<_>) = approved.partition(|csr| csr::asks_for_client(csr));
    let by = |wanted: &Requester| {
        for_clients
            .iter()
            .filter(|csr| csr::requester(csr).as_ref() == Some(wanted))
            .count()
    };
    let node_name = names::node_name(&c.record.spec.pod_ref.uid);
    let joined = matches!(c.status.phase, Phase::Registered | Phase::Lifted);
    // Never what the VMI says: a pod that runs can have it say anything. And the record is no guest's to write.
    let noted = c
        .status
        .address
        .as_ref()
        .filter(|_| c.status.phase == Phase::Lifted);
    let on_node = c.view.node.as_ref().and_then(|node| node.address.as_ref());
    Expectation {
        accepts_client: c.status.phase == Phase::Launched,
        // A former attempt's request may still be there; its approval says nothing of this one.
        approved_client: by(&Requester::Token(&token_id)) > 0,
        accepts_renewal: joined && c.view.pod.as_ref().is_some_and(|pod| !pod.terminal),
        approved_renewals: by(&Requester::Node(&node_name)),
        address: noted.or(on_node).and_then(|address| address.parse().ok()),
        approved_serving: for_servers.len(),
        node_name,
        token_id,
    }
}

fn decision(csr: &CertificateSigningRequest, deny: Option<(&'static str, String)>) -> Option<Write> {
    Some(Write::DecideCsr {
        name: csr.metadata.name.clone()?,
        resource_version: csr.metadata.resource_version.clone()?,
        deny,
    })
}

fn denied(csr: &CertificateSigningRequest) -> bool {
    csr.status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == "Denied")
}
