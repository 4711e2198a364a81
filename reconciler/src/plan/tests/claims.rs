//! A pod with a volume claim: what holds it back, and that it costs nothing meanwhile.

use jiff::SignedDuration;
use maroonedpods_common::api::PodReason;
use serde_json::{Value, json};

use super::model::{Outcome, World, kinds};
use super::stages::condition_reason;
use crate::placement::claims::{Behind, ClaimName, PodClaim};
use crate::plan::{self, Write};
use crate::read::view_of;

/// A world whose pod has the claim `data`, which is not there.
fn claiming() -> World {
    let mut world = World::new();
    let spec = world.objects.pod.as_mut().unwrap().spec.as_mut().unwrap();
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    spec.volumes = serde_json::from_value(volumes).unwrap();
    world.claims = vec![found(None, Behind::Nothing)];
    world
}

fn found(claim: Option<Value>, behind: Behind) -> PodClaim {
    PodClaim {
        name: ClaimName {
            name: "data".to_owned(),
            ephemeral: false,
        },
        claim: claim.map(|claim| view_of(&claim).unwrap()),
        behind,
    }
}

fn bound(volume: &Value) -> PodClaim {
    let claim = json!({"metadata": {"name": "data", "uid": "c"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
    let mut pv = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": "c"}}});
    json_patch::merge(&mut pv["spec"], volume);
    found(Some(claim), Behind::Volume(view_of(&pv)))
}

fn said(decision: &plan::Decision) -> String {
    let [Write::PodReport(report)] = decision.writes.as_slice() else {
        panic!("{:?}", decision.writes)
    };
    assert_eq!((report.ready, report.reason), (false, PodReason::Unplaceable));
    report.message.clone()
}

#[test]
fn a_pod_waits_for_its_claim_without_a_record_and_then_goes_on() {
    let mut world = claiming();
    let cached = plan::decide(&world.cached_view(&world.objects), world.clock());
    assert!(cached.writes.is_empty() && cached.needs_live_view(), "{cached:?}");
    assert!(said(&world.pass()).contains("claim data does not exist"));
    assert_eq!(condition_reason(&world), "Unplaceable");
    assert!(kinds(&world.decide()).is_empty(), "said once");
    // Another obstacle under the same reason.
    world.claims = vec![bound(&json!({"csi": {"driver": "disk.example.test"}}))];
    assert!(said(&world.pass()).contains("csi/disk.example.test"));
    assert!(world.objects.record.is_none() && world.objects.vmis.is_empty());
    let in_b = json!({"hostPath": {"path": "/d"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["b"]}]}]}}});
    world.claims = vec![bound(&in_b)];
    let decision = world.decide();
    let [Write::CreateRecord { spec, .. }] = decision.writes.as_slice() else {
        panic!("{:?}", decision.writes)
    };
    let hosts = spec.placement.affinity.as_ref().unwrap().node_affinity.as_ref();
    assert!(
        format!("{hosts:?}").contains("topology.kubernetes.io/zone"),
        "{hosts:?}"
    );
    assert_eq!(world.settle(200), Ok(Outcome::Lifted));
}

#[test]
fn a_claim_is_looked_at_again_and_less_and_less_often() {
    let mut world = claiming();
    world.pass();
    let mut looks = Vec::new();
    for _ in 0..10 {
        let decision = world.decide();
        assert!(decision.writes.is_empty(), "{:?}", decision.writes);
        let pause = decision.wake.unwrap().duration_since(world.clock());
        world.now += pause;
        looks.push(pause.as_secs());
    }
    assert_eq!(looks, [2, 2, 4, 9, 19, 38, 60, 60, 60, 60]);
    world.tick(6_000);
    let pause = world.decide().wake.unwrap().duration_since(world.clock());
    assert_eq!(pause, SignedDuration::from_mins(10));
    // By a clock that is behind the API server's.
    world.skews[world.leader] = SignedDuration::from_hours(-3);
    let pause = world.decide().wake.unwrap().duration_since(world.clock());
    assert_eq!(pause, SignedDuration::from_secs(2));
}

#[test]
fn a_pod_that_fits_no_node_has_its_claims_not_read() {
    let mut picky = claiming();
    let spec = picky.objects.pod.as_mut().unwrap().spec.as_mut().unwrap();
    spec.node_selector = Some([("gpu".to_owned(), "a100".to_owned())].into());
    let decision = plan::decide(&picky.cached_view(&picky.objects), picky.clock());
    assert!(
        said(&decision).contains("gpu=a100") && !decision.needs_live_view(),
        "{decision:?}"
    );
    assert_eq!(decision.wake, None);
}

#[test]
fn a_pod_that_waits_for_its_claim_takes_no_place_in_the_queue() {
    let mut full = claiming();
    let mut settings = (*full.settings.clone().unwrap()).clone();
    settings.spec.limits.vms_per_namespace = Some(1);
    full.settings = Some(settings.into());
    full.neighbours = 1;
    let decision = full.pass();
    assert!(said(&decision).contains("claim data") && !decision.waits_for_place);
    full.claims = vec![bound(&json!({"hostPath": {"path": "/d"}}))];
    assert!(full.decide().waits_for_place);
}
