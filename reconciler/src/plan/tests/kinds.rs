//! What the workers must know of a write before they make it: whether a cache is enough, what a refusal means, what it
//! may cost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use maroonedpods_common::api::PodReason;
use strum::VariantArray;

use crate::csr::Refusal;
use crate::objects::lift::{Lift, Placement};
use crate::objects::node::Place;
use crate::objects::record::tests::record;
use crate::plan::{PodReport, Write, WriteKind};
use crate::view::ObjectRef;

/// One write of each kind.
fn all() -> Vec<Write> {
    let object = || ObjectRef::without_namespace("name", "uid");
    let record = || Arc::new(record());
    let verdict = |deny| Write::DecideCsr {
        name: "csr".to_owned(),
        resource_version: "1".to_owned(),
        deny,
    };
    vec![
        Write::CreateRecord {
            spec: Box::new(record().spec.clone()),
            at_most: None,
        },
        Write::IssueCredentials {
            record: record(),
            attempt: 1,
            lifetime_seconds: 660,
        },
        Write::CreateNode {
            record: record(),
            attempt: 1,
            place: Place::default(),
        },
        Write::TryVmi {
            record: record(),
            attempt: 1,
        },
        Write::CreateVmi {
            record: record(),
            attempt: 1,
        },
        Write::RecordStatus {
            name: "name".to_owned(),
            resource_version: "1".to_owned(),
            status: Box::default(),
        },
        Write::PodReport(PodReport {
            pod: object(),
            ready: false,
            reason: PodReason::Launching,
            message: String::new(),
            transition: true,
        }),
        verdict(None),
        verdict(Some(Refusal::Malformed)),
        placement(None),
        Write::RevokeCredentials {
            record: record(),
            attempt: 1,
        },
        Write::RemoveStartupTaint {
            node: object(),
            index: 0,
        },
        Write::LiftGate(Box::new(Lift {
            pod: object(),
            resource_version: "1".to_owned(),
            gate_index: 0,
            placement: Placement::of(&Pod::default()),
            taint_key: "example.org".to_owned(),
            address: "192.0.2.7".to_owned(),
        })),
        Write::BindPod(object()),
        Write::PodNotReady(object()),
        Write::EvictPod(object()),
        Write::FailPod {
            reason: "Gone",
            pod: object(),
            message: String::new(),
        },
        Write::DeletePod(object()),
        Write::DeleteRecord(object()),
        Write::DeleteVmi(object()),
        Write::DeleteNode(object()),
        Write::StripNodeFinalizers(object()),
        Write::DeleteCsr(object()),
        Write::RemoveFinalizer {
            record: object(),
            index: 0,
        },
    ]
}

fn placement(address: Option<&str>) -> Write {
    Write::PlaceNode {
        node: ObjectRef::without_namespace("name", "uid"),
        address: address.map(str::to_owned),
        labels: BTreeMap::new(),
    }
}

/// The kinds of which `holds` is true.
fn kinds(holds: fn(&Write) -> bool) -> Vec<WriteKind> {
    let writes = all().into_iter().filter(holds);
    writes.map(|write| write.kind()).collect()
}

#[test]
fn each_write_has_its_kind() {
    let kinds: BTreeSet<String> = all().iter().map(|write| write.kind().to_string()).collect();
    let known: BTreeSet<String> = WriteKind::VARIANTS.iter().map(ToString::to_string).collect();
    assert_eq!(kinds, known);
}

/// By a cache that lags, what is destroyed, spent or lifted might be another moment's.
#[test]
fn what_cannot_be_taken_back_needs_a_live_view() {
    use WriteKind as Kind;
    assert_eq!(
        kinds(|write| !write.needs_live_view()),
        [
            Kind::CreateRecord,
            Kind::TryVmi,
            Kind::RecordStatus,
            Kind::PodReport,
            Kind::ApproveCsr,
            Kind::DenyCsr,
            Kind::PlaceNode,
            Kind::RevokeCredentials,
            Kind::BindPod,
            Kind::PodNotReady,
        ],
        "each has a precondition of its own, or does no harm twice"
    );
    assert!(placement(Some("192.0.2.7")).needs_live_view());
}

#[test]
fn starts_and_what_else_is_spent_are_told_apart() {
    use WriteKind as Kind;
    let starts = [
        Kind::CreateRecord,
        Kind::IssueCredentials,
        Kind::TryVmi,
        Kind::CreateVmi,
    ];
    assert_eq!(kinds(Write::starts), starts);
    let mut spent = kinds(Write::spends);
    spent.retain(|kind| *kind != Kind::CreateNode);
    assert_eq!(spent, starts);
    let node = all().into_iter().find(|write| write.kind() == Kind::CreateNode);
    assert!(node.is_some_and(|write| write.spends() && !write.starts()));
}

#[test]
fn what_a_running_vm_waits_for_and_what_others_can_provoke() {
    use WriteKind as Kind;
    assert_eq!(
        kinds(Write::leads_to_lift),
        [
            Kind::CreateNode,
            Kind::RevokeCredentials,
            Kind::RemoveStartupTaint,
            Kind::LiftGate,
            Kind::BindPod,
        ]
    );
    assert_eq!(
        kinds(Write::can_be_provoked),
        [Kind::PodReport, Kind::PlaceNode, Kind::PodNotReady],
        "conditions, and a Node's labels and address"
    );
}
