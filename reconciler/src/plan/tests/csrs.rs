//! Floods of certificate requests: what a pass does about them, and what it costs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use maroonedpods_common::api::Phase;
use maroonedpods_common::names;
use proptest::prelude::*;

use super::model::{CsrKind, Outcome, POD_UID, World, kinds};
use super::stages::{launched, step_until, until};
use crate::csr::tests::expectation;
use crate::csr::{self, Expectation, Filed};
use crate::objects::identity;
use crate::plan::csrs::sort_out;
use crate::plan::{Decision, Write};
use crate::read::View as _;
use crate::view::ObjectRef;

/// On how many requests a pass decides, and how many it deletes, by `docs/architecture.md`.
const DECIDED: usize = 30;
const DELETED: usize = 50;

/// A request as the API server stores it, `age` seconds old.
fn filed(kind: CsrKind, token: &str, name: &str, age: i64) -> CertificateSigningRequest {
    let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut csr = kind.request(token);
    csr.metadata = ObjectMeta {
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some("1".to_owned()),
        creation_timestamp: Some(Time(now - SignedDuration::from_secs(age))),
        ..ObjectMeta::default()
    };
    csr
}

fn flood(world: &mut World, kind: CsrKind, token: &str, number: usize) {
    for n in 0..number {
        let name = format!("{kind:?}-{token}-{n}");
        let csr = filed(kind, token, &name, 1000);
        world.objects.csrs.insert(name, csr);
    }
}

fn count(decision: &Decision, kind: &str) -> usize {
    kinds(decision).iter().filter(|k| **k == kind).count()
}

/// The VM runs, its Node exists, and no request was filed yet.
fn waits_for_guest() -> World {
    let mut world = launched();
    world.vm_is_scheduled();
    world.vm_runs();
    world.pass();
    assert!(world.node().is_some());
    world
}

#[test]
fn a_flood_of_requests_is_denied_left_or_deleted() {
    let mut world = waits_for_guest();
    let token = world.token_id();
    flood(&mut world, CsrKind::OtherNode, &token, 29);
    assert!(world.guest_requests(CsrKind::Client));
    let decision = world.pass();
    let verdicts = ["approve_csr", "deny_csr", "delete_csr"].map(|kind| count(&decision, kind));
    assert_eq!(
        verdicts,
        [1, 3, 29 - 3 - 5],
        "the one that is expected is approved all the same"
    );
    assert!(
        !kinds(&world.pass()).iter().any(|kind| kind.ends_with("_csr")),
        "what is left is let be"
    );
}

#[test]
fn floods_of_former_attempts_do_not_delay_this_one() {
    let mut world = waits_for_guest();
    let record = world.objects.record.as_mut().unwrap();
    record.status.as_mut().unwrap().attempts = 3;
    let former = identity::token_id(&world.record(), 2);
    let mut vmi = world.objects.vmis.values().next().unwrap().clone();
    vmi.metadata.name = Some(names::vmi_name(&POD_UID.into(), 3));
    world
        .objects
        .vmis
        .insert(names::vmi_name(&POD_UID.into(), 3), vmi);
    flood(&mut world, CsrKind::OtherNode, &former, 500);
    flood(&mut world, CsrKind::Client, &former, 500);
    flood(&mut world, CsrKind::Renewal, "", 500);
    let token = world.token_id();
    let own = filed(CsrKind::Client, &token, "own", 0);
    world.objects.csrs.insert("own".to_owned(), own);
    let decision = world.decide();
    let approved =
        |write: &Write| matches!(write, Write::DecideCsr { name, deny: None, .. } if name == "own");
    assert!(decision.writes.iter().any(approved), "{:?}", kinds(&decision));
    assert_eq!(count(&decision, "delete_csr"), DELETED);
}

#[test]
fn a_flood_does_not_delay_a_release() {
    let mut world = until(|w| w.pod().is_some_and(|pod| pod.lifted()));
    world.vm_ends();
    world.pass();
    world.deleted_vms_vanish();
    flood(&mut world, CsrKind::Serving, "", 10_000);
    let decision = world.pass();
    let at = |kind| kinds(&decision).iter().position(|k| *k == kind);
    assert!(at("delete_node").unwrap() < at("delete_csr").unwrap());
    assert_eq!(count(&decision, "delete_csr"), DELETED);
    let decision = world.pass();
    assert_eq!(kinds(&decision)[0], "remove_finalizer");
    assert_eq!(count(&decision, "delete_csr"), DELETED);
    assert!(world.objects.record.is_none());
}

#[test]
fn requests_of_a_gone_vms_guest_are_deleted_as_they_arrive() {
    let mut world = until(|w| w.pod().is_some_and(|pod| pod.lifted()));
    world.pod_is_deleted();
    assert_eq!(world.settle(50), Ok(Outcome::Gone));
    assert!(world.decide().done);
    flood(&mut world, CsrKind::Renewal, "", 120);
    let mut left = 120;
    while left > 0 {
        let decision = world.pass();
        assert!(decision.needs_live_view(), "its record may be new");
        assert_eq!(count(&decision, "delete_csr"), left.min(DELETED));
        left = left.saturating_sub(DELETED);
        assert_eq!(decision.done, left == 0);
    }
    assert!(world.objects.csrs.is_empty() && world.decide().writes.is_empty());
}

#[test]
fn requests_filed_in_a_long_pause_are_deleted_as_they_arrive() {
    let mut world = launched();
    world
        .objects
        .record
        .as_mut()
        .unwrap()
        .status
        .as_mut()
        .unwrap()
        .attempts = 3;
    let failed = |w: &World| w.status().phase == Phase::Failed;
    step_until(&mut world, failed, |w| {
        w.vm_ends();
        w.pass();
        w.deleted_vms_vanish();
    });
    world.pass();
    flood(&mut world, CsrKind::Renewal, "", 20);
    let decision = world.pass();
    assert_eq!(count(&decision, "delete_csr"), 20);
    assert!(world.objects.csrs.is_empty() && world.decide().wake.is_some());
}

/// The token of [`expectation`].
const TOKEN: &str = "abcdef";
const FORMER: &str = "fedcba";

/// Kinds of requests, each with the token that files it.
const KINDS: [(CsrKind, &str); 6] = [
    (CsrKind::Client, TOKEN),
    (CsrKind::OtherNode, TOKEN),
    (CsrKind::Client, FORMER),
    (CsrKind::OtherNode, FORMER),
    (CsrKind::Serving, ""),
    (CsrKind::Renewal, ""),
];

#[derive(Clone, Copy, Debug)]
struct FiledRequest {
    kind: usize,
    age: i64,
    brief: bool,
}

fn filed_requests() -> impl Strategy<Value = Vec<FiledRequest>> {
    let one = (0..KINDS.len(), 0_i64..1000, prop::bool::weighted(0.2));
    prop::collection::vec(
        one.prop_map(|(kind, age, brief)| FiledRequest { kind, age, brief }),
        0..250,
    )
}

fn expectations() -> impl Strategy<Value = Expectation> {
    (any::<[bool; 4]>(), 0..=csr::MAX_SERVING, 0..=csr::MAX_RENEWALS).prop_map(
        |([accepts_client, approved_client, accepts_renewal, placed], serving, renewals)| Expectation {
            accepts_client,
            approved_client,
            accepts_renewal,
            address: expectation().address.filter(|_| placed),
            approved_serving: serving,
            approved_renewals: renewals,
            ..expectation()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However many requests there are: a pass parses only a few of each requester and makes at most one write for
    /// each request. The oldest sound request among the parsed filed_requests of each requester is approved, whatever others
    /// file.
    #[test]
    fn a_pass_is_bounded_and_approves_sound_requests(filed_requests in filed_requests(), expected in expectations()) {
        let mut csrs = Vec::new();
        let mut kept_whole = BTreeMap::new();
        for (n, one) in filed_requests.iter().enumerate() {
            let (kind, token) = KINDS[one.kind];
            let csr = filed(kind, token, &format!("csr-{n}"), one.age);
            let whole = Filed::read(csr.clone()).unwrap();
            csrs.push(Arc::new(if one.brief { whole.in_brief() } else { whole }));
            if !one.brief {
                let of_user: &mut Vec<_> = kept_whole.entry(csr.spec.username.clone()).or_default();
                of_user.push(csr);
            }
        }
        let mut judged: BTreeMap<_, usize> = BTreeMap::new();
        let writes = sort_out(&csrs, expected.clone(), |csr, expected| {
            *judged.entry(csr.spec.username.clone()).or_default() += 1;
            csr::decide(csr, Some(expected))
        });
        prop_assert!(judged.values().all(|number| *number <= DECIDED), "{:?}", judged);
        let named: BTreeSet<_> = writes.iter().map(|write| match write {
            Write::DecideCsr { name, .. } | Write::DeleteCsr(ObjectRef { name, .. }) => name.clone(),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(named.len(), writes.len());
        let deleted = writes.iter().filter(|w| matches!(w, Write::DeleteCsr(_))).count();
        prop_assert!(deleted <= DELETED);
        for of_user in kept_whole.values_mut() {
            of_user.sort_by_key(|csr| (csr.metadata.creation_timestamp.clone().map(|t| t.0), csr.metadata.name.clone()));
            let sound = of_user.iter().take(DECIDED).find(|csr| csr::decide(csr, Some(&expected)) == csr::Decision::Approve);
            let approved = |name: &Option<String>| writes.iter().any(|write| {
                matches!(write, Write::DecideCsr { name: n, deny: None, .. } if Some(n) == name.as_ref())
            });
            prop_assert!(sound.is_none_or(|csr| approved(&csr.metadata.name)), "{:?}", sound);
        }
    }

    /// A request that is not worth parsing would be neither approved nor left to wait after parsing.
    #[test]
    fn a_hopeless_request_is_refused_after_parsing(kind in 0..KINDS.len(), expected in expectations()) {
        let (kind, token) = KINDS[kind];
        let csr = filed(kind, token, "csr", 0);
        let refused = matches!(csr::decide(&csr, Some(&expected)), csr::Decision::Refuse(_));
        prop_assert!(refused || !csr::is_hopeless(&csr, &expected));
    }
}

#[test]
fn hopeless_requests_are_not_parsed_once_enough_are_refused() {
    let late = Expectation {
        accepts_client: false,
        ..expectation()
    };
    let csr = |n: usize| Filed::read(filed(CsrKind::Client, TOKEN, &format!("csr-{n}"), 0)).unwrap();
    let csrs: Vec<_> = (0..DECIDED).map(|n| Arc::new(csr(n))).collect();
    let mut looks = 0;
    let writes = sort_out(&csrs, late, |csr, expected| {
        looks += 1;
        csr::decide(csr, Some(expected))
    });
    assert_eq!((looks, writes.len()), (3 + 5, 25));
}

/// The verdicts on `number` requests of a kind, all as `expected` has it: how many are approved, denied and deleted.
fn verdicts(kind: CsrKind, token: &str, number: usize, expected: Expectation) -> [usize; 3] {
    let csr = |n: usize| Filed::read(filed(kind, token, &format!("csr-{n}"), 0)).unwrap();
    let csrs: Vec<_> = (0..number).map(|n| Arc::new(csr(n))).collect();
    let writes = sort_out(&csrs, expected, |csr, expected| csr::decide(csr, Some(expected)));
    let count = |holds: fn(&Write) -> bool| writes.iter().filter(|write| holds(write)).count();
    [
        count(|write| matches!(write, Write::DecideCsr { deny: None, .. })),
        count(|write| matches!(write, Write::DecideCsr { deny: Some(_), .. })),
        count(|write| matches!(write, Write::DeleteCsr(_))),
    ]
}

#[test]
fn approvals_of_one_pass_count_for_its_later_requests() {
    assert_eq!(verdicts(CsrKind::Client, TOKEN, 3, expectation()), [1, 2, 0]);
    let last_renewal = Expectation {
        approved_renewals: csr::MAX_RENEWALS - 1,
        ..expectation()
    };
    assert_eq!(verdicts(CsrKind::Renewal, "", 3, last_renewal), [1, 2, 0]);
    let last_serving = Expectation {
        approved_serving: csr::MAX_SERVING - 1,
        ..expectation()
    };
    assert_eq!(verdicts(CsrKind::Serving, "", 3, last_serving), [1, 2, 0]);
}

/// Three are denied, five stay pending, and the same number again if they only wait.
#[test]
fn what_is_left_is_bounded_by_kind() {
    for (number, deleted) in [(7, 0), (8, 0), (9, 1), (30, 22)] {
        let refused = verdicts(CsrKind::OtherNode, TOKEN, number, expectation());
        assert_eq!(refused, [0, 3, deleted], "{number} refused");
    }
    for (number, deleted) in [(4, 0), (5, 0), (6, 1), (30, 25)] {
        let unplaced = Expectation {
            address: None,
            ..expectation()
        };
        let waiting = verdicts(CsrKind::Serving, "", number, unplaced);
        assert_eq!(waiting, [0, 0, deleted], "{number} waiting");
    }
    // Of one requester, thirty are looked at.
    assert_eq!(
        verdicts(CsrKind::Renewal, "", 31, expectation())[2],
        31 - 20 - 3 - 5
    );
}
