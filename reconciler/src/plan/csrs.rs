//! Steps 4 and 6: decisions on the CSRs of one VM.
//!
//! A hostile guest can file them without end, also with a certificate or token of a former attempt. So a pass looks
//! into few of each requester, and further ones are deleted unread; a kubelet whose request was among them asks again.
//! Requesters do not share these places: one's requests never keep another's from being decided.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use maroonedpods_common::api::Phase;
use maroonedpods_common::names;

use super::{Context, Write};
use crate::csr::{self, Expectation, Filed, Refusal, Requester};
use crate::objects::identity;
use crate::view::ObjectRef;

/// Denials written while a record's earlier ones still exist. Past this, requests stay pending, unsigned.
const MAX_DENIALS: usize = 3;
/// Requests that stay pending though they are refused, and so many again that wait for what they ask.
/// kube-controller-manager lets each be for a day: past this they are deleted. A kubelet has one of each kind.
const MAX_IDLE: usize = 5;
/// Requests deleted in one pass; the next follows at once, for each deletion is news.
pub(super) const MAX_DELETIONS: usize = 50;

/// Decisions on what is pending, oldest request first, and what there is too much of.
pub(super) fn decide(c: &Context) -> Vec<Write> {
    sort_out(&c.observed.csrs, expectation(c), |csr, expected| {
        csr::decide(csr, Some(expected))
    })
}

/// The same by a decision that tests can count: each is a look inside, and a signature to verify.
pub(super) fn sort_out(
    csrs: &[Arc<Filed>],
    mut expected: Expectation,
    mut decide: impl FnMut(&CertificateSigningRequest, &Expectation) -> csr::Decision,
) -> Vec<Write> {
    let wholes = || csrs.iter().filter_map(|filed| Some((filed, filed.whole()?)));
    let mut denials = wholes().filter(|(_, csr)| denied(csr)).count();
    let mut pending: Vec<_> = wholes().filter(|(_, csr)| csr::is_pending(csr)).collect();
    pending.sort_by_cached_key(|(filed, csr)| {
        let created = csr.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, filed.name().to_owned())
    });
    let mut writes = Vec::new();
    let mut surplus = Vec::new();
    let mut judged: HashMap<_, usize> = HashMap::new();
    let (mut idle, mut waiting) = (0, 0);
    for (filed, csr) in pending {
        let of_requester = judged.entry(filed.requester()).or_default();
        let is_full = denials >= MAX_DENIALS && idle >= MAX_IDLE;
        if *of_requester >= csr::MOST_DECIDED || is_full && csr::is_hopeless(csr, &expected) {
            surplus.push(filed);
            continue;
        }
        *of_requester += 1;
        match decide(csr, &expected) {
            csr::Decision::Approve => {
                match csr::requester(csr) {
                    Some(Requester::Token(_)) => expected.approved_client = true,
                    _ if csr::asks_for_client(csr) => expected.approved_renewals += 1,
                    _ => expected.approved_serving += 1,
                }
                writes.extend(decision(csr, None));
            }
            csr::Decision::Refuse(refusal) if denials < MAX_DENIALS => {
                denials += 1;
                writes.extend(decision(csr, Some(refusal)));
            }
            csr::Decision::Refuse(_) if idle < MAX_IDLE => idle += 1,
            // What is refused takes no place of what only waits.
            csr::Decision::Wait if waiting < MAX_IDLE => waiting += 1,
            csr::Decision::Refuse(_) | csr::Decision::Wait => surplus.push(filed),
            csr::Decision::Ignore => {}
        }
    }
    let unread = csrs.iter().filter(|filed| filed.whole().is_none());
    let surplus = surplus.into_iter().chain(unread).map(|filed| deletion(filed));
    writes.extend(surplus.take(MAX_DELETIONS));
    writes
}

/// Deletions of these requests, as many as fit into a pass.
pub(super) fn deletions(csrs: &[Arc<Filed>]) -> impl Iterator<Item = Write> {
    csrs.iter().map(|csr| deletion(csr)).take(MAX_DELETIONS)
}

fn deletion(csr: &Filed) -> Write {
    Write::DeleteCsr(ObjectRef::without_namespace(csr.name(), csr.uid()))
}

fn expectation(c: &Context) -> Expectation {
    let token_id = identity::token_id(&c.record, c.attempt());
    let wholes = c.observed.csrs.iter().filter_map(|filed| filed.whole());
    let approved = wholes.filter(|csr| csr::is_approved(csr));
    let (for_clients, for_servers): (Vec<_>, Vec<_>) = approved.partition(|csr| csr::asks_for_client(csr));
    let by = |wanted: &Requester| {
        for_clients
            .iter()
            .filter(|csr| csr::requester(csr).as_ref() == Some(wanted))
            .count()
    };
    let node_name = names::node_name(&c.record.spec.pod_ref.uid);
    let joined = matches!(c.status.phase, Phase::Registered | Phase::Lifted);
    // Never the VMI's address: a running pod can make the VMI report any. No guest can write the record.
    let noted = c
        .status
        .address
        .as_ref()
        .filter(|_| c.status.phase == Phase::Lifted);
    let on_node = c.observed.node.as_ref().and_then(|node| node.address.as_ref());
    Expectation {
        accepts_client: c.status.phase == Phase::Launched,
        // A former attempt's request may still be there; its approval is not this attempt's.
        approved_client: by(&Requester::Token(&token_id)) > 0,
        accepts_renewal: joined && c.observed.pod.as_ref().is_some_and(|pod| !pod.terminal),
        approved_renewals: by(&Requester::Node(&node_name)),
        address: noted.or(on_node).and_then(|address| address.parse().ok()),
        approved_serving: for_servers.len(),
        node_name,
        token_id,
    }
}

fn decision(csr: &CertificateSigningRequest, deny: Option<Refusal>) -> Option<Write> {
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
